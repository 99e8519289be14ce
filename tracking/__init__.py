"""Visual tracking: DiMP, data sets and evaluation that reproduces every published protocol."""

from lwdna.shadowing import check_packages

check_packages()  # before anything of core is imported
