"""The precision of cached features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from speechllm_plugin.encoders.cache import FeatureCache
from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_features_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = FeatureCache(tmp_path, "x", dtype)
    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    for found in (cache.put("clip", features), cache.get("clip")):
        assert found is not None and found.dtype == dtype and torch.equal(found, features)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_features_that_were_rounded_to_bfloat16_are_made_again(tmp_path: Path, dtype: torch.dtype) -> None:
    """As earlier versions did with those of any encoder."""
    cache = FeatureCache(tmp_path, "x", dtype)
    cache.put("clip", torch.ones(7, 5, dtype=dtype))
    (file,) = tmp_path.rglob("*.npy")
    np.save(file, torch.ones(7, 5, dtype=torch.bfloat16).view(torch.int16).numpy())
    assert cache.get("clip") is None
    assert FeatureCache(tmp_path, "x", torch.bfloat16).get("clip") is not None


def test_encoders_of_another_precision_share_no_features(tiny_whisper: Path) -> None:
    encoders = [create_whisper(WhisperConfig(path=str(tiny_whisper), dtype=dtype))  # type: ignore[arg-type]
                for dtype in ("auto", "float32", "bfloat16", "float16")]
    auto, *chosen = ((encoder.fingerprint(), encoder.feature_dtype) for encoder in encoders)
    assert len(set(chosen)) == 3
    # What `auto` came to counts: the word would be the same on every machine.
    assert auto in chosen
