"""Commands that load a system compute as the recipe does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from fairseq2.recipe.config import CommonSection
from fairseq2.recipe.internal.torch import _TorchConfigurer
from speechllm_tools.numerics import use_recipe_numerics


def test_a_gpu_computes_as_in_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared with what fairseq2 itself sets."""
    matmul = torch.backends.cuda.matmul
    before = torch.backends.fp32_precision
    use_recipe_numerics()
    assert torch.backends.fp32_precision == before  # no GPU: nothing changes
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    configurer = SimpleNamespace(_section=CommonSection())
    states = []
    try:
        for apply in (lambda: _TorchConfigurer._set_numerics(configurer), use_recipe_numerics):
            torch.backends.fp32_precision = "ieee"
            matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = False
            apply()
            states.append((
                torch.backends.fp32_precision, matmul.fp32_precision, torch.backends.cudnn.fp32_precision,
                matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction,
            ))
    finally:
        torch.backends.fp32_precision = before
        matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = True
    assert states[0] == states[1]
    assert states[0][0] == "tf32"
