"""Boxes, and the files and archives that hold them."""
