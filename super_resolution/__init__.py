"""Single-image super-resolution: networks, data, metrics and `python -m super_resolution.run`."""
