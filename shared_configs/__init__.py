"""Protocols (mmengine configs) and published or found widths."""
