"""First step in PyTorch's own operators: the label of each frame and its probability. And back.

Nothing here reads a tensor's value on the host except on a CPU, where that is free.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from speechllm_kernels._common import valid_frames
from speechllm_kernels.ctc_collapse.steps import FrameLabels, accumulator

# A row is cut into blocks of this many logits. torch.amax over blocks runs at the speed of memory where torch.argmax
# does not (3x in float32, 8x in bfloat16 on the CPUs tried); only the winning block is then searched.
_ARGMAX_BLOCK = 256

# Logits that are exponentiated at a time, so that the temporary stays in the cache.
_CHUNK = 1 << 19


def label_frames(logits: Tensor, lengths: Tensor, probabilities: bool) -> FrameLabels:
    batch, frames, vocabulary = logits.shape
    valid = valid_frames(lengths, frames)
    labels = torch.empty((batch, frames), dtype=torch.int64, device=logits.device)
    sums = logits.new_zeros((batch, frames) if probabilities else 0, dtype=accumulator(logits))
    rest = torch.zeros_like(sums)
    step = max(1, _CHUNK // vocabulary)
    for b, rows in _rows(logits, lengths):
        row = logits[b, rows]
        labels[b, rows] = chosen = _argmax(row)
        if probabilities:
            place = chosen.unsqueeze(1)
            top = row.gather(1, place).to(sums.dtype)
            work = sums.new_empty((step, vocabulary))
            for begin in range(0, row.shape[0], step):
                part = slice(begin, begin + step)
                chunk = row[part].to(sums.dtype)
                powers = torch.sub(chunk, top[part], out=work[: chunk.shape[0]]).exp_().scatter_(1, place[part], 0.0)
                torch.sum(powers, dim=1, out=rest[b, rows][part])
            sums[b, rows] = rest[b, rows].log1p() + top.squeeze(1)
    if probabilities:
        rest, sums = rest.where(valid, 0.0), sums.where(valid, 0.0)
        return FrameLabels(labels.where(valid, -1), (1.0 + rest).reciprocal().where(valid, 0.0), rest, sums)
    return FrameLabels(labels.where(valid, -1), torch.empty_like(sums), rest, sums)


def label_frames_backward(grad: Tensor, logits: Tensor, lengths: Tensor, found: FrameLabels) -> Tensor:
    """dL/dlogits from dL/dp: p (1 - p) at the label, -p softmax_v elsewhere."""
    labels, probability, rest, sums = found
    valid = valid_frames(lengths, logits.shape[1])
    scale = (grad * probability).where(valid, 0.0)
    at_label = scale * rest * probability
    result = torch.zeros(logits.shape, dtype=logits.dtype, device=logits.device)
    for b, rows in _rows(logits, lengths):
        step = max(1, _CHUNK // logits.shape[2])
        parts = (logits, result, sums, scale, at_label, labels)
        for chunk, out, total, factor, own, chosen in zip(*(part[b, rows].split(step) for part in parts), strict=True):
            value = (chunk.to(total.dtype) - total.unsqueeze(1)).exp_().mul_(-factor.unsqueeze(1))
            value.scatter_(1, chosen.clamp(min=0).unsqueeze(1), own.unsqueeze(1))
            # In the padding the logits may be anything: `where` keeps that out.
            out.copy_(value.where((chosen >= 0).unsqueeze(1), 0.0))
    return result


def _rows(logits: Tensor, lengths: Tensor) -> Iterator[tuple[int, slice]]:
    """Row by row the frames to work on: on a CPU those before the padding, elsewhere all (no host sync)."""
    frames = logits.shape[1]
    counts = lengths.tolist() if lengths.device.type == "cpu" else [frames] * logits.shape[0]
    for b, count in enumerate(counts):
        if count > 0:
            yield b, slice(0, count)


def _argmax(row: Tensor) -> Tensor:
    """The lowest index of the maximum of each row of [N, V]."""
    vocabulary, block = row.shape[1], _ARGMAX_BLOCK
    if vocabulary <= 4 * block:
        return row.argmax(dim=1)
    whole = vocabulary - vocabulary % block
    tops = row[:, :whole].unflatten(1, (-1, block)).amax(dim=2)
    if whole < vocabulary:
        tops = torch.cat([tops, row[:, whole:].amax(dim=1, keepdim=True)], dim=1)
    # The window of the last, shorter block begins in the one before it, whose logits are below the maximum.
    begin = (tops.argmax(dim=1, keepdim=True) * block).clamp(max=vocabulary - block)
    window = row.gather(1, begin + torch.arange(block, device=row.device))
    return begin.squeeze(1) + window.argmax(dim=1)
