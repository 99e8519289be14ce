"""Every way of finding widths under one name."""
