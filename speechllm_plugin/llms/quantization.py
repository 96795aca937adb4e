"""Frozen weights in 8 or 4 bits, through transformers and bitsandbytes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from speechllm_plugin.errors import UserError

Quantization = Literal["none", "int8", "nf4"]


def quantization_options(quantization: Quantization, dtype: torch.dtype, key: str) -> dict[str, Any]:
    """Options with which `from_pretrained` loads a quantised model straight onto the default device.

    :param dtype: the precision in which the layers compute.
    :param key: the configuration key that holds `quantization`, for errors.
    :raises UserError: the default device is no GPU, or bitsandbytes or accelerate is not installed.
    """
    if quantization == "none":
        return {}
    device = torch.get_default_device()
    if device.type != "cuda":
        raise UserError(f"{key}: found {quantization!r} on the device {str(device)!r}, expected a CUDA GPU, or 'none'")
    if absent := [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]:
        raise UserError(
            f"{key}: {quantization!r} needs bitsandbytes and accelerate, found no {' and no '.join(absent)}: "
            "pip install 'speechllm-plugin[quantization]'"
        )
    if quantization == "int8":
        how = BitsAndBytesConfig(load_in_8bit=True)
    else:
        how = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    return {"quantization_config": how, "device_map": {"": device}}
