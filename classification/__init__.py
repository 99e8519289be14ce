"""Image classification: networks, data, protocols and `python -m classification.run`."""

from lwdna.libraries import check_opencv
from lwdna.shadowing import check_packages

check_packages()  # before anything of core is imported
check_opencv()
