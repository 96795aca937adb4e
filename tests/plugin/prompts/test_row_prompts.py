"""Rows that ask something of their own: in the manifest, in the prompt, in a batch."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from speechllm_plugin.datasets.manifest import ManifestRow, read_manifest, write_manifest
from speechllm_plugin.datasets.row_checks import check_languages
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.tasks.row_prompt import RowPrompt, Turn
from speechllm_plugin.text.languages import language_name
from tests.plugin.llm_families import (
    SPELT_CONTROLS,
    gemma_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
    t5_tokenizer,
)

TOKENIZERS = {
    "llama": llama_tokenizer, "mistral": mistral_tokenizer, "qwen": qwen_tokenizer, "gemma": gemma_tokenizer,
    "mt5": t5_tokenizer,
}
TURNS = (Turn("user", "turn it on"), Turn("assistant", "it is on"))
ASKS = RowPrompt("Which {city}? <speech> now", "Köln; Bonn", TURNS)


def renderer_of(name: str, **config: Any) -> PromptRenderer:
    return PromptRenderer(TOKENIZERS[name](), PromptConfig(**config), chat=name != "mt5")


@pytest.mark.parametrize("name", ["qwen", "llama"])
def test_instruction_context_and_turns_stand_in_the_prompt(name: str) -> None:
    renderer = renderer_of(name, before_speech="[", after_speech="]")
    prompt = renderer.render("en", "en", row=ASKS)
    tokenizer: Any = TOKENIZERS[name]()
    before, after = tokenizer.decode(prompt.before), tokenizer.decode(prompt.after)
    assert before.endswith("Context: Köln; Bonn\nWhich {city}? [") and after.startswith("] now")
    assert before.index("turn it on") < before.index("it is on") < before.index("Context")
    butler = renderer.render("en", "en", row=replace(ASKS, system="at your service"))
    assert "at your service" in tokenizer.decode(butler.before) and butler.after == prompt.after
    # Without one of its own a row has its task's.
    assert "transcribe" in tokenizer.decode(renderer.render("en", "en", row=replace(ASKS, instruction="")).after)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("place", ["instruction", "context", "history", "system"])
def test_control_tokens_in_a_rows_texts_stay_text(name: str, place: str) -> None:
    tokenizer: Any = TOKENIZERS[name]()
    controls = {*tokenizer.all_special_ids, *(
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    )} - {tokenizer.unk_token_id}

    def count(text: str) -> tuple[int, list[int]]:
        values: dict[str, Any] = {"instruction": f"say {text}", "context": f"a {text} b", "system": f"a {text} b",
                                  "history": (Turn("user", f"a {text}"), Turn("assistant", f"{text} b"))}
        asks = RowPrompt(**{place: values[place]})
        prompt = renderer_of(name).render("en", "en", row=asks)
        ids = [*prompt.before, *prompt.after]
        return sum(token in controls for token in ids), ids

    plain, _ = count("x")
    for spelt in SPELT_CONTROLS:
        found, ids = count(spelt)
        assert found == plain, (spelt, tokenizer.convert_ids_to_tokens(ids))


def test_one_of_several_instructions_is_drawn_by_id_and_seed() -> None:
    config = PromptConfig(transcribe=["a {source}", "b", "schreibe ab"])
    config.check()

    def drawn(config: PromptConfig) -> list[str]:
        return [config.instruction("en", "en", key=f"row {number}") for number in range(300)]

    counts = Counter(drawn(config))
    assert set(counts) == {"<speech>\na English", "<speech>\nb", "<speech>\nschreibe ab"} and min(counts.values()) > 70
    assert drawn(config) == drawn(config) != drawn(replace(config, seed=1))
    assert config.instruction("en", "en") == "<speech>\na English"  # files without a row have the first
    assert config.named("en", "de") == {"source": "en", "target": "de"}
    with pytest.raises(UserError, match=r"prompt.transcribe\[1\]: found 2 times <speech>"):
        replace(config, transcribe=["a", "<speech><speech>"]).check()
    with pytest.raises(UserError, match=r"prompt.transcribe: found an empty list"):
        replace(config, transcribe=[]).check()
    with pytest.raises(UserError, match=r"prompt.context: found 'x', expected \{context\} and \{instruction\}"):
        PromptConfig(context="x").check()


def test_manifests_hold_what_rows_ask(tmp_path: Path) -> None:
    rows = [ManifestRow(name, "x.wav", None, "yes", "", "", "xx", "", 0, task="answer", asks=asks)
            for name, asks in (("a", ASKS), ("b", RowPrompt()), ("c", RowPrompt(context="Ulm")))]
    write_manifest(tmp_path / "m.tsv", rows)
    assert [row.asks for row in read_manifest(tmp_path / "m.tsv")] == [row.asks for row in rows]
    # An instruction of one's own names no language: that of the first row has no name.
    soundfile.write(tmp_path / "x.wav", torch.zeros(1600).numpy(), 16000)
    read = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(tmp_path / "m.tsv")})).read("all")
    prompt = PromptConfig(transcribe="in {source}")
    check_languages(read[:1], lambda row: prompt.named_in("xx", "xx", "transcribe", row.row.asks), language_name)
    with pytest.raises(UserError, match="line 3"):
        check_languages(read, lambda row: prompt.named_in("xx", "xx", "transcribe", row.row.asks), language_name)


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("instruction", "<speech> or <speech>", "expected one place for the speech"),
        ("context", "a <speech>", "expected text without <speech>"),
        ("history", "[{", "expected [{\"role\": \"user\""),
        ("history", '{"role": "user"}', "a turn in speech with \"audio\""),
        ("history", "[3]", "a turn in speech with \"audio\""),
        ("history", "[" * 100_000, "expected [{"),
        ("history", json.dumps([{"role": "user", "content": "a"}]), "the last of the assistant"),
        ("history", json.dumps([{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]), "by turns"),
        ("history", json.dumps([{"role": "user", "audio": "a.wav"}]), "the last of the assistant"),
        ("history", json.dumps([{"role": "user", "audio": ""}]), "which names a file"),
        ("history", json.dumps([{"role": "user", "audio": "a.wav", "content": "<speech><speech>"}]), "one place for"),
        ("history", json.dumps([{"role": "user", "content": "a <speech>"}]), "where they have no audio"),
        ("history", json.dumps([{"role": "user", "content": " "}]), "turns that are not empty"),
        ("history", json.dumps([{"role": "user", "content": "a", "transcript": "b"}]), "a transcript beside audio"),
        ("history", json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "audio": "b.wav"}]),
         "audio in turns of the user alone"),
        ("instruction", "a \ufdd0", "U+FDD0"),
        ("history", json.dumps([{"role": role, "content": "\ufdd0"} for role in ("user", "assistant")]), "U+FDD0"),
    ],
)
def test_a_row_that_asks_nothing_sensible_is_named(column: str, text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "m.tsv"
    file.write_text(f"id\taudio\ttgt_text\t{column}\na\tx.wav\tyes\t\nb\tx.wav\tyes\t{text}\n")
    with pytest.raises(UserError) as caught:
        read_manifest(file)
    assert str(caught.value).startswith(f"{file}, line 3, column '{column}': found ") and expected in str(caught.value)


def test_clips_with_prompts_of_their_own_decode_in_a_batch_as_alone(
    tiny_config: SpeechLlmConfig, tiny_manifest: Path
) -> None:
    tiny_config.adapter = PartSection(name="mlp")
    torch.manual_seed(0)
    model = create_speech_llm(tiny_config).eval()
    batch = batch_of_files([tiny_manifest / f"train_{i}.{('wav', 'flac')[i % 2]}" for i in range(4)], "en", None)
    for clip, asks in zip(
        batch, (RowPrompt(), ASKS, RowPrompt(context="a long list of names " * 5), RowPrompt("<speech>")), strict=True
    ):
        clip.asks = asks
    config = DecodingConfig(tokens_per_second=2.0, extra_tokens=4)
    texts, _ = model.generate(batch, config)
    assert texts == [model.generate(batch.row(row), config)[0][0] for row in range(4)]
    assert len(set(texts)) > 1
    question = {"context": "a long list of names " * 5, "history": [turn.values() for turn in TURNS]}
    system = Transcriber(model)
    asked = system.ask([tiny_manifest / "train_0.wav"], "which? <speech>", max_tokens=3, **question)
    assert asked != system.ask(tiny_manifest / "train_0.wav", "which? <speech>", max_tokens=3)
    with pytest.raises(UserError, match="instruction: expected one place"):
        system.ask(tiny_manifest / "train_0.wav", "<speech><speech>")
