"""Visual tracking: DiMP, data sets and evaluation that reproduces every published protocol."""

from lwdna.libraries import check_opencv
from lwdna.shadowing import check_packages

check_packages()  # before anything of core is imported
check_opencv()
