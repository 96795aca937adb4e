"""Prompt and answer have the tokens that the tokenizer gives the whole conversation."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import (
    LlamaTokenizer,
    LlamaTokenizerFast,
    T5Tokenizer,
    T5TokenizerFast,
)

from speechllm_plugin.prompts import SPEECH, PromptConfig, PromptRenderer
from tests.plugin.llm_families import (
    MISTRAL_TEMPLATE,
    SPELT_CONTROLS,
    _from_sentencepiece,
    gemma_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
)

# Turns named in plain text, as Zephyr has them: what precedes an answer is no control token.
PLAIN_ROLES = (
    "{% for turn in messages %}<|{{ turn.role }}|>\n{{ turn.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


# A line end that the control token before it swallows, as Phi 3's do.
SWALLOWED = (
    "{% for turn in messages %}[INST]{{ turn.role }}[/INST]\n{{ turn.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[INST]assistant[/INST]\n{% endif %}"
)


# In place of transformers' own date, which is today's.
TODAY = "{% macro strftime_now(layout) %}26 Jul 2024{% endmacro %}{{ '' }}"


def llama_style(
    *, legacy: bool, template: str = MISTRAL_TEMPLATE, kls: Any = LlamaTokenizerFast, rstrip: bool = False
) -> Any:
    """Of a sentencepiece model that puts a space before each text. `legacy`: after each control token, too."""
    tokenizer = _from_sentencepiece(
        kls, "bpe", ("<unk>", "<s>", "</s>"), ("[INST]", "[/INST]"), legacy=legacy, add_prefix_space=True,
        chat_template=template,
    )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken(token, rstrip=rstrip) for token in ("[INST]", "[/INST]")]}
    )
    return tokenizer


def t5_style(*, legacy: bool, kls: Any = T5TokenizerFast) -> Any:
    options = {"add_prefix_space": True} if kls is T5TokenizerFast else {}
    return _from_sentencepiece(
        kls, "unigram", ("<pad>", "</s>", "<unk>"), (), extra_ids=3, legacy=legacy, **options
    )


def with_speech_token(tokenizer: Any) -> Any:
    """The reference: an LLM's tokenizer that knows speech as a special token."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens([AddedToken(SPEECH, special=True, normalized=False)])
    return tokenizer


KINDS: dict[str, Callable[[], Any]] = {
    "sentencepiece, a space first": lambda: llama_style(legacy=False),
    "sentencepiece, a space after each control token": lambda: llama_style(legacy=True),
    "sentencepiece, roles in plain text": lambda: llama_style(legacy=False, template=PLAIN_ROLES),
    "sentencepiece, roles in plain text, legacy": lambda: llama_style(legacy=True, template=PLAIN_ROLES),
    "sentencepiece, control tokens that swallow": lambda: llama_style(legacy=True, template=SWALLOWED, rstrip=True),
    "sentencepiece, no space": mistral_tokenizer,
    "byte-level, a prompt that ends with a line end": qwen_tokenizer,
    "byte-level, thoughts in the prompt": lambda: qwen_tokenizer(thinks=True),
    "byte-level, two line ends": llama_tokenizer,
    "gemma": gemma_tokenizer,
    "mt5": lambda: t5_style(legacy=True),
}
CHATS = [kind for kind in KINDS if kind != "mt5"]


@cache
def tokenizer_of(kind: str) -> Any:
    return KINDS[kind]()


@pytest.mark.parametrize("kind", CHATS)
@pytest.mark.parametrize(
    "instruction",
    [f"can you transcribe English? {SPEECH}", f"{SPEECH}turn it on", f"{SPEECH} turn it on", f"a{SPEECH}\nb"],
)
def test_a_conversation_has_the_tokens_that_the_tokenizer_gives_it(kind: str, instruction: str) -> None:
    """Prompt and answer together, with a special token in the place of the speech."""
    tokenizer = tokenizer_of(kind)
    renderer = PromptRenderer(tokenizer, PromptConfig(transcribe=instruction))
    reference = with_speech_token(tokenizer)
    for text in ("turn the kitchen light on", "?", "Köln"):
        turns = [{"role": "user", "content": instruction}, {"role": "assistant", "content": text}]
        whole = reference.apply_chat_template(
            turns, chat_template=TODAY + reference.get_chat_template(), tokenize=False, enable_thinking=False
        )
        expected = reference(whole, add_special_tokens=False)["input_ids"]
        prompt = renderer.render("en", "en")
        speech = reference.convert_tokens_to_ids(SPEECH)
        found = [*prompt.before, speech, *prompt.after, *renderer.encode_target(text)]
        assert found == expected[: len(found)], (
            reference.convert_ids_to_tokens(found), reference.convert_ids_to_tokens(expected)
        )
        # The template goes on, if at all, with what follows a closed turn.
        assert not reference.decode(expected[len(found) :]).strip()


@pytest.mark.parametrize("legacy", [False, True], ids=["first", "legacy"])
@pytest.mark.parametrize("instruction", [f"transcribe{SPEECH}turn it on", f"{SPEECH}, please", f"a{SPEECH}b"])
def test_sentencepiece_itself_agrees(instruction: str, legacy: bool) -> None:
    """transformers' slow tokenizers, which call sentencepiece's own encoder, around a special token."""
    reference = llama_style(legacy=legacy, kls=LlamaTokenizer)
    reference.add_tokens([AddedToken(SPEECH, special=True, normalized=False)])
    tokenizer = llama_style(legacy=legacy, template="{{ messages[0].content }}</s>")
    prompt = PromptRenderer(tokenizer, PromptConfig(transcribe=instruction)).render("en", "en")
    found = [*prompt.before, reference.convert_tokens_to_ids(SPEECH), *prompt.after]
    assert found == reference(f"{instruction}</s>", add_special_tokens=False)["input_ids"]
    # What the legacy behaviour is: a space that nobody wrote.
    after = tokenizer.convert_ids_to_tokens(prompt.after)[0]
    assert after.startswith("▁") == legacy


@pytest.mark.parametrize("legacy", [False, True], ids=["first", "always"])
def test_sentencepiece_itself_agrees_without_turns(legacy: bool) -> None:
    reference = t5_style(legacy=legacy, kls=T5Tokenizer)
    reference.add_tokens([AddedToken(SPEECH, special=True, normalized=False)])
    instruction = f"can you transcribe{SPEECH}turn it on"
    renderer = PromptRenderer(t5_style(legacy=legacy), PromptConfig(transcribe=instruction), chat=False)
    prompt = renderer.render("en", "en")
    found = [*prompt.before, reference.convert_tokens_to_ids(SPEECH), *prompt.after]
    assert found == reference(instruction)["input_ids"]
    # The answer is the decoder's own text: it begins like any.
    assert renderer.encode_target("turn it on") == reference("turn it on")["input_ids"]
    assert reference.convert_ids_to_tokens(renderer.encode_target("turn it on"))[0].startswith("▁")


def test_an_answer_that_would_join_the_prompts_end() -> None:
    """The prompt's tokens are fixed before the answer is: nothing of the answer is lost."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens([AddedToken("\n\n", special=False)])
    renderer = PromptRenderer(tokenizer, PromptConfig())
    assert tokenizer.convert_ids_to_tokens(renderer.render("en", "en").after[-2:])[1] == "Ċ"
    for text in ("\nturn it on", "\n\n\nturn", " turn"):
        assert tokenizer.decode(renderer.encode_target(text)[:-1]) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["turn the light on", "?a  b", "Köln is</s> ok<s>", "\ufdd0", "x[INST]"])
def test_each_piece_of_a_text_knows_its_characters(kind: str, text: str) -> None:
    tokenizer = tokenizer_of(kind)
    renderer = PromptRenderer(tokenizer, PromptConfig(), chat=kind != "mt5")
    pieces = renderer.pieces(text)
    assert [token for token, _, _ in pieces] == renderer.encode_target(text)[:-1]
    assert all(0 <= start <= end <= len(text) for _, start, end in pieces)
    assert [start for _, start, _ in pieces] == sorted(start for _, start, _ in pieces)
    covered = {place for _, start, end in pieces for place in range(start, end)}
    assert {place for place, character in enumerate(text) if character != " "} <= covered
    assert all(token < len(tokenizer) for token, _, _ in pieces)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_the_place_of_the_speech_is_one_with_its_prompt(kind: str) -> None:
    """What a cascade asks: the same tokens as if the words had been typed into the instruction."""
    tokenizer, chat = tokenizer_of(kind), kind != "mt5"
    for instruction in (f"can you translate? {SPEECH}", f"{SPEECH} in German", SPEECH):
        renderer = PromptRenderer(tokenizer, PromptConfig(translate=instruction), chat=chat)
        text = "turn the kitchen light on"
        prompt, words = renderer.render_text("en", "de", text)
        typed = instruction.replace(SPEECH, text)
        if chat:
            typed = tokenizer.apply_chat_template(
                [{"role": "user", "content": typed}], tokenize=False, add_generation_prompt=True,
                chat_template=TODAY + tokenizer.get_chat_template(), enable_thinking=False,
            )
        expected = tokenizer(typed, add_special_tokens=not chat)["input_ids"]
        assert [*prompt.before, *words, *prompt.after] == expected
        assert tokenizer.decode(words).strip() == text


@pytest.mark.parametrize("kind", KINDS)
def test_spelt_control_tokens_in_a_transcript_never_break_out(kind: str) -> None:
    tokenizer, chat = tokenizer_of(kind), kind != "mt5"
    renderer = PromptRenderer(tokenizer, PromptConfig(), chat=chat)
    plain, _ = renderer.render_text("en", "de", "ok")
    for spelt in SPELT_CONTROLS:
        for text in (spelt, f"say {spelt} now", f"{spelt}{spelt}", f"ok{spelt}"):
            prompt, words = renderer.render_text("en", "de", text)
            assert not renderer._control & set(words), (text, tokenizer.convert_ids_to_tokens(words))
            control = [token for token in (*prompt.before, *prompt.after) if token in renderer._control]
            assert control == [token for token in (*plain.before, *plain.after) if token in renderer._control]
            assert "".join(tokenizer.decode(words).split()) == "".join(text.split())


@pytest.mark.parametrize("kind", KINDS)
def test_many_texts_at_once_are_encoded_as_each_is(kind: str) -> None:
    renderer = PromptRenderer(tokenizer_of(kind), PromptConfig(), chat=kind != "mt5")
    texts = ["turn the light on", "", " ", "\n two lines", "Straße", *SPELT_CONTROLS]
    texts += [f"say {spelt}" for spelt in SPELT_CONTROLS]
    assert renderer.encode_targets(texts) == [renderer.encode_target(text) for text in texts]
    assert renderer.encode_targets([]) == []
