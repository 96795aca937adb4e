"""What `speechllm export` refuses, in one line each and without a file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from speechllm_tools.cli import main
from speechllm_tools.export.formats.ultravox import REASONS

from speechllm_plugin.adapters.api import ADAPTERS
from tests.commands import Commands


def test_bad_input_is_one_line_and_no_folder(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full, out = tmp_path / "full", tmp_path / "out"
    full.mkdir()
    (full / "file").touch()
    for arguments, line in (
        ((tuned, full, "--format", "hf"), f"OUT: found files in {full}, expected a folder that is empty"),
        ((tuned, full / "file", "--format", "hf"), f"OUT: found a file at {full / 'file'}, expected a folder"),
        ((tmp_path / "lost", out, "--format", "hf"), f"checkpoint: found no {tmp_path / 'lost'}, expected"),
        ((tuned, out, "--format", "hf", "--step", "7"), "checkpoint: found steps 4 in"),
        ((tuned, out, "--format", "ultravox", "--merge-lora"),
         "--merge-lora: found the format 'ultravox', expected 'hf'"),
        ((tuned, out, "--format", "hf", "--set", "llm.config.path=lost"), "llm.config.path: "),
        ((tuned, out, "--format", "hf", "--merge-lora", "--set", "llm.config.quantization=int8"),
         "llm.config.quantization: found 'int8', expected 'none'"),
        ((tuned, out, "--format", "hf", "--merge-lora", "--set", "llm_tuning={}"),
         "llm_tuning: found an LLM that was not trained"),
        ((tuned, full / "file" / "deeper", "--format", "hf"), f"{full / 'file'}"),
    ):  # fmt: skip
        assert main(["export", *map(str, arguments)]) == 2
        error = capsys.readouterr().err.strip()
        assert error.splitlines()[-1].startswith(f"speechllm export: error: {line}"), error
        assert not out.exists()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["full", "file"]


def test_a_folder_appears_whole_or_not_at_all(
    commands: Commands, tuned: Path, tmp_path: Path
) -> None:
    """The weights of the checkpoint are read last, and are no weights."""
    damaged = tmp_path / "run"
    shutil.copytree(tuned / "checkpoints", damaged / "checkpoints")
    (file,) = (damaged / "checkpoints/step_4/model").rglob("*.pt")
    shutil.copy(Path(__file__).parents[3] / "tests/commands.py", file)
    line = commands.speechllm("export", damaged, tmp_path / "out", "--format", "hf", "--step", 4).user_error()
    assert line.startswith("checkpoint: found a damaged file")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("adapter", ADAPTERS.names())
def test_no_adapter_has_the_shape_of_ultravox(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], adapter: str
) -> None:
    change = f"adapter={{name: {adapter}}}"
    assert main(["export", str(tuned), str(tmp_path / "out"), "--format", "ultravox", "--set", change]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--format: found 'ultravox' for the adapter {adapter!r}, which has {REASONS[adapter]}" in line
