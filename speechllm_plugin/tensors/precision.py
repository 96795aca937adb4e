"""The precision of a machine, which is the meaning of `dtype: auto`.

It is bfloat16 on GPUs and CPUs that multiply it in hardware, and float32 on all others: a core with only AVX2
multiplies float32 many times faster. It is never float16, whose range is too small for some LLMs.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_NAMES = {"llm": "LLM", "recognizer": "recogniser", "mixed_precision": "trained parts"}

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Values of `dtype` in a part's configuration; `auto` is replaced by its meaning, see `part_dtype`."""


@dataclass(frozen=True)
class MachinePrecision:
    auto: Literal["float32", "bfloat16"]
    """The meaning of `auto`."""
    reason: str
    """The reason, as a clause about the device."""
    float16: bool
    """Whether the device multiplies float16, too."""

    def decode_in(self, trained: str) -> str:
        """The precision in which to decode a part that was trained in `trained`: the same if the device multiplies it,
        otherwise float32, which is faster there and more exact."""
        multiplied = {"bfloat16": self.auto == "bfloat16", "float16": self.float16}
        return trained if multiplied.get(trained, True) else "float32"


def machine_precision(device: torch.device | str) -> MachinePrecision:
    """The meaning of `auto` on a device of this machine."""
    device = torch.device(device)
    if device.type == "cpu":
        unit = _bfloat16_unit()
        if unit is None:
            return MachinePrecision("float32", "this CPU does not multiply bfloat16 in hardware", float16=False)
        return MachinePrecision("bfloat16", f"this CPU multiplies it in hardware ({unit})", float16=False)
    module: Any = torch.get_device_module(device)
    supported = getattr(module, "is_bf16_supported", None)  # Apple's GPUs have no such function
    if supported is None:
        return MachinePrecision("float32", f"PyTorch does not tell of bfloat16 on {device.type}", float16=True)
    with module.device(device):
        name = module.get_device_name(device)
        if not supported(including_emulation=False):
            return MachinePrecision("float32", f"{name} does not multiply bfloat16 in hardware", float16=True)
    return MachinePrecision("bfloat16", f"{name} multiplies it in hardware", float16=True)


def describe(dtypes: Mapping[str, str]) -> str:
    """:param dtypes: the precision of each part, by its name."""
    return ", ".join(f"{_NAMES.get(part, part)} {dtype}" for part, dtype in dtypes.items())


def describe_decoding(used: Mapping[str, str], trained: Mapping[str, str] | None, machine: MachinePrecision) -> str:
    """A line about the precision of decoding.

    :param trained: the precision of training; None = the model was not trained.
    """
    line = f"Precision: {describe(used)}"
    if trained is not None and trained != used:
        line += f"; trained in: {describe(trained)}"
    return f"{line}; `auto` is {machine.auto} here: {machine.reason}."


def _bfloat16_unit() -> str | None:
    """The instructions by which this CPU multiplies bfloat16; None = it has none, or they are switched off."""
    # False for a CPU with only AVX2, also under ONEDNN_MAX_CPU_ISA=AVX2, and for Arm's CPUs without BF16.
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    if platform.machine().lower() in ("aarch64", "arm64"):
        return "BF16"
    # oneDNN also says yes for plain AVX-512, on which it computes bfloat16 in float32. Without AVX-512 in PyTorch
    # (ATEN_CPU_CAPABILITY=avx2), everything but matrix products is slow.
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def part_dtype(config: Any) -> torch.dtype:
    """The precision of a part that is created on the default device.

    :param config: the part's configuration; an `auto` in its `dtype` is replaced, so that a saved configuration tells
        the precision that was used.
    """
    if config.dtype == "auto":
        config.dtype = machine_precision(torch.get_default_device()).auto
    return DTYPES[config.dtype]
