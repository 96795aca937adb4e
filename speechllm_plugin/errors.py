"""The one exception that means "the input is wrong", as opposed to "the program failed"."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: a file, an argument, a configuration key.

    The message is one line that names the file, row, column or key, what was found and what was expected. Commands
    print it without a traceback and exit with status 2; every other exception is a failure of ours, with status 1.
    """
