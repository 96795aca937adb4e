"""What every encoder must hold, for the encoders' tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from transformers import SeamlessM4TFeatureExtractor

from speechllm_plugin.encoders.api import SpeechEncoder

RATE = 16000
SECONDS_30 = 30 * RATE


def clip(samples: int) -> Tensor:
    """A hissing tone with pauses, no two alike.

    No band of it is steady: over a steady one's tiny variance every implementation shows its own rounding.
    """
    generator = torch.Generator().manual_seed(samples)
    times = torch.arange(samples) / RATE
    envelope = 0.05 + (torch.sin(2 * torch.pi * 0.7 * times) > 0) * 0.4
    tone = torch.sin(2 * torch.pi * (200 + samples % 500) * times)
    return envelope * (0.4 * tone + 0.4 * torch.randn(samples, generator=generator))


def collate(lengths: list[int]) -> tuple[Tensor, Tensor]:
    clips = [clip(length) for length in lengths]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(lengths)


def reference_fbank(waveform: Tensor) -> Tensor:
    """`[T, 160]` by transformers; the frame without a partner at the end, which it masks, is cut."""
    extracted = SeamlessM4TFeatureExtractor()(waveform.numpy(), sampling_rate=RATE, return_tensors="pt")
    size = int(extracted.attention_mask.sum())
    return extracted.input_features[0, :size]


def randomise(model: nn.Module, scale: float = 0.2) -> None:
    """Fresh weights hide what biases would show: zeros pass through fresh norms as zeros, and padding leaks unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(scale * torch.randn(weight.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                weight.add_(1.0)


@torch.no_grad()
def in_one_pass(encoder: SpeechEncoder, lengths: list[int]) -> tuple[Tensor, Tensor]:
    """A batch padded to its longest clip, however much padding that is."""
    return encoder.encode(*collate(lengths))


def check_batch_is_single(encoder: SpeechEncoder, lengths: list[int], tolerance: float) -> None:
    for features, found in (in_one_pass(encoder, lengths), encoder(*collate(lengths))):
        assert features.size(0) == len(lengths)
        assert features.size(1) == int(found.max())
        assert features.size(2) == encoder.dim
        assert features.isfinite().all()
        for row, length in enumerate(lengths):
            alone, alone_length = encoder(*collate([length]))
            size = int(alone_length)
            assert alone.shape == (1, size, encoder.dim)
            assert int(found[row]) == size
            assert (features[row, :size] - alone[0]).abs().max() <= tolerance, length
            assert not features[row, size:].any()


def check_device_is_never_waited_for(encoder: SpeechEncoder) -> None:
    """Fake tensors have no values: whatever would need one of the device's on the host fails. The lengths are on the
    host: of the first batch they ask for one pass, of the second for two."""
    for lengths in (torch.tensor([RATE, RATE // 2]), torch.tensor([RATE, 4 * RATE])):
        size = int(lengths.max())
        with FakeTensorMode(allow_non_fake_inputs=True):
            waveforms = torch.zeros(2, size)
            with pytest.raises(DataDependentOutputException):
                float(waveforms.max())
            features, feature_lengths = encoder(waveforms, lengths)
        assert features.size(2) == encoder.dim
        assert feature_lengths.shape == (2,)


def check_created_on_the_device(create: Callable[[], SpeechEncoder]) -> None:
    """fairseq2 creates models under a device, and nothing is moved afterwards; and under a mode that gives new tensors,
    integers too, the precision of what is trained."""
    with torch.device("meta"):
        encoder = create()
    assert {tensor.device.type for tensor in [*encoder.parameters(), *encoder.buffers()]} == {"meta"}

    pytest.importorskip("fairseq2")
    from fairseq2 import init_fairseq2
    from fairseq2.data_type import set_dtype
    from fairseq2.runtime import dependency

    if dependency._resolver is None:
        init_fairseq2()
    with torch.device("cpu"), set_dtype(torch.bfloat16):
        encoder = create()
    expected = create()
    for kind in ("parameters", "buffers"):
        found = dict(getattr(encoder, f"named_{kind}")())
        for name, tensor in getattr(expected, f"named_{kind}")():
            assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
