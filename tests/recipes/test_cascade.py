"""The cascade: a recogniser and an LLM, untrained, through the command."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import GenerationConfig

from speechllm_plugin.cascade.model import Cascade
from speechllm_plugin.cascade.recognizers.api import RECOGNIZERS
from speechllm_plugin.datasets.audio import read_audio, resolve
from speechllm_plugin.files.tsv import read_table
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.llms.api import LLMS
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.scoring.report import Hypothesis, read_hypotheses
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.row_prompt import RowPrompt, Turn
from tests.commands import Commands
from tests.plugin.recognizer_checkpoints import write_whisper


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("recognizer"), multilingual=True)


@pytest.fixture(scope="module")
def options(whisper: Path, tiny_llm: Path, tiny_manifest: Path) -> list[str]:
    return [
        "--config", f"recognizer.config.path={whisper}", "recognizer.config.dtype=float32",
        f"llm.config.path={tiny_llm}", "llm.config.dtype=float32", "decoding.extra_tokens=6",
        f"dataset.config_overrides.manifests.test={tiny_manifest / 'test.tsv'}",
    ]


@pytest.fixture(scope="module")
def output(commands: Commands, options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascade")
    commands.recipe("cascade", folder, *options, "dataset.batch_size=4").ok()
    return folder / "test"


def hypotheses(output: Path) -> list[Hypothesis]:
    return read_hypotheses(output / "hypotheses.tsv")


def transcripts(output: Path) -> dict[str, str]:
    rows = read_table(output / "transcripts.tsv", required=("id", "transcript"))
    return {row.fields["id"]: row.fields["transcript"] for row in rows}


def test_what_is_transcribed_is_the_recognisers(output: Path, tiny_manifest: Path, whisper: Path) -> None:
    recognizer = RECOGNIZERS.get("whisper").build(
        RECOGNIZERS.config("whisper", {"path": str(whisper), "dtype": "float32"})
    )
    rows = hypotheses(output)
    assert [row.id for row in rows] == [f"test_{i}" for i in range(6)]
    assert list(transcripts(output)) == [row.id for row in rows]
    for row in rows:
        waveform = torch.from_numpy(read_audio(resolve(row.source, tiny_manifest)))
        (expected,) = recognizer.recognize([waveform], ["en"])
        assert transcripts(output)[row.id] == expected.text
        assert row.is_translation or row.hypothesis == expected.text
    assert len(set(transcripts(output).values())) > 3


def assert_the_llm_wrote(rows: Sequence[Hypothesis], output: Path, instruction: str, tiny_llm: Path) -> None:
    """As transformers answers a user's turn that holds the transcript."""
    llm = LLMS.get("causal").build(LLMS.config("causal", {"path": str(tiny_llm), "dtype": "float32"}))
    stops = llm.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    for row in rows:
        content = instruction.format(transcripts(output)[row.id])
        ids = llm.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, return_tensors="pt"
        )
        config = GenerationConfig(
            do_sample=False, max_new_tokens=int(6 + 12 * row.duration), eos_token_id=stops, pad_token_id=stops[0]
        )
        output_ids = llm.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        answer = [token for token in output_ids[0, ids.size(1) :].tolist() if token not in stops]
        text = llm.tokenizer.decode(answer, skip_special_tokens=True).strip()
        # The TSV has spaces where the tiny LLM writes tabs and line ends.
        assert row.hypothesis == re.sub(r"[\t\r\n]", " ", text)
        assert row.hypothesis != transcripts(output)[row.id]


def test_what_is_translated_is_the_llms_answer_to_the_text(output: Path, tiny_llm: Path) -> None:
    translations = [row for row in hypotheses(output) if row.is_translation]
    assert len(translations) == 2
    assert_the_llm_wrote(translations, output, "{}\ncan you translate from English to German?", tiny_llm)


def test_spoken_instructions_are_answered(
    commands: Commands, options: list[str], output: Path, tiny_llm: Path, tmp_path: Path
) -> None:
    """Every transcript is the user's whole turn; what the LLM says to it is compared with the text as answers are."""
    commands.recipe("cascade", tmp_path, *options, "prompt.answer=<speech>").ok()
    rows = hypotheses(tmp_path / "test")
    assert len(rows) == 6
    assert transcripts(tmp_path / "test") == transcripts(output)
    assert_the_llm_wrote(rows, tmp_path / "test", "{}", tiny_llm)
    scores = json.loads((tmp_path / "test/scores.json").read_text())["scores"]
    assert scores["answers"]["utterances"] == 6 and not {"asr", "st"} & scores.keys()


def test_recognition_alone_needs_no_llm(
    commands: Commands, options: list[str], output: Path, tiny_manifest: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "asr.tsv"
    header, *rows = (tiny_manifest / "test.tsv").read_text().splitlines(keepends=True)
    manifest.write_text("".join([header, *rows[:4]]))
    changes = [
        f"dataset.config_overrides.manifests.test={manifest}", "llm.config.path=/lost/llm",
        f"dataset.config_overrides.audio_root={tiny_manifest}",
    ]
    commands.recipe("cascade", tmp_path / "run", *options, *changes).ok()
    assert hypotheses(tmp_path / "run/test") == hypotheses(output)[:4]
    content = json.loads((tmp_path / "run/test/scores.json").read_text())
    before = json.loads((output / "scores.json").read_text())
    assert content["scores"]["asr"] == before["scores"]["asr"]
    assert content["provenance"]["llm"] is None
    assert "/lost/llm" in error_of(commands, tmp_path / "other", options, changes[1])


def test_scores_and_what_made_them(output: Path, whisper: Path) -> None:
    content = json.loads((output / "scores.json").read_text())
    scores, provenance = content["scores"], content["provenance"]
    assert scores["asr"]["utterances"] == 4 and scores["st"]["utterances"] == 2
    assert 0 < scores["recognizer"]["rtf"] <= scores["rtf"]
    assert scores["recognizer"]["cut_transcripts"] == 6  # this Whisper never ends
    assert "nll_loss" not in scores
    assert provenance["checkpoint"] is None
    assert provenance["recognizer"]["recognizer"] == "whisper" and provenance["llm"]["llm"] == "causal"
    # Every default is named.
    assert provenance["config"]["recognizer"]["config"]["dtype"] == "float32"
    assert provenance["config"]["llm"]["config"]["attention"] == "sdpa"


def test_a_batch_and_its_clips_alone(
    commands: Commands, options: list[str], output: Path, tmp_path: Path
) -> None:
    commands.recipe("cascade", tmp_path, *options, "dataset.batch_size=1").ok()
    assert transcripts(tmp_path / "test") == transcripts(output)
    assert hypotheses(tmp_path / "test") == hypotheses(output)


def test_a_clip_with_several_rows_is_recognised_once(whisper: Path, tiny_llm: Path) -> None:
    from tests.plugin.inference.test_timing import batch_of

    recognizer = RECOGNIZERS.get("whisper").build(
        RECOGNIZERS.config("whisper", {"path": str(whisper), "dtype": "float32"})
    )
    heard: list[int] = []
    recognizer.model.get_encoder().register_forward_hook(lambda _, inputs, output: heard.append(len(output[0])))
    cascade = Cascade(recognizer, None, PromptConfig())
    waveforms = [torch.randn(4000), torch.randn(6000)]
    batch = batch_of([waveforms[0], waveforms[1], waveforms[0]], [""] * 3)
    for clip, key in zip(batch, ["a", "b", "a"], strict=True):
        clip.audio_key = key
    first, second, again = cascade.recognize(batch)
    assert heard == [2] and again == first
    assert cascade.recognize(batch) == [first, second, first] and heard == [2]
    # In another language it is heard anew.
    batch.clips[2].source_lang = "de"
    cascade.recognize(batch)
    assert heard == [2, 1]


def test_earlier_speech_is_read_as_the_recogniser_writes_it(whisper: Path, tiny_llm: Path, tiny_manifest: Path) -> None:
    recognizer = RECOGNIZERS.get("whisper").build(
        RECOGNIZERS.config("whisper", {"path": str(whisper), "dtype": "float32"})
    )
    llm = LLMS.get("causal").build(LLMS.config("causal", {"path": str(tiny_llm), "dtype": "float32"}))
    cascade, yes = Cascade(recognizer, llm, PromptConfig()), Turn("assistant", "yes")
    asks = RowPrompt("<speech>", history=(Turn("user", "Where? <speech>", str(tiny_manifest / "train_1.flac")), yes))
    batch = batch_of_files([tiny_manifest / "test_0.wav"], "en", None, task=ANSWER, asks=asks)
    config = DecodingConfig(extra_tokens=4, tokens_per_second=0.0)
    texts, _ = cascade.generate(batch, config)
    said, before = (cascade.recognize(batch_of_files([tiny_manifest / name], "en", None))[0].text
                    for name in ("test_0.wav", "train_1.flac"))  # fmt: skip
    (clip,) = batch
    clip.asks, clip.earlier = replace(asks, history=(Turn("user", f"Where? {before}"), yes)), ()
    assert said and before and texts == cascade.generate(batch, config)[0]


def test_of_nothing_said_nothing_is_translated(tiny_llm: Path) -> None:
    from speechllm_plugin.cascade.recognizers.api import Recognized
    from tests.plugin.inference.test_timing import batch_of

    llm = LLMS.get("causal").build(LLMS.config("causal", {"path": str(tiny_llm), "dtype": "float32"}))
    cascade = Cascade(torch.nn.Identity(), llm, PromptConfig())  # type: ignore[arg-type]
    batch = batch_of([torch.zeros(1600)] * 2, ["", ""], target_lang="de")
    texts, generated = cascade.answer(
        batch, [Recognized("", cut=True), Recognized("turn on", cut=False)], DecodingConfig(extra_tokens=3)
    )
    assert texts[0] == "" and generated[0].cut and generated[0].tokens == []
    # The words are read with the instruction behind them, as when they are typed.
    ids = llm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "turn on\ncan you translate from English to German?"}],
        add_generation_prompt=True, return_tensors="pt",
    )
    config = GenerationConfig(do_sample=False, max_new_tokens=4, pad_token_id=0)
    expected = llm.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    assert generated[1].tokens == expected[0, ids.size(1) :].tolist()
    assert texts[1] and generated[1].speech_vectors == 5  # "Ġt", "u", "rn", "Ġ", "on"


def error_of(commands: Commands, folder: Path, options: Sequence[str], *changes: str) -> str:
    return commands.recipe("cascade", folder, *options, *changes).user_error()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("recognizer.config.path=/lost/whisper", ("recognizer.config.path", "/lost/whisper")),
        ("recognizer.name=ear", ("recognizer.name", "'ear'", "seamless_m4t_v2, whisper")),
        ("recognizer.config.beams=3", ("recognizer.config.beams", "unknown key")),
        ("recognizer.arch=whisper_large_v3", ("recognizer.arch", "'whisper_large_v3'", "recognizer.config.path")),
        ("llm.arch=llama31_8b", ("llm.config.path", "llama31_8b")),
        ("llm.name=brain", ("llm.name", "'brain'", "causal")),
        ("dataset.feature_cache=features", ("dataset.feature_cache", "'features'", "null")),
        ("dataset.splits=[dev]", ("no manifest for split 'dev'",)),
        # A name alone is a list of one.
        ("dataset.splits=dev", ("no manifest for split 'dev'",)),
        ("prompt.answer=<speech><speech>", ("prompt.answer", "2 times", "expected one")),
        ("dataset.config_overrides.source_lang=gibberish", ("gibberish",)),
    ],
)
def test_mistakes(
    commands: Commands, options: list[str], tmp_path: Path, tiny_manifest: Path, change: str, words: tuple[str, ...]
) -> None:
    for name in ("audio", "corpus"):
        (tmp_path / name).mkdir()
    if "gibberish" in change:
        # Rows without a language of their own.
        (tmp_path / "corpus/test.tsv").write_text(f"id\taudio\ttgt_text\na\t{tiny_manifest / 'test_0.wav'}\thello\n")
        options = [*options, f"dataset.config_overrides.manifests.test={tmp_path / 'corpus/test.tsv'}"]
    line = error_of(commands, tmp_path / "output", options, change)
    for word in words:
        assert word in line


def test_a_checkpoint_of_another_kind(
    commands: Commands, options: list[str], tiny_llm: Path, tmp_path: Path
) -> None:
    line = error_of(commands, tmp_path, options, f"recognizer.config.path={tiny_llm}")
    assert "recognizer.config.path" in line and "'llama'" in line and "'whisper'" in line


def test_a_clip_beyond_whispers_window(commands: Commands, options: list[str], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.wav", np.zeros(31 * 16000, dtype=np.float32), 16000)
    (tmp_path / "test.tsv").write_text("id\taudio\ttgt_text\nlong\tlong.wav\thello\n")
    line = error_of(
        commands, tmp_path / "output", options, f"dataset.config_overrides.manifests.test={tmp_path / 'test.tsv'}"
    )
    assert "id long" in line and "31.00 s, expected at most 30 s" in line


def test_english_only(commands: Commands, options: list[str], tiny_manifest: Path, tmp_path: Path) -> None:
    path = write_whisper(tmp_path, multilingual=False)
    shutil.copy(tiny_manifest / "test_0.wav", tmp_path / "clip.wav")
    (tmp_path / "test.tsv").write_text("id\taudio\ttgt_text\tsrc_lang\na\tclip.wav\thallo\tde\n")
    line = error_of(
        commands, tmp_path / "output", options, f"recognizer.config.path={path}",
        f"dataset.config_overrides.manifests.test={tmp_path / 'test.tsv'}",
    )
    assert "knows English only, found speech in 'de'" in line


