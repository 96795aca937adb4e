"""Clips encoded one by one, several at a time: the same bits, and no other thread is slowed down."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from speechllm_plugin.encoders import apart
from speechllm_plugin.encoders.apart import encode_apart
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
from speechllm_plugin.pretrained import freeze


@pytest.fixture
def encoder(tiny_whisper: Path) -> SpeechEncoder:
    return freeze(create_whisper(WhisperConfig(path=str(tiny_whisper), dtype="bfloat16", pad_to_30s=False)))


@pytest.fixture
def waveforms() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(length, generator=generator) for length in (4000, 16000, 24160, 9120, 16000)]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_clip_keeps_its_bits_in_any_company(
    encoder: SpeechEncoder, waveforms: list[Tensor], two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = encode_apart(encoder, waveforms)
    assert [len(features) for features in together] == [-(-len(waveform) // 320) for waveform in waveforms]
    for waveform, features in zip(waveforms, together, strict=True):
        assert torch.equal(encode_apart(encoder, [waveform])[0], features)
    # An encoder too large to be run several times at once gives the same.
    monkeypatch.setattr(apart, "SMALL", 0)
    for features, expected in zip(encode_apart(encoder, waveforms), together, strict=True):
        torch.testing.assert_close(features, expected, atol=0.05, rtol=0.05)


def test_other_threads_compute_with_as_many_as_before(
    encoder: SpeechEncoder, waveforms: list[Tensor], two_threads: None
) -> None:
    apart._threads.cache_clear()
    encode_apart(encoder, waveforms)
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2
    assert not any(features.requires_grad for features in encode_apart(encoder, waveforms))


def test_an_error_in_a_clip_is_raised(encoder: SpeechEncoder, waveforms: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"31\.00 s"):
        encode_apart(encoder, [waveforms[0], torch.zeros(31 * 16000)])


def test_a_process_that_is_forked_encodes_too(encoder: SpeechEncoder, waveforms: list[Tensor]) -> None:
    lengths = [len(features) for features in encode_apart(encoder, waveforms)]
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()
    child = context.Process(
        target=lambda: found.put([len(features) for features in encode_apart(encoder, waveforms)]), daemon=True
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0, "it waits for threads of its parent"
    assert found.get() == lengths
