"""The exceptions that a user reads as one line; every other one means that our program failed."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: a file, an argument, a configuration key.

    The message is one line that names the file, row, column or key, what was found and what was expected. Commands
    print it without a traceback and exit with status 2; every other exception is a failure of ours, with status 1.
    """


class ClipError(UserError):
    """A clip that cannot be used; the others of its batch can."""


class ServiceError(Exception):
    """A program that works for us does not answer, or fails: no mistake in the input, and none of ours.

    Commands print the message, which is one line, without a traceback and exit with status 1.
    """
