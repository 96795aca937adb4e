"""Sets the recipe's arithmetic of float32 on a GPU, so that a checkpoint decodes the same in commands."""

from __future__ import annotations

import torch

ALLOW_TF32 = True
REDUCED_PRECISION = True
"""fairseq2's defaults (`fairseq2.recipe.config.TorchConfig`), written out since transcribing needs no fairseq2."""


def use_recipe_numerics() -> None:
    """Sets what fairseq2's recipes set for a GPU: TF32 products and convolutions, and reductions of half-precision
    products in half precision. Changes nothing on a CPU.

    Only for a command's own process: the settings are global and would surprise the caller of a library function.
    """
    if not torch.cuda.is_available():
        return
    backends = torch.backends
    if hasattr(backends, "fp32_precision"):  # PyTorch 2.9
        backends.fp32_precision = "tf32" if ALLOW_TF32 else "ieee"
    else:
        backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = ALLOW_TF32
    backends.cuda.matmul.allow_fp16_reduced_precision_reduction = REDUCED_PRECISION
    backends.cuda.matmul.allow_bf16_reduced_precision_reduction = REDUCED_PRECISION
