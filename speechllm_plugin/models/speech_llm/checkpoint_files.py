"""The files of a training run's checkpoints. Imports no torch, so that faults in them are reported at once."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_text_atomically
from speechllm_plugin.files.yaml_text import parse_yaml
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.exported import ExportedSystem, is_exported
from speechllm_plugin.models.speech_llm.kept_vocabulary import kept_vocabulary
from speechllm_plugin.models.speech_llm.saved_system import SavedSystem, system_config

if TYPE_CHECKING:
    from torch import Tensor

    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig

Step = int | Literal["best", "last"]
DECODING = "decoding.json"
"""File beside the checkpoints: how their run decodes, with the limits that it derived from its data."""


@dataclass(frozen=True)
class Checkpoint(SavedSystem):
    directory: Path
    """The `checkpoints` folder of a run."""
    step_nr: int

    @property
    def name(self) -> str:
        """fairseq2's name for the checkpoint."""
        return f"checkpoint_step_{self.step_nr}"

    @property
    def model_dir(self) -> Path:
        return self.directory / f"step_{self.step_nr}" / "model"

    @property
    def config_file(self) -> Path:
        return self.directory / "model.yaml"

    def weight_files(self) -> list[Path]:
        return sorted(self.model_dir.rglob("*.pt"))

    def weights(self) -> dict[str, Tensor]:
        from speechllm_plugin.models.speech_llm.shards import read_shards

        return read_shards(self.model_dir)

    def config(self, overrides: Mapping[str, Any] | None = None) -> SpeechLlmConfig:
        values = deepcopy(self._values)
        if (kept := kept_vocabulary(values, self.directory)) is not None:
            values["ctc"]["vocabulary"] = kept
        return system_config(values, overrides or {})

    @cached_property
    def _values(self) -> dict[str, Any]:
        """Of the configuration, which is read once."""
        file = self.config_file
        try:
            values: dict[str, Any] = parse_yaml(file.read_text(encoding="utf-8"))["model_config"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"checkpoint: found a damaged {file} ({reason}), expected a configuration") from error
        return values

    def decoding(self) -> DecodingConfig:
        # A run from before there was a `decoding.json` has it in its configuration, if that came along.
        file = self.directory / DECODING
        if not file.is_file():
            file = self.directory.parent / "config.yaml"
        if not file.is_file():
            return DecodingConfig()
        try:
            values = parse_yaml(file.read_text(encoding="utf-8")).get("decoding")
        except (OSError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"checkpoint: found a damaged {file} ({reason}), expected a configuration") from error
        return structure(DecodingConfig, values, f"{file}: decoding")

    def longest_clip(self) -> float | None:
        seconds = self._kept("longest_clip")
        return float(seconds) if isinstance(seconds, int | float) else None

    def clean_text(self) -> str | None:
        """The run's `SpeechTextConfig.clean_text`, which marks were removed from the training texts; None where
        unknown.

        :raises UserError: the file cannot be read.
        """
        kept = self._kept("clean_text")
        return kept if isinstance(kept, str) else None

    def _kept(self, key: str) -> object:
        file = self.directory / DECODING
        if not file.is_file():
            return None
        try:
            return json.loads(file.read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"checkpoint: found a damaged {file} ({reason}), expected a configuration") from error


def find_system(path: Path | str, step: Step = "best") -> SavedSystem:
    """
    :param path: as for `find_checkpoint`, or a folder that `speechllm export --format hf` has written.
    :raises UserError: there is no such system, or its files are damaged.
    """
    folder = Path(path)
    if not is_exported(folder):
        return find_checkpoint(folder, step)
    if isinstance(step, int):
        raise UserError(f"checkpoint: found step {step} for {folder}, an export, which has no steps; expected none")
    exported = ExportedSystem(folder)
    exported.check_weights()
    return exported


def find_checkpoint(path: Path | str, step: Step = "best") -> Checkpoint:
    """
    :param path: a run directory, its `checkpoints` folder, or one `step_N` in it (`step` is then ignored).
    :param step: a step number; "last"; or "best" by the validation score, which falls back on the last.
    :raises UserError: there is no such checkpoint, or its files are damaged.
    """
    checkpoint = _choose_checkpoint(Path(path), step)
    check_files(checkpoint.model_dir)
    return checkpoint


def parse_step(text: str) -> Step:
    """Reads a step from a command line.

    :raises UserError: the text is no step.
    """
    if text in ("best", "last"):
        return text  # type: ignore[return-value]
    # A folder's name has ASCII digits only; `isdigit` also accepts those of other scripts.
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"--step: found {text!r}, expected best, last or a step number")
    return int(text)


def step_numbers(directory: Path) -> list[int]:
    """The steps with a finished checkpoint in `directory`, in order."""
    return sorted(int(folder.name[5:]) for folder in directory.glob("step_*") if folder.name[5:].isdecimal())


def check_files(folder: Path) -> None:
    """Finds files that were cut by a full disk or an unfinished copy. It reads their directories, not their tensors.

    :raises UserError: a file is damaged, or there is none.
    """
    files = sorted(folder.rglob("*.pt"))
    if not files:
        raise UserError(f"checkpoint: found no file in {folder}, expected those that a training run has written")
    for file in files:
        try:
            zipfile.ZipFile(file).close()
        except (zipfile.BadZipFile, OSError) as error:
            raise UserError(
                f"checkpoint: found a damaged file {file} ({error}), expected a whole one; other steps of the run may "
                "be usable"
            ) from error


def _choose_checkpoint(path: Path, step: Step) -> Checkpoint:
    if not path.exists():
        raise UserError(f"checkpoint: found no {path}, expected the output directory of a training run")
    if match := re.fullmatch(r"step_(\d+)", path.resolve().name):
        step, path = int(match[1]), path.resolve().parent
    if is_exported(path):
        raise UserError(f"checkpoint: found an export in {path}, which `speechllm transcribe`, `ask` and `serve` load; "
                        "expected the output directory of a training run")
    directory = path if (path / "model.yaml").is_file() else path / "checkpoints"
    if not (directory / "model.yaml").is_file():
        raise UserError(f"checkpoint: found no model.yaml in {path} or {path / 'checkpoints'}, expected the output "
                        "directory of a training run")
    steps = step_numbers(directory)
    if not steps:
        raise UserError(f"checkpoint: found no step_N in {directory}; the run has not saved a checkpoint yet")
    if isinstance(step, int):
        if step not in steps:
            raise UserError(f"checkpoint: found steps {', '.join(map(str, steps))} in {directory}, not {step}")
        return Checkpoint(directory, step)
    scores = {number: score for number in steps if (score := _score(directory, number)) is not None}
    if step == "best" and scores:
        # Among equal scores the later one, as in fairseq2.
        return Checkpoint(directory, max(scores, key=lambda number: (scores[number], number)))
    return Checkpoint(directory, steps[-1])


def describe_choice(checkpoint: Checkpoint) -> str:
    """Says which of its run's checkpoints this is."""
    chosen = (("the last", "last"), ("the best by validation", "best"))
    steps = {name: find_checkpoint(checkpoint.directory, parse_step(step)).step_nr for name, step in chosen}
    own = [name for name, step in steps.items() if step == checkpoint.step_nr]
    others = [f"{name} is step {step}" for name, step in steps.items() if step != checkpoint.step_nr]
    return "; ".join([", ".join([f"step {checkpoint.step_nr} of {checkpoint.directory.parent}", *own]), *others])


def named_checkpoint(directory: Path | None, name: str | None) -> Checkpoint | None:
    """The checkpoint with a name of fairseq2; None for a model that is not from a run."""
    if directory is None or name is None:
        return None
    if match := re.fullmatch(r"checkpoint_step_(\d+)", name):
        return find_checkpoint(directory, int(match[1]))
    if name in ("last_checkpoint", "best_checkpoint"):
        return find_checkpoint(directory, "last" if name == "last_checkpoint" else "best")
    return None


def keep_decoding(directory: Path, decoding: DecodingConfig, longest_clip: float, clean_text: str) -> None:
    """
    :param directory: the `checkpoints` folder of the run.
    :param longest_clip: see `Checkpoint.longest_clip`.
    :param clean_text: see `Checkpoint.clean_text`.
    """
    values = {"decoding": asdict(decoding), "longest_clip": round(longest_clip, 3), "clean_text": clean_text}
    write_text_atomically(directory / DECODING, json.dumps(values, indent=2) + "\n")


def _score(directory: Path, step_nr: int) -> float | None:
    file = directory / "scores" / f"step_{step_nr}.txt"
    if not file.is_file():
        return None
    text = file.read_text()
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"checkpoint: found {text!r} in {file}, expected the score of step {step_nr}") from error
