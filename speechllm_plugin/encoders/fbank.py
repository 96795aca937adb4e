"""Kaldi's log-mel filter bank, the input of SeamlessM4T v2 and w2v-BERT 2.0: on the device of the audio, for a batch.

It is computed in float64: in a mel band far below the loudest one, the logarithm would show the rounding of a float32
spectrum. On speech it differs from transformers' `SeamlessM4TFeatureExtractor` by 5e-7; in float32 it would by 3e-4.
fairseq2's `WaveformToFbankConverter`, in float32 on the CPU, differs by 1.3e-4 and gives NaN for digital silence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from speechllm_kernels.exporting import is_exporting
from torch import Tensor, nn
from transformers import SeamlessM4TFeatureExtractor

from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import Source
from speechllm_plugin.tensors.copies import on_device
from speechllm_plugin.tensors.masks import length_mask

WINDOW = 400
"""Samples of a frame (25 ms at 16 kHz)."""
HOP = 160
"""Samples between two frames (10 ms)."""
FFT_SIZE = 512
PREEMPHASIS = 0.97
INT16 = 2**15
"""Factor to the scale of 16-bit integers, which Kaldi works with."""
FLOOR = 1.192092955078125e-07
"""Least energy of a band, whose logarithm stands for digital silence."""
STACK = 2
"""Frames in a feature vector."""
MIN_SAMPLES = WINDOW + HOP
"""Shortest clip (35 ms, two frames): the variance needs two. A shorter one is padded with silence."""
ROWS = 8
"""Clips computed at a time: 30 s of each take 0.5 GB."""


class StackedFbank(nn.Module):
    """80 log-mel bands, each with zero mean and unit variance over the clip, two frames to a vector: 160 at 50 Hz."""

    window: Tensor
    mel_filters: Tensor

    dim = 80 * STACK
    frame_rate = 16000 / (HOP * STACK)

    def __init__(self) -> None:
        super().__init__()
        extractor = SeamlessM4TFeatureExtractor()
        # fairseq2 creates models under a default device, which `from_numpy` would ignore, and under the default dtype
        # of the trained part.
        for name, values in (("window", extractor.window), ("mel_filters", extractor.mel_filters)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float64), persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param waveforms: `[B, samples]`, float32 at 16 kHz, zeros beyond each length.
        :param lengths: `[B]`, samples of each clip, on the host.
        :returns: `[B, T, 160]` float32, zeros beyond each length, and the lengths `[B]`, on the host.
        """
        waveforms = F.pad(waveforms, (0, torch.sym_max(0, MIN_SAMPLES - waveforms.size(1))))
        frames = on_device(_frames(lengths), waveforms.device)
        if is_exporting():  # an exported graph takes any number of clips and has no loop
            fbank = self._standardised(waveforms, frames)
        else:
            parts = zip(waveforms.split(ROWS), frames.split(ROWS), strict=True)
            fbank = torch.cat([self._standardised(part, part_frames) for part, part_frames in parts])
        size = fbank.size(1) // STACK
        stacked = fbank[:, : size * STACK].reshape(fbank.size(0), size, self.dim)  # (B, frames, 80) -> (B, T, 160)
        lengths = stacked_lengths(lengths)
        return stacked * length_mask(lengths, size, stacked.device).unsqueeze(-1), lengths

    def _standardised(self, waveforms: Tensor, num_frames: Tensor) -> Tensor:
        """`[B, samples]` -> `[B, frames, 80]`."""
        frames = (waveforms.double() * INT16).unfold(1, WINDOW, HOP)
        frames = frames - frames.mean(dim=2, keepdim=True)
        # Kaldi's pre-emphasis puts a copy of a frame's first sample before it.
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=2)
        spectrum = torch.fft.rfft((frames - PREEMPHASIS * before) * self.window, n=FFT_SIZE)
        energies = (spectrum.real.square() + spectrum.imag.square()) @ self.mel_filters.double()
        log_mels = energies.clamp(min=FLOOR).log()
        mask = length_mask(num_frames, log_mels.size(1)).unsqueeze(-1)
        counts = num_frames[:, None, None]
        centred = (log_mels - (log_mels * mask).sum(dim=1, keepdim=True) / counts) * mask
        variance = centred.square().sum(dim=1, keepdim=True) / (counts - 1)
        return (centred / (variance + 1e-7).sqrt()).float()


def stacked_lengths(lengths: Tensor) -> Tensor:
    """Samples to feature vectors, `[B]`: whole frames, two to a vector; an odd last frame is dropped."""
    return _frames(lengths) // STACK


def _frames(lengths: Tensor) -> Tensor:
    return (lengths.clamp(min=MIN_SAMPLES) - WINDOW) // HOP + 1


def check_input_dim(found: int, source: Source) -> None:
    """:raises UserError: the checkpoint takes other features than these."""
    if found != StackedFbank.dim:
        raise UserError(f"{source} takes features of width {found}, expected {StackedFbank.dim}")
