"""Found widths in other projects' runners: one module for each of mmengine, BasicSR and timm.

Importing a module registers its classes with that project; nothing else of LW-DNA imports them. Page: docs/runners.md.
"""
