"""The programs behind every speed and accuracy figure in the docs."""

from lwdna.libraries import check_opencv

check_opencv()
