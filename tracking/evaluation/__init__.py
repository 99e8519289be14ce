"""Scores stored results by each benchmark's rules, compares, draws and exports them."""

from tracking.evaluation.evaluation import evaluate

__all__ = ["evaluate"]
