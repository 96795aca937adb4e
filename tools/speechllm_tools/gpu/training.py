"""Runs the training recipe of a system with random weights, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechllm_plugin.errors import UserError
from speechllm_tools.gpu.parts import write_clips, write_encoder, write_llm

_SMALL_ADAPTER = {"dim": 32, "num_heads": 4, "ffn_dim": 64}
_COUNTS = {"train": 200, "dev": 16}
_TINY_COUNTS = {"train": 12, "dev": 4}


@dataclass(frozen=True)
class Workplace:
    """Where models, clips and runs are made."""

    folder: Path
    device: str
    tiny: bool
    """Whether parts have two layers."""
    report: Callable[[str], None]

    def clips(self) -> dict[str, str]:
        """:returns: the manifest of each split."""
        counts = _TINY_COUNTS if self.tiny else _COUNTS
        return write_clips(self.folder / "clips", counts, 2.0 if self.tiny else 12.0)

    def configuration(self, name: str, manifests: dict[str, str], **sections: Any) -> dict[str, Any]:
        """The configuration of a training run; writes the parts that are not there yet.

        :param name: of the system.
        :param sections: further sections.
        """
        encoder, llm, _ = name.split(".")
        for part, write in ((encoder, write_encoder), (llm, write_llm)):
            if not (self.folder / part).is_dir():
                self.report(f"{part}: weights are drawn and written")
                write(part, self.folder / part, self.device, tiny=self.tiny)
        overrides: dict[str, Any] = {
            "encoder": {"arch": None, "config": {"path": str(self.folder / encoder)}},
            "llm": {"arch": None, "config": {"path": str(self.folder / llm)}},
        }
        if self.tiny:
            overrides["adapter"] = {"config": _SMALL_ADAPTER}
        return {
            "model": {"arch": name, "config_overrides": overrides},
            "dataset": {"batch_size": 4, "valid_splits": [], "config_overrides": {"manifests": manifests}},
            "decoding": {"tokens_per_second": 6.0},
            **sections,
        }

    def train(self, name: str, config: dict[str, Any], output: Path) -> str:
        """
        :returns: what the recipe has printed.
        :raises UserError: it failed.
        """
        file = self.folder / f"{name}.yaml"
        file.write_text(json.dumps(config), encoding="utf-8")
        recipe = ("speechllm_recipes", "recipe", "run", "speech_llm", "train", output, "--no-rich")
        return self.python(*recipe, "--config-file", file)

    def python(self, module: str, *arguments: object) -> str:
        """
        :returns: the output of the module.
        :raises UserError: the module failed.
        """
        hidden = {} if self.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)], env={**os.environ, "HF_HUB_OFFLINE": "1", **hidden},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if result.returncode != 0:
            raise UserError(f"{_short([module, *arguments])}: {last_line(result.stderr or result.stdout)}")
        return result.stdout + result.stderr


def last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"^.* ERROR: fairseq2 - ", "", lines[-1]) if lines else "no output"


def _short(words: Sequence[object]) -> str:
    return " ".join(str(word) for word in words[:6])
