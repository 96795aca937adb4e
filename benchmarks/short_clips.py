"""What a small encoder's short clips cost on a CPU: each length a shape of its own against few shapes, and clips in
turns against clips side by side. In one process, each way over the same clips.

    python benchmarks/short_clips.py demo/models/whisper-tiny.en [--dtype float32] [--clips 300]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from unittest.mock import patch

import torch
from torch import Tensor

from speechllm_plugin.encoders import apart, whisper
from speechllm_plugin.pretrained import freeze


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Whisper checkpoint")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--clips", type=int, default=300)
    options = parser.parse_args()
    config = whisper.WhisperConfig(path=options.model, dtype=options.dtype, pad_to_30s=False)
    encoder = freeze(whisper.create_whisper(config))
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(24_000, 104_000, (options.clips,), generator=generator).tolist()  # 1.5 to 6.5 s
    clips = [0.1 * torch.randn(length, generator=generator) for length in lengths]
    print("| way | s a clip | of the first |\n| --- | --- | --- |")
    first = None
    for name, frames, small in (
        ("each length a shape, in turns", 1, 0),
        (f"multiples of {whisper.SHAPE_FRAMES} frames, in turns", whisper.SHAPE_FRAMES, 0),
        (f"multiples of {whisper.SHAPE_FRAMES} frames, side by side", whisper.SHAPE_FRAMES, apart.SMALL),
    ):
        with patch.object(whisper, "SHAPE_FRAMES", frames), patch.object(apart, "SMALL", small):
            seconds = timed(lambda batch: apart.encode_apart(encoder, batch), clips)
        first = first or seconds
        print(f"| {name} | {seconds:.4f} | {seconds / first:.2f} |", flush=True)


def timed(encode: Callable[[Sequence[Tensor]], object], clips: Sequence[Tensor]) -> float:
    """Seconds a clip, in batches of 8, on the second pass over them."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        for i in range(0, len(clips), 8):
            encode(clips[i : i + 8])
        seconds = time.perf_counter() - start
    return seconds / len(clips)


if __name__ == "__main__":
    main()
