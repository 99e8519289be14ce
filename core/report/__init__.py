"""How results look: one style for all pictures, and report.html, both from plain data."""
