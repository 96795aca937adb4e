"""Keeps two things out of fairseq2's log: stack traces of the user's mistakes, and secrets."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from functools import partial

from fairseq2.logging import log
from fairseq2.recipe.error import RecipeConfigParseError

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIAL", re.IGNORECASE)


Explain = Callable[[BaseException], str | None]


def install_log_filter(parse_error: Explain, config_error: Explain) -> None:
    """
    :param parse_error: gives the line for a configuration that cannot be read.
    :param config_error: gives the line for a configuration with wrong values; None for any other error.
    """
    log.logger.addFilter(partial(_filter, parse_error, config_error))


def _filter(parse_error: Explain, config_error: Explain, record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], RecipeConfigParseError):
        record.msg, record.args, record.exc_info = f"config: {parse_error(record.exc_info[1])}", None, None
    # fairseq2 reports these errors from within its handlers, as plain text.
    elif record.levelno >= logging.ERROR and (line := config_error(sys.exc_info()[1] or Exception())) is not None:
        record.msg, record.args, record.exc_info = line, None, None
    # fairseq2 logs every environment variable in clear, even HF_TOKEN.
    elif "Environment Variables" in str(record.msg):
        text = record.getMessage()
        for name, value in os.environ.items():
            if value and _SECRET.search(name):
                text = text.replace(f"{name}={value}", f"{name}=***")
        record.msg, record.args = text, None
    return True
