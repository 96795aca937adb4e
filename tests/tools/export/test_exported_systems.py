"""What `speechllm export --format hf` has written is a system like any other: the commands load it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechllm_plugin import load_speech_llm
from tests.commands import Commands, System
from tests.conftest import SENTENCES


@pytest.fixture(scope="module")
def exports(commands: Commands, tuned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of one run: with what was trained alone, and with all merged, the folder of which has moved since."""
    place = tmp_path_factory.mktemp("exports")
    commands.speechllm("export", tuned, place / "named", "--format", "hf").ok()
    commands.speechllm("export", tuned, place / "whole", "--format", "hf", "--with-frozen", "--merge-lora").ok()
    (place / "whole").rename(place / "moved")
    return {"named": place / "named", "merged": place / "moved"}


@pytest.fixture(scope="module")
def files(clips: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The clips, and a talk beyond the encoder's window, which is cut by what the system was trained on."""
    pytest.importorskip("espeakng_loader")
    from tests.speech import speak

    folder = tmp_path_factory.mktemp("files")
    sounds = [*clips, np.tile(np.concatenate(speak(SENTENCES)), 3)]
    assert len(sounds[-1]) > 31 * 16000
    files = [folder / f"{number}.wav" for number in range(len(sounds))]
    for file, clip in zip(files, sounds, strict=True):
        soundfile.write(file, clip, 16000)
    return files


@pytest.mark.parametrize("name", ["named", "merged"])
def test_texts_are_those_of_the_run(
    commands: Commands, tuned: Path, exports: dict[str, Path], files: list[Path], name: str
) -> None:
    for command in (("transcribe", *files, "--timestamps"), ("ask", files[0], "--instruction", "Which? <speech>")):
        of_the_run = commands.speechllm(*command, "--checkpoint", tuned).ok().stdout
        assert len(of_the_run.split()) > 2
        assert commands.speechllm(*command, "--checkpoint", exports[name]).ok().stdout == of_the_run


def test_python_loads_it_and_exports_it_again(
    commands: Commands, tuned: Path, exports: dict[str, Path], clips: list[np.ndarray], tmp_path: Path
) -> None:
    expected = load_speech_llm(tuned, device="cpu").transcribe(clips)
    done = commands.speechllm("export", exports["named"], tmp_path / "whole", "--format", "hf", "--with-frozen").ok()
    assert (tmp_path / "whole/llm/model.safetensors").is_file() and " step " not in done.stderr
    assert load_speech_llm(tmp_path / "whole", device="cpu").transcribe(clips) == expected


def test_inspect_counts_what_the_run_has(commands: Commands, tuned: Path, exports: dict[str, Path]) -> None:
    options = ("--json", "--seconds", 2, "--batch-size", 2)
    of_the_run, of_the_export = (
        json.loads(commands.speechllm("inspect", place, *options).ok().stdout) for place in (tuned, exports["named"])
    )
    assert {**of_the_export, "name": of_the_run["name"]} == of_the_run


def test_a_server_serves_it(exports: dict[str, Path], tuned: Path, files: list[Path]) -> None:
    pytest.importorskip("openai")
    pytest.importorskip("fastapi")
    from tests.tools.serve.serving import Server

    server = Server(exports["merged"])
    try:
        status, body = server.curl("-F", "model=moved", "-F", f"file=@{files[2]}")
    finally:
        server.end()
    (expected,) = load_speech_llm(tuned, device="cpu").transcribe(files[2])
    assert (status, json.loads(body)["text"]) == (200, " ".join(expected.split())), "".join(server.log)


def test_what_is_wrong_is_told_in_one_line(
    commands: Commands, system: System, exports: dict[str, Path], files: list[Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(exports["named"], damaged)
    whole = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(whole[:-9])
    no_config = shutil.copytree(damaged, tmp_path / "no_config")
    (no_config / "config.json").write_text((damaged / "config.json").read_text()[:-9])
    no_system = shutil.copytree(damaged, tmp_path / "no_system")
    (no_system / "config.json").write_text('{"model_type": "speech_llm"}')
    (no_system / "model.safetensors").write_bytes(whole)
    no_llm = shutil.copytree(no_system, tmp_path / "no_llm")
    (no_llm / "config.json").write_text('{"model_type": "speech_llm", "decoding": {}, "system": {"encoder": {}}}')

    for folder, options, line in (
        (exports["named"], ("--step", 4), f"checkpoint: found step 4 for {exports['named']}, an export, which has no"),
        (exports["named"], ("--set", "llm.nam=x"), "model.llm.nam: found an unknown key"),
        (exports["named"], ("--set", "llm.config.path=lost"), "llm.config.path: "),
        (damaged, (), f"checkpoint: found a damaged {damaged / 'model.safetensors'}"),
        (no_config, (), f"checkpoint: found a damaged {no_config / 'config.json'}"),
        (no_system, (), f"checkpoint: found a damaged {no_system / 'config.json'} (decoding is None)"),
        (no_llm, (), f"checkpoint: found a damaged {no_llm / 'config.json'} (system lacks 'config')"),
        (system.llm, (), f"checkpoint: found no model.yaml in {system.llm}"),
    ):
        found = commands.speechllm("transcribe", files[0], "--checkpoint", folder, *options).user_error()
        assert found.startswith(line), found
    found = commands.recipe("evaluate", tmp_path / "out", "--checkpoint", exports["named"]).user_error()
    assert found.startswith(f"checkpoint: found an export in {exports['named']}, which `speechllm transcribe`")
