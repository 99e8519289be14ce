"""Stored results scored by each benchmark's rules, compared, drawn and exported."""

from tracking.evaluation.evaluation import evaluate

__all__ = ["evaluate"]
