"""Features of Whisper's encoder under its options: number, cost, and how well Whisper's own decoder reads them."""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from speechllm_plugin.cascade.recognizers.api import Recognized
from speechllm_plugin.cascade.recognizers.whisper import (
    WhisperRecognizer,
    WhisperRecognizerConfig,
    create_whisper_recognizer,
)
from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
from speechllm_plugin.datasets.manifest import ManifestRow, read_manifest
from speechllm_plugin.encoders.whisper import WhisperConfig, create_whisper
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.llms.decoding import TOKENS_PER_SECOND, DecodingConfig
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.scoring.provenance import provenance
from speechllm_plugin.scoring.report import Hypothesis, score
from speechllm_plugin.scoring.table import format_wer
from speechllm_tools.bench.report import describe_machine

PADDED = "pad_to_30s: true"
OPTIONS: Mapping[str, Mapping[str, bool]] = {
    PADDED: {"pad_to_30s": True, "trim": False},
    "trim: true": {"pad_to_30s": True, "trim": True},
    "pad_to_30s: false": {"pad_to_30s": False, "trim": False},
}
"""Keys of the encoder's configuration in each row of the table."""

NORMALIZER = "whisper_english"
"""Whisper writes "10%" where the transcripts have "ten percent"."""

_COLUMNS = ("option", "vectors per second", "encoder time", "WER (%)", "cut hypotheses")


@dataclass(kw_only=True)
class Measured:
    """Results of one option; lists have an entry for each clip."""

    vectors: list[int] = field(default_factory=list)
    """Vectors that reach the adapter."""
    seconds: list[float] = field(default_factory=list)
    """Time of the encoder with its mel filters."""
    recognized: list[Recognized] = field(default_factory=list)
    """Texts of the checkpoint's own decoder for the features."""


def run(options: argparse.Namespace, device: str, *, report: Callable[[str], None]) -> int:
    logging.set_verbosity_error()  # transformers warns of Whisper's own generation settings
    manifest, model = options.root / "data" / "dev.tsv", options.root / "models" / "whisper-tiny.en"
    for path in (manifest, model):
        if not path.exists():
            raise UserError(f"--root: found no {path}, expected what `speechllm demo` prepares")
    if options.clips < 1:
        raise UserError(f"--clips: found {options.clips}, expected at least 1")
    rows = read_manifest(manifest)[: options.clips]
    waveforms = [torch.from_numpy(read_audio(resolve(row.audio, manifest.parent))) for row in rows]
    measured = measure(model, waveforms, torch.device(device), report=report)
    results = {name: _figures(one, measured[PADDED], rows, waveforms) for name, one in measured.items()}
    print(table(results))
    decoding = {"normalizer": NORMALIZER, **_limits()}
    made_by = provenance({"options": OPTIONS, "decoding": decoding}, model, [manifest])
    machine = describe_machine(device)
    if options.json is not None:
        hypotheses = {name: [asdict(one) for one in found.recognized] for name, found in measured.items()}
        document = {"benchmark": "whisper-padding", "machine": machine, "provenance": made_by, "results": results,
                    "ids": [row.id for row in rows], "hypotheses": hypotheses}
        write_text_atomically(options.json, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if options.output is not None:
        write_text_atomically(options.output, _page(results, options, machine, made_by))
    return 0


def measure(
    model: Path, waveforms: Sequence[Tensor], device: torch.device, *, report: Callable[[str], None]
) -> dict[str, Measured]:
    """Encodes each clip alone with every option in turn, so that other work on the machine slows all options alike.

    :param model: a Whisper checkpoint with its tokenizer.
    :param waveforms: `[samples]` each, float32 at 16 kHz.
    :param report: is called with a line about each clip.
    """
    recognizer = freeze(create_whisper_recognizer(WhisperRecognizerConfig(path=str(model), dtype="float32"))).to(device)
    encoders = {
        name: freeze(create_whisper(WhisperConfig(path=str(model), dtype="float32", **values))).to(device)
        for name, values in OPTIONS.items()
    }
    for encoder in encoders.values():  # warms up each encoder
        encoder(waveforms[0].unsqueeze(0).to(device), torch.tensor([len(waveforms[0])], device=device))
    measured = {name: Measured() for name in OPTIONS}
    for number, waveform in enumerate(waveforms, start=1):
        report(f"whisper-padding: clip {number}/{len(waveforms)} ...")
        batch, lengths = waveform.unsqueeze(0).to(device), torch.tensor([len(waveform)], device=device)
        features: dict[str, Tensor] = {}
        for name, encoder in encoders.items():
            _wait_for(device)
            start = time.perf_counter()
            features[name], found = encoder(batch, lengths)
            _wait_for(device)
            measured[name].seconds.append(time.perf_counter() - start)
            measured[name].vectors.append(int(found))
        for name, states in features.items():
            measured[name].recognized.append(decode(recognizer, states, len(waveform) / SAMPLE_RATE))
    return measured


def decode(recognizer: WhisperRecognizer, features: Tensor, seconds: float) -> Recognized:
    """Whisper's own decoder, greedy.

    The limit of tokens decides the cost of a loop, so it is the same as in the plugin's decoding.

    :param features: `[1, T, C]`.
    :param seconds: length of the clip.
    """
    limit = DecodingConfig().limit(seconds)
    output = recognizer.model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=cast(torch.FloatTensor, features)),
        do_sample=False,
        num_beams=1,
        max_length=min(limit, recognizer.model.config.max_target_positions),
        return_dict_in_generate=True,
    )
    row = output["sequences"][0].tolist()
    text = recognizer.tokenizer.decode(row, skip_special_tokens=True).strip()
    return Recognized(text, cut=recognizer.model.generation_config.eos_token_id not in row)


def _limits() -> dict[str, float]:
    return {"tokens_per_second": TOKENS_PER_SECOND, "extra_tokens": DecodingConfig().extra_tokens}


def _figures(
    measured: Measured, padded: Measured, rows: Sequence[ManifestRow], waveforms: Sequence[Tensor]
) -> dict[str, Any]:
    seconds = [len(waveform) / SAMPLE_RATE for waveform in waveforms]
    hypotheses = [
        Hypothesis(row.id, row.tgt_text, one.text, row.audio, duration, row.src_lang, row.tgt_lang)
        for row, one, duration in zip(rows, measured.recognized, seconds, strict=True)
    ]
    ratios = [mine / theirs for mine, theirs in zip(measured.seconds, padded.seconds, strict=True)]
    return {
        "vectors_per_second": sum(measured.vectors) / sum(seconds),
        "encoder_seconds": statistics.median(measured.seconds),
        "encoder_time": statistics.median(ratios),
        "cut_hypotheses": sum(one.cut for one in measured.recognized),
        **score(hypotheses, NORMALIZER),
    }


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown, with a row for each option."""
    lines: list[Sequence[str]] = [_COLUMNS, ["---"] * len(_COLUMNS)]
    for name, result in results.items():
        lines.append((
            f"`{name}`",
            f"{result['vectors_per_second']:.1f}",
            f"{result['encoder_time']:.2f}",
            format_wer(result["asr"]),
            f"{result['cut_hypotheses']} of {result['utterances']}",
        ))  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(
    results: Mapping[str, Mapping[str, Any]],
    options: argparse.Namespace,
    machine: Mapping[str, Any],
    made_by: Mapping[str, Any],
) -> str:
    clips, seconds = (results[PADDED][name] for name in ("utterances", "seconds"))
    length, limits = f"{seconds / clips:.1f}", _limits()
    limit = f"{limits['tokens_per_second']:g} tokens a second and {limits['extra_tokens']} more"
    command = ["speechllm", "bench", "whisper-padding", "--root", options.root, "--clips", options.clips]
    for name in ("device", "threads", "json", "output"):
        if getattr(options, name) is not None:
            command += [f"--{name}", getattr(options, name)]
    versions = ", ".join(f"{name} {made_by['versions'][name]}" for name in ("torch", "transformers"))
    git = made_by["git"] or {"commit": "unknown", "dirty": False}
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    return f"""# Options of Whisper's encoder on the embedded default

Whisper tiny.en on the first {clips} clips of the demo's dev split, {length} s each on average, synthetic voices.
Every clip is encoded alone, in float32, with the three options in turn.

- Vectors per second of audio: what reaches the adapter, before `frame_stack`.
- Encoder time: the median over the clips of a clip's time divided by its time with `{PADDED}`.
- WER of the checkpoint's own decoder on these features, greedy, with its 95 % bootstrap interval; normaliser
  `{NORMALIZER}`. A hypothesis is cut after {limit}, which decides what a loop costs.

The WER says how far the features move from what that decoder was trained on, not what an adapter that is trained on
them makes of them.

{table(results)}

    {shlex.join(map(str, command))}

{made_by["date_utc"][:10]}, {where}, {versions}, commit {git["commit"][:12]}{" with changes" if git["dirty"] else ""}.
"""


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
