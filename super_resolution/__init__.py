"""Single-image super-resolution: networks, data, metrics and `python -m super_resolution.run`."""

from lwdna.libraries import check_opencv
from lwdna.shadowing import check_packages

check_packages()  # before anything of core is imported
check_opencv()
