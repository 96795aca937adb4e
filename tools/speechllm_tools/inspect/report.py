"""Formats the output of `speechllm inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from speechllm_plugin.cost.estimate import PROMPT_TOKENS, TEXT_VOCABULARY
from speechllm_plugin.cost.gpu_memory import USABLE
from speechllm_plugin.models.speech_llm.config import part_dtypes
from speechllm_plugin.tensors.parameters import count_parameters
from speechllm_tools.inspect.facts import Facts
from speechllm_tools.inspect.published import SIZE_NOTES, SIZES


def describe(facts: Facts) -> str:
    """The text for one system."""
    sections = [[facts.name], _parts(facts), _sizes(facts), _rates(facts), _flops(facts), _memory(facts)]
    return "\n\n".join("\n".join(section) for section in sections if section)


def table(all_facts: Sequence[Facts]) -> str:
    """The table of several systems, with a row for each."""
    first = all_facts[0]
    header = ["architecture", "trained M", "length M", "layers M", "published M", "frozen B", "vectors", "TFLOP",
              "GB/sample", "GB/GPU", "recomputed", "clips"]
    rows = [header]
    for facts in all_facts:
        skeleton, cost = facts.skeleton, facts.cost
        published = SIZES.get(skeleton.config.adapter.name)
        rows.append(
            [
                facts.name,
                f"{skeleton.trained / 1e6:.2f}",
                _millions(facts.size.length if facts.size else None),
                _millions(facts.size.modality if facts.size else None),
                f"{_millions(published.length)} + {_millions(published.modality)}" if published else "-",
                f"{skeleton.frozen / 1e9:.3f}",
                f"{'~' if facts.content_dependent else ''}{facts.clip.vectors}",
                f"{cost.flops / 1e12:.2f}",
                f"{cost.sample_bytes / 1e9:.2f}",
                f"{facts.room.plain / 1e9:.1f}",
                f"{facts.room.recomputed / 1e9:.1f}",
                f"{facts.room.fits}",
            ]
        )
    notes = [
        f"Training on clips of {first.clip.seconds:g} s with {first.target_tokens} target tokens, {first.batch_size} "
        "clips on a GPU. Estimates; 1 GB is 1e9 bytes.",
        f"recomputed: GB on a GPU with activation checkpointing; clips: how many of the {first.batch_size} then fit "
        f"within {USABLE:.0%} of {first.memory / 1e9:g} GB.",
        "length + layers: the length and modality adapters as arXiv 2409.17044 counts them (table II), with its own "
        "figures, which are for Mistral's vocabulary.",
        f"conv: {SIZE_NOTES['conv']}.",
        "~: depends on what is said; as published (table I) or, for cif, one vector for each target token.",
    ]
    return "\n".join([*_aligned(rows), "", *notes])


def _parts(facts: Facts) -> list[str]:
    skeleton, config = facts.skeleton, facts.skeleton.config
    encoder, llm = skeleton.encoder, skeleton.llm
    window = "any length" if encoder.max_seconds is None else f"up to {encoder.max_seconds:g} s"
    rows = [
        ["part", "parameters", "of them trained", "", ""],
        ["encoder", *_counts(encoder), str(config.encoder.name), _source(config.encoder.config)],
        ["adapter", *_counts(skeleton.adapter), str(config.adapter.name), ""],
        ["llm", *_counts(llm), str(config.llm.name), _source(config.llm.config)],
        ["in all", f"{skeleton.trained + skeleton.frozen:,}", f"{skeleton.trained:,}", "", ""],
    ]
    if skeleton.ctc is not None:
        head = [config.ctc.classifier, f"weight {config.ctc.weight:g}"]
        rows.insert(3, ["CTC head", *_counts(skeleton.ctc), *head])
    joined = f", {config.frame_stack} frames joined before the adapter" if config.frame_stack > 1 else ""
    return [
        *_aligned(rows),
        f"encoder: width {encoder.dim}, {encoder.frame_rate:g} Hz, {window}{joined}; "
        f"LLM: width {llm.dim}, vocabulary {llm.embedding_table.size(0):,}",
        _precision(facts),
    ]


def _precision(facts: Facts) -> str:
    machine, dtypes = facts.machine, set(part_dtypes(facts.skeleton.config).values())
    line = f"precision: `auto` is {machine.auto} on this machine: {machine.reason}"
    if machine.auto == "float32" and "auto" in dtypes:
        line += "; the estimates are for a GPU and take it for bfloat16"
    unlike = sorted(dtype for dtype in dtypes if machine.decode_in(dtype) != dtype)
    return line + "".join(f"; a checkpoint trained in {dtype} is decoded in float32" for dtype in unlike)


def _sizes(facts: Facts) -> list[str]:
    if facts.size is None:
        return []
    name = facts.skeleton.config.adapter.name
    published = SIZES.get(name)
    rows = [
        ["table II of arXiv 2409.17044", "length adapter M", "modality adapter M"],
        ["this configuration", _millions(facts.size.length), _millions(facts.size.modality)],
    ]
    if published is not None:
        rows.append(["published", _millions(published.length), _millions(published.modality)])
    note = SIZE_NOTES.get(name)
    return [*_aligned(rows), *([f"note: {note}"] if note else [])]


def _rates(facts: Facts) -> list[str]:
    about = "about " if facts.content_dependent else ""
    rows = [["clip s", "encoder frames", "output vectors", "compression", "vectors per second"]]
    for clip in facts.clips:
        vectors, compression = f"{about}{clip.vectors}", f"{clip.compression:.1f}:1"
        rows.append([f"{clip.seconds:g}", f"{clip.frames}", vectors, compression, f"{clip.hertz:.2f}"])
    lines = _aligned(rows)
    if facts.padded:
        frames = facts.clips[0].frames
        lines.append(
            f"note: the encoder pads every clip to {facts.skeleton.encoder.max_seconds:g} s and gives {frames} frames "
            "for any; encoder.config.trim=true keeps those of the clip"
        )
    if facts.content_dependent:
        lines.append(f"note: the output's length depends on what is said; {_content_rates(facts)}")
    if facts.rate is not None:
        lines.append(f"published (table I): {facts.rate.compression}:1, {facts.rate.hertz:g} Hz")
    return lines


def _content_rates(facts: Facts) -> str:
    if facts.rate is not None:
        return "these are the published rates (table I)"
    if facts.assumed_from is not None:
        return f"assumed is the rate published for {facts.assumed_from} and the paper's settings (table I)"
    return "this is the most, a vector for each frame: nothing is published for this adapter"


def _flops(facts: Facts) -> list[str]:
    cost, clip = facts.cost, facts.clip
    rows = [
        ["training, per sample", "TFLOP", "GB kept"],
        *([part, f"{work.flops / 1e12:.3f}", f"{work.kept_bytes / 1e9:.3f}"] for part, work in
          (("encoder", cost.encoder), ("adapter", cost.adapter), ("CTC head", cost.ctc), ("LLM", cost.llm))
          if work.flops),
        ["in all", f"{cost.flops / 1e12:.3f}", f"{cost.sample_bytes / 1e9:.3f}"],
    ]
    about = "about " if facts.content_dependent else ""
    return [
        *_aligned(rows),
        f"for a clip of {clip.seconds:g} s ({clip.frames} frames, {about}{clip.vectors} vectors), {PROMPT_TOKENS} "
        f"tokens of prompt and {facts.target_tokens} of answer",
    ]


def _memory(facts: Facts) -> list[str]:
    cost = facts.cost
    rows = [
        ["training, per GPU", "GB"],
        ["frozen weights", f"{cost.frozen_bytes / 1e9:.2f}"],
        ["trained, float32 with gradients and Adam", f"{cost.trained_bytes / 1e9:.2f}"],
        [f"{facts.batch_size} samples", f"{(facts.room.plain - cost.frozen_bytes - cost.trained_bytes) / 1e9:.2f}"],
        ["in all", f"{facts.room.plain / 1e9:.2f}"],
        ["with activation checkpointing", f"{facts.room.recomputed / 1e9:.2f}"],
    ]
    lines = [
        *_aligned(rows),
        f"On one GPU: {facts.room.describe()}.",
        "Estimates; 1 GB is 1e9 bytes. Nothing sharded, every clip of the batch as long. Not in it: libraries, "
        "temporaries of single operations, fragmentation.",
    ]
    if facts.skeleton.ctc is not None and facts.skeleton.config.ctc.classifier == "llm_embedding":
        lines.append(f"The CTC head's labels follow from the training text: {TEXT_VOCABULARY:,} are assumed.")
    return lines


def _counts(module: nn.Module) -> list[str]:
    return [f"{count_parameters(module):,}", f"{count_parameters(module, trained=True):,}"]


def _millions(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _source(config: Any) -> str:
    """Path and precision of a part, if it has such keys."""
    return ", ".join(str(getattr(config, key)) for key in ("path", "dtype") if hasattr(config, key))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligns the first column to the left, and columns of numbers to the right."""
    columns = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [any(cell[:1].isdigit() for cell in column[1:2]) for column in columns]
    return [
        "  ".join(
            cell.rjust(width) if right and i else cell.ljust(width)
            for i, (cell, width, right) in enumerate(zip(row, widths, numeric, strict=True))
        ).rstrip()
        for row in rows
    ]
