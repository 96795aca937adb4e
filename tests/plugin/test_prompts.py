"""Prompts: what stands before and after the speech, and how an answer ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from speechllm_plugin.errors import UserError
from speechllm_plugin.languages import language_name
from speechllm_plugin.prompts import SPEECH, PromptConfig, PromptRenderer

CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<|eot_id|>", "[INST]"]

NO_SYSTEM_TURN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}"
    "{% endif %}[INST]{{ message['content'] }}</s>{% endfor %}"
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


def test_a_template_without_a_system_turn_gets_it_with_the_users(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = NO_SYSTEM_TURN
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


def test_an_llm_without_a_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="^prompt: the LLM's tokenizer has no chat template"):
        PromptRenderer(tokenizer, PromptConfig())


def test_a_chat_template_that_fails(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('not today') }}"
    for system in (None, "you listen"):
        with pytest.raises(UserError, match="^prompt: the LLM's chat template failed: not today"):
            PromptRenderer(tokenizer, PromptConfig(system=system))
