"""Prompts: the place of the speech, the turns, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from speechllm_plugin.errors import UserError
from speechllm_plugin.prompts import SPEECH, PromptConfig, PromptRenderer
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.row_prompt import RowPrompt
from speechllm_plugin.tasks.transcribe import TRANSCRIBE
from speechllm_plugin.tasks.translate import TRANSLATE

CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<|eot_id|>", "[INST]"]
NO_SYSTEM_TURN = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system turn') }}"
    "{% endif %}[INST]{{ message['content'] }}</s>{% endfor %}"
)
IGNORED_SYSTEM_TURN = (
    "{% for message in messages %}{% if message['role'] != 'system' %}[INST]{{ message['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
DEFAULT_SYSTEM_TURN = (
    "{% if messages[0]['role'] == 'system' %}<{{ messages[0]['content'] }}>{% else %}<be kind>{% endif %}"
    "{% for message in messages %}{% if message['role'] != 'system' %}[INST]{{ message['content'] }}</s>{% endif %}"
    "{% endfor %}"
)
NO_END_OF_TURN = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"


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
    assert texts_around(tokenizer, PromptConfig(order="instruction_first"), source, target) == [
        f"<|im_start|>user\n{instruction}", "<|im_end|>\n<|im_start|>assistant\n"
    ]
    # As in LLaVA.
    assert texts_around(tokenizer, PromptConfig(), source, target) == [
        "<|im_start|>user\n", f"\n{instruction.rstrip()}<|im_end|>\n<|im_start|>assistant\n"
    ]


def test_a_prompt_is_rendered_once(renderer: PromptRenderer, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [RowPrompt(), RowPrompt(context="Bonn"), RowPrompt(context="Kiel")]
    first = [renderer.render("en", "en", row=row) for row in rows]
    assert len(set(first)) == 3
    assert all(renderer.render("en", "en", row=row) is prompt for row, prompt in zip(rows, first, strict=True))
    # Not without end: the oldest goes.
    monkeypatch.setattr("speechllm_plugin.prompts.renderer._KEPT", 3)
    renderer.render("en", "de")
    again = [renderer.render("en", "en", row=row) for row in rows[::-1]][::-1]
    assert again == first and [own is other for own, other in zip(again, first, strict=True)] == [False, True, True]


@pytest.mark.parametrize("order", ["speech_first", "instruction_first"])
def test_text_right_around_the_speech(tokenizer: PreTrainedTokenizerFast, order: str) -> None:
    """Special tokens of the LLM among it, wherever the speech stands."""
    around = {"before_speech": "Audio: <|im_end|>", "after_speech": " (end)"}
    for config in (PromptConfig(order=order, **around), PromptConfig(transcribe=f"a{SPEECH}b", **around)):
        renderer = PromptRenderer(tokenizer, config)
        prompt = renderer.render("en", "en")
        before, after = tokenizer.decode(prompt.before), tokenizer.decode(prompt.after)
        assert before.endswith("Audio: <|im_end|>") and after.startswith(" (end)")
        assert prompt.before[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
        text, words = renderer.render_text("en", "en", "turn it on")
        assert tokenizer.decode([*text.before, *words, *text.after]) == f"{before}turn it on{after}"


def test_control_tokens_of_the_template_are_control_tokens(
    tokenizer: PreTrainedTokenizerFast, renderer: PromptRenderer
) -> None:
    prompt = renderer.render("en", "en")
    start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert prompt.before[0] == start and start not in prompt.before[1:]
    assert prompt.after.count(end) == 1 and prompt.after.index(end) < prompt.after.index(start)
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
    before, after = texts_around(tokenizer, PromptConfig(system="you listen", order="instruction_first"), "en", "en")
    assert before == "[INST]you listen\n\ncan you transcribe English? "
    assert after == "</s>"


@pytest.mark.parametrize("system", ["can you", "English?", "]"])
def test_a_system_text_that_stands_elsewhere_in_the_prompt_is_still_written(
    system: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    tokenizer.chat_template = IGNORED_SYSTEM_TURN
    before, _ = texts_around(tokenizer, PromptConfig(system=system, order="instruction_first"), "en", "en")
    assert before == f"[INST]{system}\n\ncan you transcribe English? "


def test_a_system_text_that_is_the_templates_default_is_written_once(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = DEFAULT_SYSTEM_TURN
    for system in ("be kind", "be"):
        before, _ = texts_around(tokenizer, PromptConfig(system=system, order="instruction_first"), "en", "en")
        assert before == f"<{system}>[INST]can you transcribe English? "


@pytest.mark.parametrize("key", ["transcribe", "translate", "answer", "system"])
def test_the_character_that_stands_for_the_speech_is_refused(tokenizer: PreTrainedTokenizerFast, key: str) -> None:
    text = "a\ufdd0b" if key == "system" else f"a\ufdd0b {SPEECH}"
    with pytest.raises(UserError, match=f"^prompt.{key}: found the character U\\+FDD0, which is none; expected text$"):
        PromptRenderer(tokenizer, PromptConfig(**{key: text}))


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
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in renderer.render("fr", "fr").after


@pytest.mark.parametrize("text", ["Straße, naïve – 北京 🙂", "a  b", "<speech>", "<answer>", "{source}", "don't , no"])
def test_texts_come_back(renderer: PromptRenderer, text: str) -> None:
    assert renderer.decode(renderer.encode_target(text)) == text


def test_training_and_inference_see_the_same_ids(tiny_llm: Path, renderer: PromptRenderer) -> None:
    other = PromptRenderer(AutoTokenizer.from_pretrained(tiny_llm), PromptConfig())
    renderer.encode_target("first <|im_end|>")
    for pair in (("en", "en"), ("en", "de"), ("de", "en")):
        assert renderer.render(*pair) == other.render(*pair) == renderer.render(*pair)
    assert len({renderer.render(*pair) for pair in (("en", "en"), ("en", "de"), ("de", "en"))}) == 3


def test_a_language_needs_a_name_only_where_the_prompt_names_it(tokenizer: PreTrainedTokenizerFast) -> None:
    named = PromptConfig()
    for pair, wrong in ((("xx", "xx"), "xx"), (("en", "yy"), "yy"), (("xx", "de"), "xx")):
        with pytest.raises(UserError, match=f"^language: found '{wrong}'"):
            PromptRenderer(tokenizer, named).render(*pair)
    silent = PromptConfig(transcribe=f"write {SPEECH}", translate=f"into {{target}}: {SPEECH}")
    renderer = PromptRenderer(tokenizer, silent)
    assert renderer.render("xx", "XX") == renderer.render("en", "en") != renderer.render("xx", "de")
    assert silent.instruction("xx", "deu") == f"into German: {SPEECH}"


def test_the_names_of_a_language_are_one_task(renderer: PromptRenderer) -> None:
    assert renderer.render("en", "en-US") == renderer.render("eng", "English") == renderer.render("EN", "")
    assert renderer.render("en", "German") == renderer.render("English", "deu") != renderer.render("en", "en")
    config = PromptConfig()
    assert config.task_of("en", "en-US") == TRANSCRIBE and config.task_of("en", "de") == TRANSLATE


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PromptConfig(transcribe=2 * SPEECH), "prompt.transcribe: found 2 times <speech>, expected one, or none for"),
        (PromptConfig(translate=2 * SPEECH), "prompt.translate: found 2 times <speech>, expected one, or none for"),
        (PromptConfig(answer=3 * SPEECH), "prompt.answer: found 3 times <speech>, expected one, or none for"),
        (PromptConfig(order="behind"), "prompt.order: found 'behind', expected speech_first or instruction_first"),
        (PromptConfig(after_speech=SPEECH), "prompt.after_speech: found 1 times <speech>, expected none"),
        (
            PromptConfig(answer=f"{{language}} {SPEECH}"),
            "prompt.answer: found placeholder {language}, expected {source} or {target}",
        ),
        (PromptConfig(system=f"hear {SPEECH}"), "prompt.system: found 1 times <speech>, expected none"),
        (
            PromptConfig(transcribe=f"{{language}} {SPEECH}"),
            "prompt.transcribe: found placeholder {language}, expected {source}, and {{",
        ),
        (
            PromptConfig(transcribe=f"{{target}} {SPEECH}"),
            "prompt.transcribe: found placeholder {target}, expected {source}, and {{",
        ),
        (PromptConfig(translate=f"{{source.upper}} {SPEECH}"), "prompt.translate: found placeholder {source.upper},"),
        (PromptConfig(translate=f"{{}} {SPEECH}"), "prompt.translate: found placeholder {}, expected {source} or"),
        (PromptConfig(translate=f"a {{ {SPEECH}"), "prompt.translate: found 'a { <speech>' ("),
        (PromptConfig(translate=f"{{source:d}} {SPEECH}"), "prompt.translate: found '{source:d} <speech>' ("),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_template(tokenizer: PreTrainedTokenizerFast, config: PromptConfig, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        PromptRenderer(tokenizer, config)
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_template_that_loses_the_speech(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ messages[0].content[9:] }}"
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


def test_speech_that_is_answered(tokenizer: PreTrainedTokenizerFast) -> None:
    for source, target in (("en", "en"), ("en", ""), ("de", "en")):
        config = PromptConfig(answer=SPEECH, system="be brief")
        assert config.task_of(source, target) == ANSWER
        assert texts_around(tokenizer, config, source, target) == [
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
        ]
    config = PromptConfig(answer=f"from {{source}}, in {{target}}: {SPEECH}")
    assert texts_around(tokenizer, config, "de", "")[0].endswith("from German, in German: ")
    assert texts_around(tokenizer, config, "de", "en")[0].endswith("from German, in English: ")
    # A row may state what is asked of it, whatever the others are.
    asked = PromptConfig()
    assert asked.task_of("en", "en", "answer") == ANSWER
    assert asked.instruction("en", "en", ANSWER) == SPEECH
    assert config.instruction("en", "en", TRANSCRIBE) == asked.instruction("en", "en")
