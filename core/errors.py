"""The two kinds of error that are the user's to repair; command lines print them as one line and exit with 2."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong usage or bad input. The message is one line: what, where, what is allowed, what to do."""


class MissingData(UserError, FileNotFoundError):
    """A data set or file that is not there. The message says what, where it belongs and where to get it."""
