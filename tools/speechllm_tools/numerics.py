"""Float32 on a GPU as the recipe computes it, so that a checkpoint decodes the same wherever it is used."""

from __future__ import annotations

import torch

ALLOW_TF32 = True
REDUCED_PRECISION = True
"""fairseq2's defaults (`fairseq2.recipe.config.TorchConfig`): transcribing needs no fairseq2."""


def use_recipe_numerics() -> None:
    """Sets for this process what fairseq2's recipes set: TF32 products and convolutions, reductions of half-precision
    products in that precision. A CPU is left as it is.

    A library function would surprise its caller with this: for a command's own process only.
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
