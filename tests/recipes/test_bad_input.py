"""Mistakes of the user's: one line that names the place, what was found and what was expected; exit status 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.commands import Commands, Result, System, metrics

HEADER = "id\taudio\tn_frames\ttgt_text\n"


@pytest.fixture(scope="module")
def config(system: System, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return system.write(tmp_path_factory.mktemp("config") / "config.yaml")


@pytest.fixture
def broken_audio(tmp_path: Path) -> Path:
    """A folder of files that are no usable audio."""
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "directory.wav").mkdir()
    (tmp_path / "nothing.wav").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(0, dtype=np.float32), 16000)
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16000, dtype=np.float32), 16000)
    soundfile.write(tmp_path / "slow.wav", np.zeros(1000, dtype=np.float32), 2000)
    return tmp_path


@pytest.mark.parametrize(
    ("audio", "n_frames", "words"),
    [
        ("lost.wav", "50", ("no such file",)),
        ("directory.wav", "50", ("a directory",)),
        ("text.wav", "50", ("no audio", "wav, flac, mp3 or ogg")),
        ("nothing.wav", "", ("no audio",)),
        ("silent.wav", "50", ("zero samples",)),
        ("slow.wav", "50", ("2000 Hz", "4000 to 192000 Hz")),
        ("long.wav", "", ("31.00 s", "at most 30 s")),
        # The manifest says half a second: the file itself is what counts.
        ("long.wav", "50", ("31.00 s", "at most 30 s")),
    ],
)
def test_audio_that_cannot_be_used(
    commands: Commands, system: System, config: Path, broken_audio: Path, audio: str, n_frames: str,
    words: tuple[str, ...],
) -> None:
    manifest = broken_audio / "train.tsv"
    manifest.write_text(f"{HEADER}{_good_rows(system)}bad\t{audio}\t{n_frames}\thello\n")
    line = _train(commands, config, broken_audio, f"dataset.config_overrides.manifests.train={manifest}")
    assert line.startswith(f"{manifest}, line 8, id bad, column 'audio': ")
    for word in words:
        assert word in line


def test_broken_clips_can_be_left_out(
    commands: Commands, system: System, config: Path, broken_audio: Path
) -> None:
    manifest = broken_audio / "train.tsv"
    rows = "".join(f"bad_{name}\t{name}.wav\t{frames}\thello\n" for name, frames in (("long", ""), ("text", "50")))
    manifest.write_text(HEADER + _good_rows(system) + rows)
    result = commands.recipe(
        "train", broken_audio / "run", "--config-file", config, "--config", "dataset.on_error=skip",
        f"dataset.config_overrides.manifests.train={manifest}",
    ).ok()
    lines = [line.partition("Clip left out ")[2] for line in result.output.splitlines() if "Clip left out" in line]
    assert [line.partition(": ")[0] for line in lines] == ["(number 1)", "(number 2)"]
    assert f"{manifest}, line 8, id bad_long, column 'audio': the audio lasts 31.00 s" in lines[0]
    assert f"{manifest}, line 9, id bad_text, column 'audio': text.wav: found no audio" in lines[1]
    last = metrics(broken_audio / "run", "train")[-1]
    assert (last["Step"], last["Clips left out"]) == (6, 2)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id\taudio\n1\ta.wav\n", ("line 1", "'id', 'audio'", "expected also 'tgt_text'")),
        (b"id\taudio\ttgt_text\n1\ta.wav\t \n", ("line 2, column 'tgt_text'", "found ' '", "some text")),
        (b"id\taudio\ttgt_text\n1\ta.wav\thi\n1\tb.wav\tho\n", ("line 3, column 'id'", "found '1'", "line 2")),
        (b"id\taudio\ttgt_text\n1\ta.wav\n", ("line 2", "found 2 tab-separated fields", "expected 3")),
        (b"id\taudio\ttgt_text\n1\ta.wav\tcaf\xe9\n", ("line 2", "byte 0xe9 at byte 12", "expected UTF-8")),
        (b"id\taudio\tn_frames\ttgt_text\n1\ta.wav\t-3\thi\n", ("line 2, column 'n_frames'", "'-3'", "positive")),
        (b"", ("an empty file",)),
        (None, ("no such file",)),
    ],
    ids=["column", "text", "id", "ragged", "utf8", "n_frames", "empty", "missing"],
)
def test_manifests_that_are_wrong(
    commands: Commands, config: Path, tmp_path: Path, content: bytes | None, words: tuple[str, ...]
) -> None:
    manifest = tmp_path / "train.tsv"
    if content is not None:
        manifest.write_bytes(content)
    line = _train(commands, config, tmp_path, f"dataset.config_overrides.manifests.train={manifest}")
    assert line.startswith(str(manifest))
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("override", "words"),
    [
        # Unknown keys, at every depth: our sections, fairseq2's, and the parts' own configurations.
        ("nonsense=1", ("nonsense: found an unknown key",)),
        ("regime.num_step=3", ("regime.num_step: found an unknown key",)),
        ("dataset.bach_size=3", ("dataset.bach_size: found an unknown key",)),
        ("optimizer.config.lrr=1", ("optimizer.config.lrr: found an unknown key",)),
        ("model.config_overrides.adaptr.name=mlp", ("model.config_overrides.adaptr: found an unknown key",)),
        ("model.config_overrides.adapter.nme=mlp", ("model.config_overrides.adapter.nme: found an unknown key",)),
        ("model.config_overrides.adapter.config.stak=2", ("adapter.config.stak: found an unknown key", "stack")),
        ("dataset.config_overrides.manifest.train=x", ("dataset.config_overrides.manifest: found an unknown key",)),
        # Values of another type, and outside what is allowed.
        ("regime.num_steps=many", ("regime.num_steps", "'many'", "an integer")),
        ("optimizer.config.lr=fast", ("optimizer.config.lr", "'fast'", "a number")),
        ("dataset.valid_decode=maybe", ("dataset.valid_decode", "str", "bool")),
        ("optimizer.config=3", ("optimizer.config", "int", "a mapping")),
        ("dataset.on_error=ignore", ("dataset.on_error", "'ignore'", "raise, skip")),
        ("dataset.batch_size=0", ("dataset", "batch_size", "at least 1", "0")),
        ("model.config_overrides.adapter.config.stack=two", ("adapter.config.stack", "'two'", "int")),
        ("model.config_overrides.ctc.weight=-1", ("ctc.weight: found -1.0, expected finite and at least 0",)),
        ("decoding.beam_size=0", ("decoding", "beam_size", "at least 1", "0")),
        ("decoding.tokens_per_second=-1", ("decoding", "tokens_per_second", "at least 0", "-1")),
        ("lr_scheduler.config.num_warmup_steps=6", ("num_warmup_steps: found 6, expected less than `regime.num_st",)),
        ("regime", ("--config", "regime")),
        ("optimizer.config.lr=-1", ("optimizer.config.lr: found -1.0, expected above 0",)),
        ("regime.publish_metrics_every_n_steps=0", ("publish_metrics_every_n_steps: found 0, expected at least 1",)),
        ("regime.num_steps=2.5", ("regime.num_steps: found 2.5, expected an integer",)),
        ("optimizer.config.lr=true", ("optimizer.config.lr: found True, expected a number",)),
        ("optimizer.name=sgd", ("optimizer.name: found 'sgd', expected adamw or adafactor",)),
        ("model.config_overrides.prompt.transcribe=write <speech> # down", ("found 'write <speech> # down'", "quotes")),
        ("model.config_overrides.prompt.transcribe=a: <speech>: b", ("prompt.transcribe", "expected a value in YAML")),
        ("regime.score_metric=blue", ("regime.score_metric", "'blue'", "'answer_f1', 'nll_loss'")),
        ("regime.score_metric=bleu", ("regime.score_metric: found 'bleu'", "transcriptions only, expected wer, nll_l")),
        ("dataset.valid_decode=false", ("regime.score_metric", "'nll_loss'", "dataset.valid_decode")),
        # Names that nothing has.
        ("model.arch=whisper.gpt.mlp", ("model.arch", "'whisper.gpt.mlp'", "whisper_tiny_en", "smollm2_135m")),
        (
            "model.arch=whisper_tiny_en.smollm_135m.mlp",
            ("model.arch", "'whisper_tiny_en.smollm_135m.mlp'", "did you mean whisper_tiny_en.smollm2_135m.mlp"),
        ),
        ("model.config_overrides.encoder.arch=nothing", ("encoder.arch", "'nothing'", "null or one of", "whisper_")),
        (
            "model.config_overrides.llm.arch=smollm2_135m",
            ("llm.config.path", "vocab_size = 320", "expected 49152", "llm.arch is smollm2_135m", "llm.arch to null"),
        ),
        ("model.config_overrides.adapter.arch=base", ("adapter.arch", "'base'", "null")),
        ("model.config_overrides.adapter.name=mpl", ("adapter.name", "'mpl'", "base, cif, conv")),
        ("model.config_overrides.encoder.config.path=/lost/model", ("encoder.config.path", "/lost/model", "directory")),
        ("dataset.train_split=trian", ("'trian'", "dev, test, train")),
        # A name alone is a list of one.
        ("dataset.valid_splits=dve", ("'dve'", "dev, test, train")),
        ("dataset.valid_splits=3", ("dataset.valid_splits: found 3, expected one of str, list[str]",)),
        ("model.config_overrides.prompt.order=hello", ("prompt.order", "found 'hello'", "speech_first")),
    ],
)
def test_configuration_that_is_wrong(
    commands: Commands, config: Path, tmp_path: Path, override: str, words: tuple[str, ...]
) -> None:
    line = _train(commands, config, tmp_path, override)
    for word in words:
        assert word in line


def test_translations_have_no_word_error_rate(
    commands: Commands, system: System, config: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "dev.tsv"
    manifest.write_text(f"id\taudio\ttgt_text\ttgt_lang\n1\t{system.corpus / 'train_0.wav'}\tan\tde\n")
    override = f"dataset.config_overrides.manifests.dev={manifest}"
    line = _train(commands, config, tmp_path, override)
    for word in ("regime.score_metric: found 'wer'", "dev", "translations only, expected bleu, chrf2, nll_loss"):
        assert word in line
    run = tmp_path / "by_loss"
    overrides = [override, "regime.score_metric=nll_loss"]
    commands.recipe("train", run, "--config-file", config, "--config", *overrides).ok()
    (last,) = metrics(run, "valid/dev")[-1:]
    assert last["Number of Examples"] == 1 and "Word Error Rate (WER)" not in last


@pytest.mark.parametrize(
    ("key", "value"), [("trainer.fsdp.version", "v1"), ("trainer.fsdp.granularity", "model")]
)
def test_fsdp_that_would_pass_by_the_plugin(
    commands: Commands, config: Path, tmp_path: Path, key: str, value: str
) -> None:
    line = _train(commands, config, tmp_path, "trainer.data_parallelism=fsdp", f"{key}={value}")
    assert line.startswith(f"{key}: found '{value}', expected ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"model: [1\nregime: 2}\n", ("line 2", "not a valid YAML file")),
        (b"model: \xff\n", ("byte 0xff", "UTF-8")),
        (b"- a list\n", ("list", "a mapping")),
        (None, ("No such file",)),
    ],
    ids=["syntax", "utf8", "list", "missing"],
)
def test_configuration_files_that_are_wrong(
    commands: Commands, tmp_path: Path, content: bytes | None, words: tuple[str, ...]
) -> None:
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_bytes(content)
    line = commands.recipe("train", tmp_path / "run", "--config-file", file).user_error()
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_output_directory_that_cannot_be_written(
    commands: Commands, config: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").touch()
    line = commands.recipe("train", tmp_path / name, "--config-file", config).user_error()
    assert line.startswith("OUTPUT_DIR: ") and str(tmp_path / name) in line


def test_a_run_of_another_adapter_is_not_resumed(commands: Commands, trained: Path, config: Path) -> None:
    before = metrics(trained, "train")
    described = (trained / "checkpoints" / "model.yaml").read_bytes()
    overrides = ["model.config_overrides.adapter.name=base", "del:model.config_overrides.adapter.config"]
    line = commands.recipe("train", trained, "--config-file", config, "--config", *overrides).user_error()
    assert f"{trained / 'run.json'}: " in line
    # Its checkpoints are still described as what they are.
    assert (trained / "checkpoints" / "model.yaml").read_bytes() == described
    assert "adapter.name = 'mlp', found 'base'" in line
    assert metrics(trained, "train") == before


def test_a_run_from_before_a_key_existed_is_resumed(commands: Commands, trained: Path, tmp_path: Path) -> None:
    """What its record lacks has the default."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    record = json.loads((run / "run.json").read_text())
    file = trained.parent / "config.yaml"

    def resume(*overrides: str, lacks: str) -> Result:
        older = {name: value for name, value in record["model"].items() if name != lacks}
        assert len(older) < len(record["model"])
        (run / "run.json").write_text(json.dumps({**record, "model": older}))
        return commands.recipe("train", run, "--config-file", file, "--config", *overrides)

    resume("regime.num_steps=6", lacks="prompt.answer").ok()
    # Answers have no word error rate.
    changed = ["model.config_overrides.prompt.answer=<speech>", "regime.score_metric=nll_loss"]
    line = resume(*changed, lacks="prompt.answer").user_error()
    assert "prompt.answer = None, found '<speech>'" in line
    # This run has another value than the default.
    assert "with ctc.classifier = 'linear', found 'llm_embedding'" in resume(lacks="ctc.classifier").user_error()
    (run / "run.json").write_text(json.dumps({**record, "model": {**record["model"], "adapter.config.wings": 2}}))
    line = commands.recipe("train", run, "--config-file", file).user_error()
    assert "adapter.config.wings: found an unknown key" in line


def test_a_run_over_other_data_is_not_resumed(commands: Commands, trained: Path) -> None:
    config = trained.parent / "config.yaml"
    line = commands.recipe("train", trained, "--config-file", config, "--config", "dataset.batch_size=4").user_error()
    assert "'batch_size': 3" in line and "'batch_size': 4" in line


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        ("model/pp_00/tp_00/sdp_00.pt", "garbage"),
        ("model/pp_00/tp_00/sdp_00.pt", "truncated"),
        ("optimizer/pp_00/tp_00/sdp_00.pt", "garbage"),
        ("trainer/rank_00.pt", "garbage"),
    ],
)
def test_a_damaged_checkpoint_is_not_resumed(
    commands: Commands, trained: Path, tmp_path: Path, part: str, damage: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    file = run / "checkpoints/step_6" / part
    file.write_bytes(b"garbage" if damage == "garbage" else file.read_bytes()[:-200])
    line = commands.recipe("train", run, "--config-file", trained.parent / "config.yaml").user_error()
    assert str(file) in line and "damaged" in line


def test_a_damaged_checkpoint_is_not_evaluated(
    commands: Commands, system: System, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "checkpoints/step_6/model/pp_00/tp_00/sdp_00.pt").write_bytes(b"garbage")
    line = _evaluate(commands, system, tmp_path, run)
    assert str(run / "checkpoints/step_6/model/pp_00/tp_00/sdp_00.pt") in line and "damaged" in line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("stack: 2", "stack: 3", ("adapter.input.weight", "(48, 64)", "(48, 96)")),
        ("name: mlp", "name: mlq", ("adapter.name", "'mlq'", "mlp")),
        ("model_config:", "model_config: {{{", ("model.yaml", "damaged")),
    ],
    ids=["other shape", "unknown adapter", "no YAML"],
)
def test_a_checkpoint_of_another_architecture_is_not_evaluated(
    commands: Commands, system: System, trained: Path, tmp_path: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    file = run / "checkpoints/model.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    line = _evaluate(commands, system, tmp_path, run)
    for word in words:
        assert word in line


def test_checkpoints_that_are_not_there(commands: Commands, system: System, trained: Path, tmp_path: Path) -> None:
    assert f"found no {tmp_path / 'lost'}" in _evaluate(commands, system, tmp_path, tmp_path / "lost")
    assert "found no model.yaml" in _evaluate(commands, system, tmp_path, tmp_path)
    assert "not 77" in _evaluate(commands, system, tmp_path, trained, "77")
    assert "'latest'" in _evaluate(commands, system, tmp_path, trained, "latest")
    assert "--checkpoint: found none" in commands.recipe("generate", tmp_path / "out").user_error()


def _good_rows(system: System) -> str:
    """Six rows, on lines 2 to 7."""
    files = [system.corpus / f"train_{i}.{('wav', 'flac')[i % 2]}" for i in range(6)]
    return "".join(f"good_{i}\t{file}\t\tturn it on\n" for i, file in enumerate(files))


def _train(commands: Commands, config: Path, folder: Path, *overrides: str) -> str:
    return commands.recipe("train", folder / "run", "--config-file", config, "--config", *overrides).user_error()


def _evaluate(commands: Commands, system: System, folder: Path, run: Path, step: str = "last") -> str:
    manifest = f"dataset.config_overrides.manifests.test={system.corpus / 'test.tsv'}"
    return commands.recipe(
        "evaluate", folder / "evaluation", "--checkpoint", run, "--step", step, "--config", manifest
    ).user_error()
