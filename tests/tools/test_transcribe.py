"""`speechllm transcribe`, and the same from Python."""

from __future__ import annotations

import dataclasses
import json
import shutil
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechllm_tools.numerics import use_recipe_numerics
from speechllm_tools.system_options import DECODING

from speechllm_plugin.datasets.manifest import read_manifest
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.transcriber import load_speech_llm
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.checkpoint_files import find_checkpoint
from speechllm_plugin.scoring.report import Hypothesis, write_hypotheses
from tests.commands import Commands, System, environment

SUFFIXES = ("wav", "flac", "mp3", "ogg")


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A tone of its own length in every format, at several rates, in mono and stereo."""
    folder = tmp_path_factory.mktemp("audio")
    files = []
    for number, (suffix, rate) in enumerate(zip(SUFFIXES, (16000, 8000, 44100, 48000), strict=True)):
        times = np.arange(round(rate * (0.4 + 0.3 * number))) / rate
        tone = 0.3 * np.sin(2 * np.pi * (300 + 150 * number) * times)
        files.append(folder / f"{'abcd'[number]}.{suffix}")
        soundfile.write(files[-1], tone if number % 2 else np.stack([tone, tone / 2], axis=1), rate)
    return files


def test_one_line_a_file_in_the_order_given(commands: Commands, trained: Path, audio: list[Path]) -> None:
    result = commands.speechllm("transcribe", "--checkpoint", trained, *reversed(audio)).ok()
    lines = _lines(result.stdout)
    assert [name for name, _ in lines] == [str(file) for file in reversed(audio)]
    # Audio decides: no two of these sound alike.
    assert len({text for _, text in lines}) == 4


@pytest.mark.parametrize("beam_size", [1, 3])
def test_together_and_alone_give_the_same_text(
    commands: Commands, trained: Path, audio: list[Path], beam_size: int
) -> None:
    options = ("transcribe", "--checkpoint", trained, "--beam-size", beam_size)
    together = _lines(commands.speechllm(*options, *audio).ok().stdout)
    alone = [_lines(commands.speechllm(*options, file).ok().stdout)[0] for file in (audio[0], audio[3])]
    assert [together[0], together[3]] == alone


def test_files_that_cannot_be_read_do_not_cost_the_others(
    commands: Commands, trained: Path, audio: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "text.wav").write_text("no audio")
    bad = [tmp_path / "text.wav", tmp_path / "lost.wav"]
    result = commands.speechllm("transcribe", "--checkpoint", trained, audio[0], *bad, audio[1])
    assert result.status == 2
    assert [name for name, _ in _lines(result.stdout)] == [str(audio[0]), str(audio[1])]
    # Files that are not there are told first, before any is read.
    errors = result.errors()
    assert [error.partition(": ")[0] for error in errors] == [str(file) for file in reversed(bad)]
    assert "no such file" in errors[0] and "no audio" in errors[1]
    assert "2 transcribed, 2 failed" in result.stderr
    assert "Traceback" not in result.output


def test_each_channel_has_a_text_of_its_own(
    commands: Commands, trained: Path, audio: list[Path], tmp_path: Path
) -> None:
    """A telephone call: two speakers, a channel each."""
    call = tmp_path / "call.wav"
    ends = []
    for number, hertz in enumerate((300, 750)):
        ends.append(0.3 * np.sin(2 * np.pi * hertz * np.arange(12000) / 16000))
        soundfile.write(tmp_path / f"{number}.wav", ends[-1], 16000)
    soundfile.write(call, np.stack(ends, axis=1), 16000)
    options = ("transcribe", "--checkpoint", trained)
    alone = _lines(commands.speechllm(*options, tmp_path / "0.wav", tmp_path / "1.wav").ok().stdout)
    texts = [text for _, text in alone]
    assert texts[0] != texts[1]
    each = commands.speechllm(*options, call, tmp_path / "0.wav", "--channel", "each").ok()
    expected = [(call, 1, texts[0]), (call, 2, texts[1]), (tmp_path / "0.wav", 1, texts[0])]
    assert each.stdout == "".join("\t".join(map(str, line)) + "\n" for line in expected)
    second = commands.speechllm(*options, call, "--channel", "2").ok()
    assert _lines(second.stdout) == [(str(call), texts[1])]
    mixed = commands.speechllm(*options, call).ok()
    assert "2 channels of different sound" in mixed.stderr and "--channel" in mixed.stderr
    # A file without the channel is one line, and costs the others nothing.
    missing = commands.speechllm(*options, audio[3], call, "--channel", "2")
    assert missing.status == 2
    assert missing.errors() == [f"{audio[3]}: found 1 channel(s), expected at least 2 for channel 2"]
    assert _lines(missing.stdout) == [(str(call), texts[1])]
    line = commands.speechllm(*options, call, "--channel", "0").user_error()
    assert "found '0', expected a channel's number, from 1 on, or each" in line


def test_frozen_models_that_moved_are_given_by_set(
    commands: Commands, trained: Path, audio: list[Path], tiny_llm: Path, tmp_path: Path
) -> None:
    run, llm = tmp_path / "run", tmp_path / "llm"
    shutil.copytree(trained, run)
    shutil.copytree(tiny_llm, llm)
    model = run / "checkpoints/model.yaml"
    model.write_text(model.read_text().replace(str(tiny_llm), "/moved/away"))
    options = ("transcribe", audio[0], "--checkpoint", run)
    line = commands.speechllm(*options).user_error()
    assert "llm.config.path" in line and "/moved/away" in line
    found = commands.speechllm(*options, "--set", f"llm.config.path={llm}").ok()
    assert found.stdout == commands.speechllm("transcribe", audio[0], "--checkpoint", trained).ok().stdout


def test_several_keys_behind_one_set(
    commands: Commands, trained: Path, audio: list[Path], tiny_llm: Path, tiny_whisper: Path
) -> None:
    keys = (f"llm.config.path={tiny_llm}", f"encoder.config.path={tiny_whisper}")
    expected = commands.speechllm("transcribe", "--checkpoint", trained, audio[0]).ok().stdout
    assert commands.speechllm("transcribe", "--checkpoint", trained, "--set", *keys, audio[0]).ok().stdout == expected
    line = commands.speechllm("transcribe", "--checkpoint", trained, audio[0], "--set", "llm.config.path").user_error()
    assert line == "--set: found 'llm.config.path', expected KEY=VALUE"


def test_one_file_or_samples_from_python(trained: Path, audio: list[Path]) -> None:
    from speechllm_plugin.datasets.audio import read_audio, resolve

    model = load_speech_llm(trained, device="cpu")
    expected = model.transcribe([audio[0]])
    assert model.transcribe(str(audio[0])) == model.transcribe(audio[0]) == expected
    assert model.transcribe(read_audio(resolve(str(audio[0]), Path()))) == expected


def test_a_text_with_line_ends_stays_on_its_line(
    commands: Commands, trained: Path, audio: list[Path], tiny_llm: Path, tmp_path: Path
) -> None:
    options = ("transcribe", audio[3], "--checkpoint", trained)
    ((_, text),) = _lines(commands.speechllm(*options).ok().stdout)
    letter = max(string.ascii_letters, key=text.count)
    assert letter in text
    # The same LLM with a tokenizer that writes a line end for its favourite letter.
    shutil.copytree(tiny_llm, tmp_path / "llm")
    file = tmp_path / "llm/tokenizer.json"
    tokenizer = json.loads(file.read_text())
    line_end = {"type": "Replace", "pattern": {"String": letter}, "content": "\r\n"}
    tokenizer["decoder"] = {"type": "Sequence", "decoders": [tokenizer["decoder"], line_end]}
    file.write_text(json.dumps(tokenizer))
    found = commands.speechllm(*options, "--set", f"llm.config.path={tmp_path / 'llm'}").ok().stdout
    assert found == f"{audio[3]}\t{' '.join(text.replace(letter, ' ').split())}\n"


@pytest.mark.parametrize(
    ("option", "parts"), [(["--timestamps"], "segments"), (["--timestamps=words"], "words")], ids=["bare", "words"]
)
def test_timestamps(
    commands: Commands, trained: Path, audio: list[Path], option: list[str], parts: str, tmp_path: Path
) -> None:
    """The texts of a file's lines are its whole text, in order and within the file."""
    click = tmp_path / "click.wav"
    soundfile.write(click, np.full(480, 0.1), 16000)
    files = [*audio, click]
    plain = _lines(commands.speechllm("transcribe", "--checkpoint", trained, *files).ok().stdout)
    timed = commands.speechllm("transcribe", "--checkpoint", trained, *files, *option).ok()
    rows = [line.split("\t") for line in timed.stdout.split("\n")[:-1]]
    assert {len(row) for row in rows} == {4}
    for (name, text), seconds in zip(plain, (0.4, 0.7, 1.0, 1.3, 0.03), strict=True):
        own = [row for row in rows if row[0] == name]
        assert " ".join(row[3] for row in own) == text
        times = [float(time) for row in own for time in row[1:3]]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= seconds + 0.06
        assert parts == "segments" or len(own) == len(text.split())
    # An untrained system writes more than the shortest can hold, and that is said.
    assert f"{click}: no word could be found in the audio" in timed.stderr


def test_timestamps_of_a_translation(commands: Commands, trained: Path, audio: list[Path]) -> None:
    result = commands.speechllm(
        "transcribe", "--checkpoint", trained, "--target-lang", "de", *audio[:2], "--timestamps"
    ).ok()
    assert [line.split("\t")[:3] for line in result.stdout.split("\n")[:-1]] == [
        [str(audio[0]), "0.00", "0.40"], [str(audio[1]), "0.00", "0.70"]
    ]
    assert result.stderr.count("a translation puts words in another order") == 1


def test_timestamps_that_a_system_cannot_give(
    commands: Commands, tiny_whisper: Path, tiny_llm: Path, tiny_manifest: Path, audio: list[Path], tmp_path: Path
) -> None:
    config = System(tiny_whisper, tiny_llm, tiny_manifest).write(
        tmp_path / "config.yaml", regime__num_steps=1, lr_scheduler__config__num_warmup_steps=0,
        model__config_overrides__ctc={"weight": 0.0}, dataset__valid_splits=[],
    )
    commands.recipe("train", tmp_path / "run", "--config-file", config).ok()
    result = commands.speechllm("transcribe", "--checkpoint", tmp_path / "run", audio[0], "--timestamps")
    line = result.user_error()
    assert "'mlp'" in line and "ctc.weight above 0" in line and "cif" in line
    assert result.stdout == ""
    # The times of a text that is no transcript are its whole file's: they need neither.
    options = ("transcribe", "--checkpoint", tmp_path / "run", audio[0], "--timestamps")
    result = commands.speechllm(*options, "--set", "prompt.answer=<speech>").ok()
    assert result.stdout.split("\t")[:3] == [str(audio[0]), "0.00", "0.40"]
    assert "an answer has other words than the speech" in result.stderr


def test_it_decodes_as_the_training_run_did(
    commands: Commands, trained: Path, audio: list[Path], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    change_decoding(run, tokens_per_second=2.0)
    options = ("transcribe", *audio, "--checkpoint", run)
    short = _lines(commands.speechllm(*options).ok().stdout)
    long = _lines(commands.speechllm(*options, "--tokens-per-second", "12").ok().stdout)
    for (_, less), (_, more) in zip(short, long, strict=True):
        assert more.startswith(less) and len(less) < len(more)
    assert _lines(commands.speechllm(*options, "--no-repeat-ngram-size", "1").ok().stdout) != short


def test_decoding_settings_that_do_not_go_together(
    commands: Commands, trained: Path, audio: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^decoding.top_p: found 3, expected above 0 and at most 1$"):
        load_speech_llm(trained).transcribe(audio[:1], decoding=DecodingConfig(temperature=1, top_p=3))
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    change_decoding(run, temperature=0.5)
    line = commands.speechllm("transcribe", audio[0], "--checkpoint", run, "--beam-size", "3").user_error()
    assert line.startswith("--beam-size: found 3 with a --temperature above 0, expected 1")


def test_every_decoding_setting_is_an_option() -> None:
    assert set(DECODING) == {field.name for field in dataclasses.fields(DecodingConfig)}


def test_sampling_and_guards(commands: Commands, trained: Path, audio: list[Path], tmp_path: Path) -> None:
    """Each option reaches the decoder: the text is that of the same settings from Python."""
    model = load_speech_llm(trained)
    wild = {"temperature": 3.0, "seed": 5}
    outputs = []
    for settings in (
        {**wild, "top_k": 2}, {**wild, "seed": 6, "top_p": 0.3}, {"repetition_penalty": 3.0},
        {"max_compression_ratio": 1.01, "extra_tokens": 60}, {"extra_tokens": 60},
    ):
        given = [item for name, value in settings.items() for item in (f"--{name.replace('_', '-')}", value)]
        output = commands.speechllm("transcribe", *audio, "--checkpoint", trained, *given).ok().stdout
        expected = model.transcribe(audio, decoding=dataclasses.replace(model.decoding, **settings))
        assert [text for _, text in _lines(output)] == [" ".join(text.split()) for text in expected]
        outputs.append(output)
    assert len(set(outputs)) == len(outputs)
    # A guard of the training run's is switched off by its word.
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    change_decoding(run, max_compression_ratio=1.01)
    options = ("transcribe", *audio, "--checkpoint", run, "--extra-tokens", 60)
    assert commands.speechllm(*options).ok().stdout == outputs[-2]
    assert commands.speechllm(*options, "--max-compression-ratio", "off").ok().stdout == outputs[-1]


def test_decoding_settings_that_cannot_be_read(trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    file = change_decoding(run, tokens_per_second="many")
    with pytest.raises(UserError, match=r"decoding\.json: decoding\.tokens_per_second: found 'many'"):
        find_checkpoint(run).decoding()
    for damaged in ("[", "text"):
        file.write_text(damaged)
        with pytest.raises(UserError, match=f"found a damaged {file}"):
            find_checkpoint(run).decoding()
    # A run from before it kept its decoding has its configuration; a checkpoint that came alone has neither.
    file.unlink()
    assert find_checkpoint(run).decoding() == DecodingConfig(tokens_per_second=12.0, max_compression_ratio=2.4)
    (run / "config.yaml").unlink()
    assert find_checkpoint(run).decoding() == DecodingConfig()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--checkpoint", "/lost/run"), ("/lost/run", "output directory of a training run")),
        (("--step", "latest"), ("--step", "'latest'", "best, last or a step number")),
        (("--step", "²"), ("--step", "'²'", "best, last or a step number")),
        (("--step", "9"), ("found steps 2", "not 9")),
        (("--beam-size", "0"), ("--beam-size", "0", "at least 1")),
        (("--batch-size", "0"), ("--batch-size", "0", "at least 1")),
        (("--temperature", "-1"), ("--temperature", "-1.0", "at least 0")),
        (("--temperature", "1e-40"), ("--temperature: found 1e-40, expected 0 or at least 0.0001",)),
        (("--temperature", "1", "--beam-size", "2"), ("--beam-size: found 2 with a --temperature above 0",)),
        (("--top-p", "0.5"), ("--top-p: found 0.5 with a --temperature of 0, expected 1",)),
        (("--temperature", "1", "--top-p", "2"), ("--top-p", "at most 1", "2.0")),
        (("--max-compression-ratio", "0.5"), ("--max-compression-ratio", "above 1", "0.5")),
        (("--max-compression-ratio", "never"), ("--max-compression-ratio", "invalid number value: 'never'")),
        (("--no-repeat-ngram-size", "-1"), ("--no-repeat-ngram-size", "-1", "at least 0")),
        (("--tokens-per-second", "nan"), ("--tokens-per-second", "nan", "at least 0")),
        (("--tokens-per-second", "1e300"), ("--tokens-per-second", "1e+300", "at most 1000")),
        (("--device", "foo"), ("device: found 'foo'", "expected cpu, cuda")),
        (("--device", "meta"), ("device: found 'meta'",)),
        (("--timestamps", "letters"), ("--timestamps", "'letters'", "segments or words")),
        (("--source-lang", "gibberish"), ("'gibberish'", "ISO 639")),
        (("--set", "nonsense"), ("--set", "'nonsense'", "KEY=VALUE")),
        (("--set", "frame_stack=["), ("frame_stack: found '['", "a value in YAML")),
        (("--set", "adaptr.name=mlp"), ("adaptr", "adapter")),
        (("--set", "llm.config.path.deeper=1"), ("llm.config.path.deeper", "'path'")),
    ],
)
def test_options_that_are_wrong(
    commands: Commands, trained: Path, audio: list[Path], options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    line = commands.speechllm("transcribe", audio[0], "--checkpoint", trained, *options).user_error()
    for word in words:
        assert word in line


@pytest.mark.parametrize("option", ["--source-lang", "--target-lang"])
def test_no_language_fails_before_the_model_loads(
    commands: Commands, trained: Path, audio: list[Path], option: str
) -> None:
    options = ("transcribe", audio[0], "--checkpoint", trained, "--set", "llm.config.path=/moved/away")
    assert f"{option}: found ''" in commands.speechllm(*options, option, "").user_error()
    assert "language: found 'xx'" in commands.speechllm(*options, option, "xx").user_error()


def test_three_lines_of_python(commands: Commands, trained: Path, audio: list[Path]) -> None:
    program = (
        "from speechllm_plugin import load_speech_llm\n"
        f"model = load_speech_llm({str(trained)!r})\n"
        f"print(*(' '.join(text.split()) for text in model.transcribe({[str(file) for file in audio]!r})), sep='\\n')\n"
    )
    # In an interpreter of its own, as a user's program: nothing has been imported before.
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=300, check=True
    )
    expected = commands.speechllm("transcribe", "--checkpoint", trained, *audio).ok().stdout
    # Not splitlines(): a tiny LLM also writes control characters that Python takes for line ends.
    assert result.stdout.split("\n")[:-1] == [text for _, text in _lines(expected)]


def change_decoding(run: Path, **changes: object) -> Path:
    """Changes what the run keeps of its decoding; gives the file."""
    file = run / "checkpoints" / "decoding.json"
    content = json.loads(file.read_text())
    assert content["decoding"].keys() >= changes.keys()
    file.write_text(json.dumps({"decoding": {**content["decoding"], **changes}}))
    return file


def _lines(output: str) -> list[tuple[str, str]]:
    """File and text of each line."""
    return [(name, text) for name, _, text in (line.partition("\t") for line in output.split("\n")[:-1])]


def test_a_first_pass_of_the_ctc_head_finds_phrases(
    commands: Commands, system: System, trained: Path, tmp_path: Path
) -> None:
    """As that of a file with what the head hears."""
    names = tmp_path / "names.txt"
    names.write_text("turn\nmusic\nBerlin\nkitchen\nweather\n")
    use_recipe_numerics()
    model = load_speech_llm(trained)
    rows = read_manifest(system.corpus / "test.tsv")
    heard = [model.hear(system.corpus / row.audio)[0] for row in rows]
    assert len(set(heard)) > 1
    file = tmp_path / "hypotheses.tsv"
    write_hypotheses(file, [
        Hypothesis(row.id, row.tgt_text, text, row.audio, 1.0, "en", "en")
        for row, text in zip(rows, heard, strict=True)
    ])  # fmt: skip
    for name, first_pass in (("run", trained), ("file", file)):
        commands.speechllm(
            "manifest", "phrases", system.corpus / "test.tsv", "--list", names, "--first-pass", first_pass,
            "--top", "2", "--output", system.corpus / f"{name}.found.tsv",
        ).ok()  # fmt: skip
    found = (system.corpus / "run.found.tsv").read_text()
    assert found == (system.corpus / "file.found.tsv").read_text()
