"""Whole experiments: what is compared, where results are kept, what is reported."""
