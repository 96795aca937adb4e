"""Prompts: what stands before and after the speech, and how an answer ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from speechllm_plugin.errors import UserError
from speechllm_plugin.languages import language_name
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

CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<|eot_id|>", "[INST]"]

NO_SYSTEM_TURN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}"
    "{% endif %}[INST]{{ message['content'] }}</s>{% endfor %}"
)
IGNORED_SYSTEM_TURN = (
    "{% for message in messages %}{% if message['role'] != 'system' %}[INST]{{ message['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
NO_END_OF_TURN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


@pytest.fixture
def tokenizer(tiny_llm: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_llm)


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> PromptRenderer:
    return PromptRenderer(tokenizer, PromptConfig())


def texts_around(tokenizer: PreTrainedTokenizerFast, config: PromptConfig, source: str, target: str) -> list[str]:
    prompt = PromptRenderer(tokenizer, config).render(source, target)
    return [tokenizer.decode(prompt.before), tokenizer.decode(prompt.after)]


@pytest.mark.parametrize(
    ("source", "target", "instruction"),
    [
        ("en", "en", "can you transcribe English? "),
        ("de", "", "can you transcribe German? "),
        ("en", "de", "can you translate from English to German? "),
        ("zh-CN", "en", "can you translate from Chinese to English? "),
        ("french", "french", "can you transcribe French? "),
    ],
)
def test_the_speech_has_one_place(
    tokenizer: PreTrainedTokenizerFast, source: str, target: str, instruction: str
) -> None:
    assert texts_around(tokenizer, PromptConfig(), source, target) == [
        f"<|im_start|>user\n{instruction}", "<|im_end|>\n<|im_start|>assistant\n"
    ]


def test_control_tokens_of_the_template_are_control_tokens(
    tokenizer: PreTrainedTokenizerFast, renderer: PromptRenderer
) -> None:
    prompt = renderer.render("en", "en")
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert prompt.before[0] == start and start not in prompt.before[1:]
    assert prompt.after[0] == end
    # No second beginning of the sequence.
    assert tokenizer.bos_token_id not in (*prompt.before, *prompt.after)


def test_the_speech_may_stand_anywhere(tokenizer: PreTrainedTokenizerFast) -> None:
    config = PromptConfig(transcribe=f"{SPEECH} write that down in {{source}}", system="you listen")
    assert texts_around(tokenizer, config, "en", "en") == [
        "<|im_start|>system\nyou listen<|im_end|>\n<|im_start|>user\n",
        " write that down in English<|im_end|>\n<|im_start|>assistant\n",
    ]


@pytest.mark.parametrize("template", [NO_SYSTEM_TURN, IGNORED_SYSTEM_TURN], ids=["refuses", "ignores"])
def test_a_template_without_a_system_turn_gets_it_with_the_users(
    template: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = template
    before, after = texts_around(tokenizer, PromptConfig(system="you listen"), "en", "en")
    assert before == "[INST]you listen\n\ncan you transcribe English? "
    assert after == "</s>"


def test_an_answer_ends_its_turn(tokenizer: PreTrainedTokenizerFast, renderer: PromptRenderer) -> None:
    assert renderer.end_of_turn == tokenizer.convert_tokens_to_ids("<|im_end|>")
    target = renderer.encode_target("turn the kitchen light on")
    assert target[-1] == renderer.end_of_turn
    assert renderer.end_of_turn not in target[:-1]
    assert renderer.decode(target) == "turn the kitchen light on"
    assert renderer.encode_target("") == [renderer.end_of_turn]


def test_the_end_of_turn_is_the_templates_own(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = NO_SYSTEM_TURN
    assert PromptRenderer(tokenizer, PromptConfig()).end_of_turn == tokenizer.convert_tokens_to_ids("</s>")
    # A template that closes no turn leaves the end of the sequence.
    tokenizer.chat_template = NO_END_OF_TURN
    assert PromptRenderer(tokenizer, PromptConfig()).end_of_turn == tokenizer.eos_token_id


@pytest.mark.parametrize("control", CONTROL_TOKENS)
@pytest.mark.parametrize("text", ["{}", "say {} now", "{}{}", "ok{}"])
def test_control_tokens_in_a_text_are_text(
    tokenizer: PreTrainedTokenizerFast, renderer: PromptRenderer, control: str, text: str
) -> None:
    """A transcript can neither end its turn nor open another, and comes back as it was."""
    text = text.format(control, control)
    target = renderer.encode_target(text)
    special = set(tokenizer.convert_tokens_to_ids(CONTROL_TOKENS))
    assert not special & set(target[:-1])
    assert renderer.decode(target) == text
    # The template's own tokens are still control tokens afterwards.
    assert renderer.render("fr", "fr").after[0] == tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.mark.parametrize("text", ["Straße, naïve – 北京 🙂", "a  b", "<speech>", "<answer>", "{source}", "don't , no"])
def test_texts_come_back(renderer: PromptRenderer, text: str) -> None:
    assert renderer.decode(renderer.encode_target(text)) == text


def test_training_and_inference_see_the_same_ids(tiny_llm: Path, renderer: PromptRenderer) -> None:
    other = PromptRenderer(AutoTokenizer.from_pretrained(tiny_llm), PromptConfig())
    renderer.encode_target("first <|im_end|>")
    for pair in (("en", "en"), ("en", "de"), ("de", "en")):
        assert renderer.render(*pair) == other.render(*pair) == renderer.render(*pair)
    assert len({renderer.render(*pair) for pair in (("en", "en"), ("en", "de"), ("de", "en"))}) == 3


@pytest.mark.parametrize("code", ["", "xx", "klingon", "-", "e n"])
def test_an_unknown_language(renderer: PromptRenderer, code: str) -> None:
    expected = f"language: found {code!r}, expected an ISO 639-1 code such as en, de, fr, or an English name"
    with pytest.raises(UserError) as caught:
        renderer.render(code, code)
    assert str(caught.value) == expected


def test_languages() -> None:
    for code in ("en", "EN", "en-GB", "en_us", "English", "english"):
        assert language_name(code) == "English"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PromptConfig(transcribe="no place"), "prompt.transcribe: found 0 times <speech>, expected exactly one"),
        (PromptConfig(translate=2 * SPEECH), "prompt.translate: found 2 times <speech>, expected exactly one"),
        (PromptConfig(system=f"hear {SPEECH}"), "prompt.system: found 1 times <speech>, expected none"),
        (
            PromptConfig(transcribe=f"{{language}} {SPEECH}"),
            "prompt.transcribe: bad placeholder 'language'; expected {source}",
        ),
        (
            PromptConfig(transcribe=f"{{target}} {SPEECH}"),
            "prompt.transcribe: bad placeholder 'target'; expected {source}",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_template(tokenizer: PreTrainedTokenizerFast, config: PromptConfig, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        PromptRenderer(tokenizer, config).render("en", "en")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


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
    renderer = PromptRenderer(tokenizer, PromptConfig(system="you listen"), chat=chat)
    prompt = renderer.render("en", "en")
    assert [tokenizer.decode(prompt.before), tokenizer.decode(prompt.after)] == [before, after]
    assert tokenizer.convert_ids_to_tokens(renderer.end_of_turn) == FAMILIES[name].end_of_turn
    # The speech before the instruction, in the same turn.
    config = PromptConfig(transcribe=f"{SPEECH} can you transcribe {{source}}?")
    prompt = PromptRenderer(tokenizer, config, chat=chat).render("en", "en")
    assert tokenizer.decode(prompt.after).endswith("can you transcribe English?" + after)
    assert "transcribe" not in tokenizer.decode(prompt.before)


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
    north = tokenizer.convert_tokens_to_ids("<北>")
    spelt = tokenizer.convert_ids_to_tokens(PromptRenderer(tokenizer, PromptConfig(), chat=False)._spell(north))
    assert [token for token in spelt if token != "▁"] == ["<", "<unk>", ">"]


def test_a_template_that_loses_the_speech(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ messages[0].content[:9] }}"
    with pytest.raises(UserError, match="wrote <speech> 0 times, expected exactly once"):
        PromptRenderer(tokenizer, PromptConfig()).render("en", "en")


def test_an_llm_without_a_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="^prompt: the LLM's tokenizer has no chat template"):
        PromptRenderer(tokenizer, PromptConfig())


def test_a_chat_template_that_fails(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('not today') }}"
    for system in (None, "you listen"):
        with pytest.raises(UserError, match="^prompt: the LLM's chat template failed: not today"):
            PromptRenderer(tokenizer, PromptConfig(system=system))
