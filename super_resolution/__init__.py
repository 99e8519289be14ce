"""Single-image super-resolution: networks, data, metrics and `python -m super_resolution.run`."""

from lwdna.shadowing import check_packages

check_packages()  # before anything of core is imported
