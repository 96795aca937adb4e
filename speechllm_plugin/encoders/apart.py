"""Encodes clips one by one, so that the features of a clip never depend on its batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import torch
from torch import Tensor

from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.tensors.copies import on_host
from speechllm_plugin.tensors.parameters import count_parameters

SMALL = 100_000_000
"""An encoder with fewer weights encodes several clips at once on a CPU, each on one core: a second core does not speed
up a single clip. (Whisper tiny, clips of 4 s, two cores: 0.035 s a clip in turn, 0.026 s in parallel.)"""


def encode_apart(encoder: SpeechEncoder, waveforms: Sequence[Tensor]) -> list[Tensor]:
    """
    :param waveforms: one for each clip, `[samples]`.
    :returns: the features of each clip, `[T, dim]`.
    """
    # The choice depends on the encoder only, not on the number of clips: a clip always has one thread and the same
    # bits.
    if encoder.tuned or waveforms[0].device.type != "cpu" or count_parameters(encoder) >= SMALL:
        return [_encode(encoder, waveform) for waveform in waveforms]
    return list(_threads(torch.get_num_threads()).map(lambda waveform: _encode(encoder, waveform), waveforms))


def _encode(encoder: SpeechEncoder, waveform: Tensor) -> Tensor:
    features, lengths = encoder(waveform.unsqueeze(0), on_host([len(waveform)]))
    return features[0, : int(lengths[0])]


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    """A pool whose threads compute on one core each."""
    barrier = Barrier(number)
    executor = ThreadPoolExecutor(number, thread_name_prefix="encoder")
    list(executor.map(_compute_alone, [barrier] * number))
    # `set_num_threads` in a thread also sets the default of threads that start later.
    torch.set_num_threads(number)
    return executor


# Threads do not survive a fork: a pool without any would never be done.
os.register_at_fork(after_in_child=_threads.cache_clear)


def _compute_alone(barrier: Barrier) -> None:
    torch.set_num_threads(1)
    barrier.wait()
