"""Found widths in the runners that people train with already: one module for each of mmengine, BasicSR and timm.

Importing a module registers what it has there; nothing else of LW-DNA imports them. Page: docs/runners.md.
"""
