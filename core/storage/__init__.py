"""Files that are written whole or not at all, checkpoints without code, caches of decoded data."""
