"""What the tests of the adapters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from speechllm_plugin.adapters.api import Adapter, AdapterShape

_BERT = {"dim": 24, "num_heads": 4, "ffn_dim": 48}
_SMALL: dict[str, dict[str, Any]] = {
    "base": {**_BERT, "num_layers": 2},
    "cif": {**_BERT, "layers_before": 1, "layers_after": 1},
    "conv": {**_BERT, "layers_before": 1, "layers_after": 1},
    "ctc": {**_BERT, "layers_before": 1, "layers_after": 1},
    "mlp": {"hidden_dim": 32},
    "subsample": {**_BERT, "num_layers": 1},
    "wlq_former": {**_BERT, "num_layers": 2},
}


@pytest.fixture(scope="session")
def adapter_shape() -> AdapterShape:
    from speechllm_plugin.adapters.api import AdapterShape

    return AdapterShape(encoder_dim=24, llm_dim=20, frame_rate=50.0, output_rms=0.03)


@pytest.fixture(scope="session")
def create_adapter(adapter_shape: AdapterShape) -> Callable[..., Adapter]:
    """`create_adapter(name, **options)`: a small adapter, the same on every call."""
    import torch

    from speechllm_plugin.adapters.api import ADAPTERS

    def create(name: str, **options: Any) -> Adapter:
        torch.manual_seed(0)
        return ADAPTERS.get(name).build(ADAPTERS.config(name, {**_SMALL[name], **options}), adapter_shape)

    return create


@pytest.fixture(scope="session")
def encoder_features(adapter_shape: AdapterShape) -> Callable[..., Tensor]:
    """`encoder_features(lengths)`: features for rows of these lengths, `[B, T, encoder_dim]`."""
    import torch

    def features(lengths: Tensor, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(len(lengths), int(lengths.max()), adapter_shape.encoder_dim, generator=generator)

    return features
