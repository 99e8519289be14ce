"""Programs behind every speed and accuracy figure that the docs quote."""

from lwdna.libraries import check_opencv

check_opencv()
