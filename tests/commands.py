"""The commands as a user runs them, and small configurations for them."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATHS = [str(ROOT / name) for name in (".", "kernels", "recipes", "tools")]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a user's shell. One thread a process: the tests' models are tiny, and results repeat."""
    path = os.pathsep.join([*PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **changes}


@dataclass(frozen=True)
class Result:
    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr

    def errors(self) -> list[str]:
        """The lines that tell what is wrong, without the log's time and name."""
        return re.findall(r"^(?:.* ERROR: fairseq2 - |[\w ]+: error: )(.*)$", self.output, re.MULTILINE)

    def ok(self) -> Result:
        assert self.status == 0, self.output
        return self

    def user_error(self) -> str:
        """The one line about a mistake of the user's."""
        assert self.status == 2, self.output
        assert "Traceback" not in self.output
        lines = self.errors()
        assert len(lines) == 1, self.output
        return lines[0]


class Commands:
    """`fairseq2` and `speechllm` in processes that start at once; see `command_server.py`."""

    def __init__(self, folder: Path, *options: str) -> None:
        """:param options: of the server."""
        self._folder = folder
        self._numbers = itertools.count()
        self._server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "command_server.py"), *options],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(PYTHONFAULTHANDLER="1"),
        )

    def at(self, folder: Path) -> Commands:
        """The same commands, run in another folder."""
        other = copy.copy(self)
        other._folder = folder
        return other

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)

    def fairseq2(
        self,
        *argv: object,
        env: Mapping[str, str] | None = None,
        processes: int = 1,
        kill_when: tuple[Path, str] | None = None,
        kill_by: int = signal.SIGKILL,
        killed: int | None = None,
    ) -> Result:
        return self._run("speechllm_recipes.cli", argv, env or {}, processes, kill_when, kill_by, killed)

    def speechllm(
        self, *argv: object, env: Mapping[str, str] | None = None, kill_when: tuple[Path, str] | None = None
    ) -> Result:
        return self._run("speechllm_tools.cli", argv, env or {}, 1, kill_when)

    def module(self, name: str, *argv: object) -> Result:
        """`main(argv)` of a module."""
        return self._run(name, argv, {}, 1, None)

    def recipe(self, action: str, output: Path, *argv: object, **options: Any) -> Result:
        """`fairseq2 recipe run speech_llm ACTION OUTPUT --no-rich ...`; options as for `fairseq2`."""
        return self.fairseq2("recipe", "run", "speech_llm", action, output, "--no-rich", *argv, **options)

    def _run(
        self,
        module: str,
        argv: Sequence[object],
        env: Mapping[str, str],
        processes: int,
        kill_when: tuple[Path, str] | None,
        kill_by: int = signal.SIGKILL,
        killed: int | None = None,
    ) -> Result:
        number = next(self._numbers)
        files = {name: self._folder / f"{number}.{name}" for name in ("stdout", "stderr")}
        request = {
            "module": module, "argv": [str(argument) for argument in argv], "env": dict(env),
            "cwd": str(self._folder), "processes": processes,
            "kill_when": kill_when and [str(kill_when[0]), kill_when[1]], "kill_by": int(kill_by),
            "killed": killed,
            **{name: str(file) for name, file in files.items()},
        }
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        status = int(self._server.stdout.readline())
        return Result(status, files["stdout"].read_text(), files["stderr"].read_text())


@dataclass(frozen=True)
class System:
    """A configuration of the training recipe over the tests' small models and audio."""

    whisper: Path
    llm: Path
    corpus: Path

    def config(self, **changes: Any) -> dict[str, Any]:
        """Six steps of three clips, in full precision. A change is a dotted key with `__` for the dot."""
        values: dict[str, Any] = {
            "model": {
                "arch": "whisper_tiny_en.smollm2_135m.mlp",
                "config_overrides": {
                    # Far smaller models than those that the architecture names.
                    "encoder": {"arch": None, "config": {"path": str(self.whisper), "pad_to_30s": False}},
                    "llm": {"arch": None, "config": {"path": str(self.llm), "dtype": "float32"}},
                    "adapter": {"config": {"stack": 2, "hidden_dim": 48}},
                    "ctc": {"weight": 0.3, "classifier": "llm_embedding"},
                    # What these untrained systems write is long enough, and different enough, with this one.
                    "prompt": {"order": "instruction_first"},
                },
            },
            "decoding": {"tokens_per_second": 12.0},
            "dataset": {"batch_size": 3, "config_overrides": {"manifests": self.manifests()}},
            "trainer": {"grad_accumulation": {"num_batches": 1}, "mixed_precision": {"mode": "off"}},
            "optimizer": {"config": {"lr": 0.01}},
            "lr_scheduler": {"config": {"num_warmup_steps": 2}},
            "regime": {
                "num_steps": 6, "validate_every_n_steps": 2, "checkpoint_every_n_steps": 2,
                "publish_metrics_every_n_steps": 1,
            },
        }
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = values
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = value
        return values

    def manifests(self, **changes: Path) -> dict[str, str]:
        files = {split: self.corpus / f"{split}.tsv" for split in ("train", "dev", "test")} | changes
        return {split: str(file) for split, file in files.items()}

    def write(self, file: Path, **changes: Any) -> Path:
        file.write_text(json.dumps(self.config(**changes)))
        return file


def metrics(run: Path, name: str) -> list[dict[str, Any]]:
    """The lines of `metrics/NAME.jsonl`, without what differs from run to run: times."""
    lines = (run / "metrics" / f"{name}.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if "Time" not in key} for line in lines]
