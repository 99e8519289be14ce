"""Trained networks in the forms that other programs read, each checked against the module that it comes from."""
