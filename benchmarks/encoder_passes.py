"""Batches of clips of several lengths, encoded in one pass, padded to the longest, and in passes over clips of like
length (`speechllm_plugin/encoders/passes.py`), in turns, in one process. The encoders have random weights and the
published widths, but fewer layers.

    python benchmarks/encoder_passes.py [--dtype bfloat16] [--rounds 5] [--layers 3] [--only seamless]

- mixed: clips of 2, 4, 6 and 10 s, again and again: the median over the rounds.
- ever new: batches of 8 clips of 1 to 12 s, each encoded once: kernels for their shapes are made anew.
- a pass costs: what a further pass takes, in seconds of audio that are encoded in that time: 8 clips of 1 s in one
  pass, and each alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from speechllm_tools.bench.report import footer
from torch import Tensor, nn
from transformers import SeamlessM4Tv2Config, Wav2Vec2BertConfig, WhisperConfig

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
from speechllm_plugin.encoders.passes import PASS_SECONDS, split_by_length
from speechllm_plugin.pretrained import freeze

MIXED = (2.0, 4.0, 6.0, 10.0)
Batch = tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, default=5, help="and batches that are ever new")
    parser.add_argument("--layers", type=int, default=3, help="of the Conformers, which have 24")
    parser.add_argument("--only", default="", help="part of an encoder's name")
    options = parser.parse_args()
    print("| encoder | mixed: passes | samples | time | ever new: samples | time | a pass costs |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, encoder in encoders(options.layers, getattr(torch, options.dtype)).items():
        if options.only.lower() not in name.lower():
            continue
        mixed = batch_of(MIXED)
        ratios = [ratio(encoder, mixed, first) for first in (0, 1) * ((options.rounds + 2) // 2)][1:]
        fresh = [batch_of(lengths) for lengths in torch.empty(options.rounds, 8).uniform_(1, 12).tolist()]
        new = [ratio(encoder, batch, number % 2) for number, batch in enumerate(fresh)]
        cells = (
            name, str(len(passes_of(mixed))), f"{samples(mixed):.2f}", f"{statistics.median(ratios):.2f}",
            f"{statistics.mean(map(samples, fresh)):.2f}", f"{statistics.mean(new):.2f}",
            f"{statistics.median(pass_cost(encoder) for _ in range(options.rounds)):.2f} s",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\n{footer()}")


def encoders(layers: int, dtype: torch.dtype) -> dict[str, SpeechEncoder]:
    torch.manual_seed(0)
    kinds: dict[str, tuple[str, Any, dict[str, Any]]] = {
        "Whisper tiny, not padded": (
            "whisper",
            WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536),
            {"pad_to_30s": False},
        ),
        f"w2v-BERT 2.0, {layers} layers": ("w2v_bert", Wav2Vec2BertConfig(num_hidden_layers=layers), {}),
        f"SeamlessM4T v2, {layers} layers": ("seamless_m4t_v2", SeamlessM4Tv2Config(speech_encoder_layers=layers), {}),
    }
    made = {}
    for title, (name, hf_config, values) in kinds.items():
        part = ENCODERS.get(name)
        assert part.outline is not None
        made[title] = freeze(part.outline(part.config_kls(**values), hf_config, dtype))
    return made


def batch_of(seconds: Sequence[float]) -> Batch:
    clips = [0.1 * torch.randn(round(length * SAMPLE_RATE)) for length in seconds]
    return nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor(list(map(len, clips)))


def passes_of(batch: Batch) -> list[list[int]]:
    return split_by_length(batch[1].tolist(), PASS_SECONDS * SAMPLE_RATE)


def samples(batch: Batch) -> float:
    """Those of the passes, as a share of those of one pass, padding included."""
    sizes = batch[1].tolist()
    return sum(len(clips) * sizes[clips[0]] for clips in passes_of(batch)) / batch[0].numel()


def ratio(encoder: SpeechEncoder, batch: Batch, first: int) -> float:
    """The time in passes by that in one pass.

    :param first: 0 = one pass comes first.
    """
    ways: list[Callable[..., object]] = [encoder.encode, encoder]
    seconds = [0.0, 0.0]
    for way in (first, 1 - first):
        seconds[way] = timed(lambda way=way: ways[way](*batch))  # type: ignore[misc]
    return seconds[1] / seconds[0]


def pass_cost(encoder: SpeechEncoder) -> float:
    """Seconds of audio that are encoded in the time that a further pass takes."""
    waveforms, lengths = batch_of([1.0] * 8)
    together = timed(lambda: encoder.encode(waveforms, lengths))
    apart = timed(lambda: [encoder.encode(waveforms[i : i + 1], lengths[i : i + 1]) for i in range(8)])
    return (apart - together) / 7 / (together / 8)


@torch.no_grad()
def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
