"""The method: score channels, search under a budget, give the widths."""
