"""Loads trained systems."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.vllm.server import VllmServer
from speechllm_plugin.log import log
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig, part_dtypes
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.saved_system import SavedSystem
from speechllm_plugin.models.speech_llm.servable import check_servable
from speechllm_plugin.models.speech_llm.shards import put_weights
from speechllm_plugin.tensors.precision import MachinePrecision, machine_precision


def decoding_dtypes(trained: Mapping[str, str], machine: MachinePrecision) -> dict[str, str]:
    """The precision of decoding on a machine, for the parts for which it is not the precision of training.

    :param trained: the precision of each part in training.
    """
    here = {part: machine.decode_in(dtype) for part, dtype in trained.items()}
    return {part: dtype for part, dtype in here.items() if dtype != trained[part]}


def load_model(
    saved: SavedSystem,
    *,
    device: str | None = None,
    overrides: dict[str, Any] | None = None,
    server: VllmServer | None = None,
) -> SpeechLlm:
    """Loads a trained system in evaluation mode; see `load_speech_llm`, which makes it ready to use.

    :param server: runs the LLM; None = it runs here.
    """

    def load(model: SpeechLlm) -> None:
        put_weights(model, saved.weights(), f"{saved.model_dir} does not fit its {saved.config_file.name}")

    load_llm = None
    if server is not None:
        from speechllm_plugin.llms.vllm.llm import load_served_llm

        check_servable(saved.config(overrides))
        load_llm = partial(load_served_llm, server=server)
    return restore(saved.config, load, device_named(device), overrides or {}, saved.directory, load_llm)


def restore(
    config_with: Callable[[dict[str, Any]], SpeechLlmConfig],
    load: Callable[[SpeechLlm], None],
    device: torch.device,
    overrides: dict[str, Any],
    where: Path,
    load_llm: Callable[[Any], Llm] | None = None,
) -> SpeechLlm:
    """Makes a trained system, ready to transcribe, in a precision that its device multiplies in hardware.

    :param config_with: gives the system's configuration with some keys changed, by dotted path.
    :param load: puts the trained weights into the system.
    :param where: name of the checkpoint, for a warning.
    :param load_llm: see `create_speech_llm`.
    """
    here = decoding_dtypes(part_dtypes(config_with({})), machine_precision(device))
    config = config_with({**{f"{part}.config.dtype": dtype for part, dtype in here.items()}, **overrides})
    if config.encoder.weights is None or config.llm.weights is None:
        log.warning("{} does not tell the weights of its encoder and LLM: they are not compared.", where)
    with device, _float32():
        model = create_speech_llm(config, trains=False, load_llm=load_llm)
    load(model)
    return model.requires_grad_(False).eval()


def device_named(name: str | None) -> torch.device:
    """:param name: None = the GPU if there is one."""
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # AssertionError where PyTorch is built without CUDA
        reason = str(error).partition("\n")[0]
        raise UserError(f"device: found {name!r}, expected cpu, cuda or another that works here ({reason})") from error
    return torch.device(device)


@contextmanager
def _float32() -> Iterator[None]:
    """Makes float32 the default, in which trained parts are, whatever default the caller has."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
