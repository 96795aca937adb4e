"""Loads the checkpoints of a training run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from speechllm_plugin.errors import UserError
from speechllm_plugin.log import log
from speechllm_plugin.models.speech_llm.checkpoint_files import Checkpoint, Step, find_checkpoint
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.shards import load_shards
from speechllm_plugin.precision import MachinePrecision, machine_precision


def decoding_dtypes(checkpoint: Checkpoint, machine: MachinePrecision) -> dict[str, str]:
    """What is decoded in on a machine, for those parts for which it is not what they were trained in."""
    trained = checkpoint.precision()
    here = {part: machine.decode_in(dtype) for part, dtype in trained.items()}
    return {part: dtype for part, dtype in here.items() if dtype != trained[part]}


def load_speech_llm(
    path: Path | str, step: Step = "best", *, device: str | None = None, overrides: dict[str, Any] | None = None
) -> SpeechLlm:
    """Loads a trained system, ready to transcribe.

    :param path: see `find_checkpoint`.
    :param device: "cpu", "cuda", ...; None = the GPU if there is one.
    :param overrides: configuration keys to change, by dotted path, for instance
        `{"llm.config.path": "models/llama", "encoder.config.path": "models/whisper"}` where the frozen parts moved.
    :returns: encoder and LLM in the precision of the training, or in float32 where the device does not multiply that
        in hardware; `llm.config.dtype` among the overrides decides otherwise.
    :raises UserError: there is no such checkpoint or device, a key is wrong, or files are damaged.
    """
    target = _device(device)
    checkpoint = find_checkpoint(path, step)
    here = decoding_dtypes(checkpoint, machine_precision(target))
    config = checkpoint.config({**{f"{part}.config.dtype": dtype for part, dtype in here.items()}, **(overrides or {})})
    if config.encoder.weights is None or config.llm.weights is None:
        log.warning("{} does not tell the weights of its encoder and LLM: they are not compared.", checkpoint.directory)
    with target, _float32():
        model = create_speech_llm(config)
    load_shards(model, checkpoint.model_dir)
    model.decoding = checkpoint.decoding()
    return model.requires_grad_(False).eval()


def _device(name: str | None) -> torch.device:
    device = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # the latter where PyTorch is built without CUDA
        reason = str(error).partition("\n")[0]
        raise UserError(f"device: found {name!r}, expected cpu, cuda or another that works here ({reason})") from error
    return torch.device(device)


@contextmanager
def _float32() -> Iterator[None]:
    """What is trained is in float32, whatever the caller's default is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)
