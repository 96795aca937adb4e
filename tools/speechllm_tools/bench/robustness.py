"""Measures a trained system's WER on changed recordings: with silence, noise, another level, a telephone band."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
from speechllm_plugin.datasets.augmentation import Augmentation, augment
from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.datasets.manifest import ManifestRow, read_manifest
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint
from speechllm_plugin.scoring.provenance import provenance
from speechllm_plugin.scoring.report import Hypothesis, score
from speechllm_plugin.scoring.table import format_wer
from speechllm_plugin.tasks.api import task_of_row
from speechllm_tools.bench.report import describe_machine

AS_THEY_ARE = "as they are"
CHANGES: Mapping[str, Augmentation] = {
    AS_THEY_ARE: Augmentation(),
    "cut to the speech": Augmentation(cut_front=True, cut_back=True),
    "0.25 s of silence behind": Augmentation(back=0.25),
    "0.5 s of silence behind": Augmentation(back=0.5),
    "0.5 s of silence before": Augmentation(front=0.5),
    "1 s of silence at both ends": Augmentation(front=1.0, back=1.0),
    "2 s of silence at both ends": Augmentation(front=2.0, back=2.0),
    "soft noise (30 dB)": Augmentation(noise_db=30.0, pink=True),
    "soft noise, 0.5 s behind": Augmentation(noise_db=30.0, pink=True, back=0.5),
    "soft noise, 2 s at both ends": Augmentation(noise_db=30.0, pink=True, front=2.0, back=2.0),
    "white noise (20 dB)": Augmentation(noise_db=20.0),
    "20 dB quieter": Augmentation(gain_db=-20.0),
    "telephone": Augmentation(telephone=True),
}
"""The change of every clip in each row of the table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures of one change."""

    name: str
    wer: float
    interval: str
    """The rate with its interval, as tables show it."""
    looping: int


def run(options: argparse.Namespace, device: str, *, report: Callable[[str], None]) -> int:
    rows = read_manifest(options.manifest)[: options.clips]
    checkpoint = find_checkpoint(options.checkpoint)
    system = Transcriber.of(checkpoint, device=device)
    waveforms = [read_audio(resolve(row.audio, options.manifest.parent)) for row in rows]
    found = []
    for name, changes in CHANGES.items():
        report(f"robustness: {name} ...")
        changed = [torch.from_numpy(augment(waveform, changes)) for waveform in waveforms]
        found.append(_figures(name, rows, changed, _decode(system, rows, changed, options.batch_size)))
    print(table(found))
    if options.output is not None:
        made_by = provenance({"decoding": system.decoding}, checkpoint.model_dir, [options.manifest])
        write_text_atomically(options.output, _page(found, options, describe_machine(device), made_by))
    return 0


def _decode(
    system: Transcriber, rows: Sequence[ManifestRow], waveforms: Sequence[Tensor], batch_size: int
) -> list[str]:
    texts = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(waveforms[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = _batch([rows[index] for index in indices], [waveforms[index] for index in indices])
        batch.to(next(system.model.parameters()).device)
        with torch.inference_mode():
            for index, text in zip(indices, system.model.generate(batch, system.decoding)[0], strict=True):
                texts[index] = text
    return texts


def _batch(rows: Sequence[ManifestRow], waveforms: Sequence[Tensor]) -> SpeechTextBatch:
    clips = []
    for number, (row, waveform) in enumerate(zip(rows, waveforms, strict=True)):
        source_lang = row.src_lang or "en"
        target_lang = row.tgt_lang or source_lang
        clips.append(
            Clip(
                id=row.id, row=number, task=task_of_row(source_lang, target_lang, row.task), source_lang=source_lang,
                target_lang=target_lang, text=row.tgt_text, transcript=row.src_text or row.tgt_text, audio=row.audio,
                audio_key=row.id, seconds=len(waveform) / SAMPLE_RATE, waveform=waveform,
            )
        )  # fmt: skip
    return SpeechTextBatch(clips)


def _figures(name: str, rows: Sequence[ManifestRow], waveforms: Sequence[Tensor], texts: Sequence[str]) -> Row:
    hypotheses = [
        Hypothesis(row.id, row.tgt_text, text, row.audio, len(waveform) / SAMPLE_RATE, "en", "en")
        for row, waveform, text in zip(rows, waveforms, texts, strict=True)
    ]
    scores = score(hypotheses, "basic")
    if "asr" not in scores:
        raise UserError("--manifest: found translations only, expected transcripts")
    asr = scores["asr"]
    return Row(name=name, wer=asr["wer"], interval=format_wer(asr), looping=scores["looping_hypotheses"])


def table(rows: Sequence[Row]) -> str:
    """The table in Markdown; the last column compares with the first row."""
    first = next(row for row in rows if row.name == AS_THEY_ARE)
    lines: list[Sequence[str]] = [("clips", "WER (%)", "ratio", "loops"), ["---"] * 4]
    for row in rows:
        ratio = f"{row.wer / first.wer:.2f}" if first.wer else "-"
        lines.append((row.name, row.interval, ratio, str(row.looping)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(
    rows: Sequence[Row], options: argparse.Namespace, machine: Mapping[str, Any], made_by: Mapping[str, Any]
) -> str:
    command = ["speechllm", "bench", "robustness"]
    for name in ("checkpoint", "manifest", "clips", "batch-size", "output"):
        if (value := getattr(options, name.replace("-", "_"))) is not None:
            command += [f"--{name}", value]
    versions = ", ".join(f"{name} {made_by['versions'][name]}" for name in ("torch", "transformers"))
    git = made_by["git"] or {"commit": "unknown", "dirty": False}
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    return f"""# Clips as people record them

What is done to each clip, the WER (normaliser `basic`) with its 95 % bootstrap interval, its ratio to that of the clips
as they are, and how many hypotheses loop. Silence is digital, noise lies over the whole clip.

{table(rows)}

    {shlex.join(map(str, command))}

{made_by["date_utc"][:10]}, {where}, {versions}, commit {git["commit"][:12]}{" with changes" if git["dirty"] else ""}.
"""
