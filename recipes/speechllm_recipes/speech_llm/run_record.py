"""Records in a run's directory which system it trains, so that resuming never mixes two systems."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from fairseq2.gang import Gangs

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.checkpoint_files import check_files, step_numbers
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

RUN_RECORD = "run.json"

MIXED_PRECISION = "mixed_precision"
"""Key of the dtype that the trained parts compute in."""


def recorded_precision(output_dir: Path) -> dict[str, str] | None:
    """Dtype of each part at the beginning of a run that can be resumed, with `mixed_precision` for the trained parts.
    None for a new run."""
    file = output_dir / RUN_RECORD
    if not file.exists() or not step_numbers(output_dir / "checkpoints"):
        return None
    record = _read(file)
    # Older records lack the key; bfloat16 was the default then.
    precision = {MIXED_PRECISION: str(record.get(MIXED_PRECISION, "bfloat16"))}
    for part in ("encoder", "llm"):
        if (dtype := record["model"].get(f"{part}.config.dtype")) is not None:
            precision[part] = str(dtype)
    return precision


def check_run_record(output_dir: Path, config: SpeechLlmConfig, mixed_precision: str, gangs: Gangs) -> None:
    """Writes the record of a new run, or compares the record of a run to be resumed.

    :param mixed_precision: dtype that the trained parts compute in, which a resumed run may change.

    :raises UserError: `output_dir` holds another system, was written by another number of processes, or its last
        checkpoint is damaged.
    """
    file = output_dir / RUN_RECORD
    record: dict[str, Any] = {
        "processes": gangs.root.size,
        MIXED_PRECISION: mixed_precision,
        "model": _flat(dataclasses.asdict(config)),
    }
    steps = step_numbers(output_dir / "checkpoints")
    if file.exists() and steps:
        earlier = _read(file)
        if earlier["processes"] != record["processes"]:
            raise UserError(
                f"{file}: the run was started with {earlier['processes']} processes, found {record['processes']}; "
                "expected the same number to resume it, or a new output directory"
            )
        check_files(output_dir / "checkpoints" / f"step_{steps[-1]}")
        # The order is that of the configuration, so that the error names a part before the keys that depend on it.
        earlier_model = _completed(earlier["model"], file)
        for key in dict.fromkeys([*earlier_model, *record["model"]]):
            # A vocabulary's file may have moved, since its SHA-256 is compared. Packed rows train the same system.
            if key in ("ctc.vocabulary", "llm.config.packed"):
                continue
            before, now = earlier_model.get(key), record["model"].get(key)
            if before != now and not _same_weights(key, earlier_model, record["model"]):
                raise UserError(
                    f"{file}: the run trains a system with {key} = {before!r}, found {now!r}; expected the same to "
                    "resume it, or a new output directory"
                )
    elif gangs.root.rank == 0:
        file.write_text(json.dumps(record, indent=2) + "\n")
    gangs.root.barrier()


def _same_weights(key: str, earlier: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether the weights are the same although a key differs: they were moved, or not recorded by an older version."""
    part, _, name = key.partition(".")
    before, found = (model.get(f"{part}.weights") for model in (earlier, now))
    return (name == "config.path" and before is not None and before == found) or (name == "weights" and before is None)


def _read(file: Path) -> dict[str, Any]:
    try:
        record = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: found a damaged file ({error}), expected the record of the run to resume") from error
    for key, kind in (("processes", int), ("model", dict)):
        if not isinstance(record, dict) or not isinstance(record.get(key), kind):
            raise UserError(
                f"{file}: found a damaged file (no `{key}` in it), expected the record of the run to resume"
            )
    return record


def _completed(values: dict[str, object], file: Path) -> dict[str, object]:
    """The recorded keys, with defaults for keys that are newer than the record."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *parents, last = key.split(".")
        section = nested
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise UserError(f"{file}: found a damaged file ({key} below a value), expected the record of the run "
                                "to resume")
        section[last] = value
    try:
        config = structure(SpeechLlmConfig, nested, "model")
        config.resolve()
    except UserError as error:
        # The mistake is not in the user's configuration: this version does not understand the record of the run.
        raise UserError(
            f"{file}: recorded by another version: {error}; expected the version that wrote it to resume the run, or "
            "a new output directory"
        ) from error
    return _flat(dataclasses.asdict(config))


def _flat(values: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
