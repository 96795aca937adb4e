"""Prompts: what stands before and after the speech, and how an answer ends."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    LlamaTokenizer,
    LlamaTokenizerFast,
    PreTrainedTokenizerFast,
    T5Tokenizer,
    T5TokenizerFast,
)

from speechllm_plugin.errors import UserError
from speechllm_plugin.prompts import SPEECH, PromptConfig, PromptRenderer
from tests.plugin.llm_families import (
    FAMILIES,
    MISTRAL_TEMPLATE,
    SPELT_CONTROLS,
    _from_sentencepiece,
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
DEFAULT_SYSTEM_TURN = (
    "{% if messages[0]['role'] == 'system' %}<{{ messages[0]['content'] }}>{% else %}<be kind>{% endif %}"
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
    assert texts_around(tokenizer, PromptConfig(order="instruction_first"), source, target) == [
        f"<|im_start|>user\n{instruction}", "<|im_end|>\n<|im_start|>assistant\n"
    ]
    # As in LLaVA.
    assert texts_around(tokenizer, PromptConfig(), source, target) == [
        "<|im_start|>user\n", f"\n{instruction.rstrip()}<|im_end|>\n<|im_start|>assistant\n"
    ]


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
    assert renderer.transcribes("en", "en-US") and not renderer.transcribes("en", "de")


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
            turns, tokenize=False, strftime_now=lambda layout: "26 Jul 2024", enable_thinking=False
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
                strftime_now=lambda layout: "26 Jul 2024", enable_thinking=False,
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


def test_speech_that_is_answered(tokenizer: PreTrainedTokenizerFast) -> None:
    for source, target in (("en", "en"), ("en", ""), ("de", "en")):
        config = PromptConfig(answer=SPEECH, system="be brief")
        assert PromptRenderer(tokenizer, config).answers
        assert texts_around(tokenizer, config, source, target) == [
            "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
        ]
    config = PromptConfig(answer=f"from {{source}}, in {{target}}: {SPEECH}")
    assert texts_around(tokenizer, config, "de", "")[0].endswith("from German, in German: ")
    assert texts_around(tokenizer, config, "de", "en")[0].endswith("from German, in English: ")
    assert not PromptRenderer(tokenizer, PromptConfig()).answers
