"""Turns each mistake of the user that fairseq2 reports as a failure into one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import fields

from fairseq2.assets import AssetCardError
from fairseq2.logging import log
from fairseq2.model_checkpoint import CorruptModelCheckpointError
from fairseq2.models import ModelArchitectureNotKnownError
from fairseq2.models.utils.checkpoint import ModelCheckpointMismatchError
from fairseq2.recipe.base import RecipeContext

from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig, unknown_arch
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.preflight import Outline, also_checking

_MODEL_KEYS = {field.name for field in fields(SpeechLlmConfig)}


def report_user_error(ex: Exception) -> int:
    log.error("{}", ex)
    if (rank := os.environ.get("RANK", "0")) != "0":
        # fairseq2 shows only the first process's log, but the mistake may be in this process alone.
        print(f"process {rank}: error: {ex}", file=sys.stderr, flush=True)
    return 2


def get_model(context: RecipeContext, check: Callable[[Outline], None]) -> SpeechLlm:
    """The model of the configuration.

    :param check: a further check of the model, called before its weights are read.
    :raises UserError: there is no such architecture, or the checkpoint is damaged or has another architecture.
    """
    try:
        with also_checking(check):
            return context.get_model_as(SpeechLlm)
    except UserError as error:
        # Errors of parts name keys relative to the model's configuration.
        if re.split(r"\W", str(error), maxsplit=1)[0] in _MODEL_KEYS:
            raise UserError(f"model.config_overrides.{error}") from error
        raise
    except ModelArchitectureNotKnownError as error:
        raise unknown_arch(error.arch, "model.arch") from error
    except AssetCardError as error:
        if isinstance(error.__cause__, CorruptModelCheckpointError):
            raise UserError(f"checkpoint: {_describe(error.__cause__)}") from error
        raise


def _describe(error: CorruptModelCheckpointError) -> str:
    if isinstance(error.__cause__, ModelCheckpointMismatchError):
        return f"{error.path} does not fit its model.yaml: {' '.join(str(error.__cause__).split())}"
    return f"found damaged files in {error.path}, expected those that a training run has written"
