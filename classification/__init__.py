"""Image classification: networks, data, protocols and `python -m classification.run`."""
