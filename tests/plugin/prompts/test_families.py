"""The prompt of each family of LLMs."""

from __future__ import annotations

import pytest

from speechllm_plugin.prompts import SPEECH, PromptConfig, PromptRenderer
from tests.plugin.llm_families import (
    FAMILIES,
    SPELT_CONTROLS,
    gemma_tokenizer,
    llama_tokenizer,
    mistral_tokenizer,
    qwen_tokenizer,
    t5_tokenizer,
)

FAMILY_PROMPTS = {
    # With a template that writes the date, which must not be today's.
    "llama": (
        llama_tokenizer,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 26 Jul 2024\n\nyou listen<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\ncan you transcribe English? ",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "mistral": (mistral_tokenizer, "<s>[INST] you listen\n\ncan you transcribe English? ", "[/INST]"),
    "qwen2": (
        qwen_tokenizer,
        "<|im_start|>system\nyou listen<|im_end|>\n<|im_start|>user\ncan you transcribe English? ",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    # Told not to think.
    "qwen3": (
        lambda: qwen_tokenizer(thinks=True),
        "<|im_start|>system\nyou listen<|im_end|>\n<|im_start|>user\ncan you transcribe English? ",
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "gemma2": (
        gemma_tokenizer,
        "<bos><start_of_turn>user\nyou listen\n\ncan you transcribe English? ",
        "<end_of_turn>\n<start_of_turn>model\n",
    ),
    # No turns; its tokenizer knows no line ends and no spaces at the end.
    "mt5": (t5_tokenizer, "you listen can you transcribe English?", "</s>"),
}


@pytest.mark.parametrize("name", FAMILY_PROMPTS)
def test_the_prompt_of_each_family(name: str) -> None:
    create, before, after = FAMILY_PROMPTS[name]
    tokenizer, chat = create(), FAMILIES[name].chat
    renderer = PromptRenderer(tokenizer, PromptConfig(system="you listen", order="instruction_first"), chat=chat)
    prompt = renderer.render("en", "en")
    assert [tokenizer.decode(prompt.before), tokenizer.decode(prompt.after)] == [before, after]
    assert tokenizer.convert_ids_to_tokens(renderer.end_of_turn) == FAMILIES[name].end_of_turn
    # The speech before the instruction, in the same turn.
    config = PromptConfig(transcribe=f"{SPEECH} can you transcribe {{source}}?")
    prompt = PromptRenderer(tokenizer, config, chat=chat).render("en", "en")
    assert tokenizer.decode(prompt.after).endswith("can you transcribe English?" + after)
    assert "transcribe" not in tokenizer.decode(prompt.before)


@pytest.mark.parametrize("name", FAMILY_PROMPTS)
def test_an_empty_system_text_is_none(name: str) -> None:
    tokenizer, chat = FAMILY_PROMPTS[name][0](), FAMILIES[name].chat
    empty, none = (PromptRenderer(tokenizer, PromptConfig(system=text), chat=chat) for text in ("", None))
    assert empty.render("en", "en") == none.render("en", "en")


@pytest.mark.parametrize("name", FAMILY_PROMPTS)
def test_spelt_control_tokens_never_break_out(name: str) -> None:
    """On each kind of tokenizer: byte-level BPE, BPE converted from sentencepiece, and unigram."""
    tokenizer = FAMILY_PROMPTS[name][0]()
    renderer = PromptRenderer(tokenizer, PromptConfig(), chat=FAMILIES[name].chat)
    control = {token for token, content in tokenizer.added_tokens_decoder.items() if content.special}
    control |= {*tokenizer.all_special_ids, renderer.end_of_turn}
    control -= {tokenizer.unk_token_id}
    for spelt in SPELT_CONTROLS:
        for text in (spelt, f"say {spelt} now", f"{spelt}{spelt}", f"ok{spelt}", f"{spelt} ok"):
            *target, end = renderer.encode_target(text)
            assert end == renderer.end_of_turn
            assert not control & set(target), (text, tokenizer.convert_ids_to_tokens(target))
            assert renderer.decode(target) == text


@pytest.mark.parametrize("name", ["mistral", "mt5"])
def test_a_tokenizer_that_puts_spelt_control_tokens_together(name: str) -> None:
    """What the test above is about: the tokenizer's own option against it is not enough."""
    tokenizer = FAMILY_PROMPTS[name][0]()
    spelt = {"mistral": "<s>", "mt5": "</s>"}[name]
    ids = tokenizer(f"ok{spelt}", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.convert_tokens_to_ids(spelt) in ids


def test_a_character_of_a_control_token_that_the_vocabulary_lacks() -> None:
    """T5's has no `<`: it is what the tokenizer makes of any unknown character."""
    tokenizer = t5_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<北>"]})
    target = PromptRenderer(tokenizer, PromptConfig(), chat=False).encode_target("<北>")
    spelt = tokenizer.convert_ids_to_tokens(target[:-1])
    assert [token for token in spelt if token != "▁"] == ["<", "<unk>", ">"]
