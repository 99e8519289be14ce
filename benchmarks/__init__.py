"""Programs behind every speed and accuracy figure that the docs quote."""
