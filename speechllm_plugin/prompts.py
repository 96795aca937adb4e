"""The one renderer of prompts, for training and for inference.

A prompt is an instruction with one place for speech, inside the user turn of the LLM's own chat template, or on its
own for an LLM without turns (T5). An instruction that does not name the place gets it from `PromptConfig.order`.
Rendering gives the token ids before and after that place; the speech embeddings go between them, the answer follows.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from string import Formatter

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from speechllm_plugin.errors import UserError
from speechllm_plugin.languages import language_name
from speechllm_plugin.tasks.api import Task, task_named, task_names, task_of_row
from speechllm_plugin.tasks.transcribe import TRANSCRIBE
from speechllm_plugin.tasks.translate import TRANSLATE

SPEECH = "<speech>"
"""The place of the speech embeddings in a prompt template."""
_ANSWER = "<answer>"
_PLACE = "\ufdd0"
"""Stands for the speech where a prompt is tokenised, and shows what a template writes. Unicode keeps this code point
out of texts."""
_TODAY = datetime(2024, 7, 26)
"""What templates that write the date are told (the date that Llama 3.1's falls back on): a prompt is the same
tomorrow."""
_DIRECTIVES = "aAwdbBmyYHIMSpfjUWxXcGuV"
# transformers gives templates a `strftime_now` of its own; a macro in the template goes before it. The empty string
# keeps a line end that may begin the template.
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('%{letter}', {_TODAY.strftime(f'%{letter}')!r})" for letter in _DIRECTIVES)
    + "|replace('%%', '%') }}{% endmacro %}{{ '' }}"
)
_ORDERS = {"speech_first": f"{SPEECH}\n{{}}", "instruction_first": f"{{}} {SPEECH}"}


@dataclass(kw_only=True)
class PromptConfig:
    transcribe: str = TRANSCRIBE.instruction
    """Instruction for speech recognition; `{source}` becomes the language's name (arXiv 2409.17044, section 3)."""
    translate: str = TRANSLATE.instruction
    """Instruction for speech translation; `{source}` and `{target}` become the languages' names."""
    order: str = "speech_first"
    """Place of the speech in an instruction without `<speech>`. `speech_first`: on a line of its own before it, as in
    LLaVA (arXiv 2304.08485), which arXiv 2409.17044 follows. `instruction_first`: behind it."""
    before_speech: str = ""
    """Text or special tokens of the LLM directly before the speech, wherever the speech stands."""
    after_speech: str = ""
    """Text or special tokens of the LLM directly behind the speech."""
    answer: str | None = None
    """Instruction for speech that is to be answered, such as a spoken question (arXiv 2310.00230). It replaces
    `transcribe` and `translate`. `<speech>` alone makes the speech the whole instruction. None = speech is transcribed
    or translated."""
    system: str | None = None
    """Text of the system turn. For an LLM without system turns it is put before the instruction. None or empty = what
    the chat template writes by default."""

    def check(self) -> None:
        """
        :raises UserError: an instruction has several places for speech, or holds what stands for nothing.
        """
        if self.order not in _ORDERS:
            raise UserError(f"prompt.order: found {self.order!r}, expected {' or '.join(_ORDERS)}")
        tasks = [task_named(name, "prompt") for name in task_names()]
        for task in tasks:
            if (found := self._template(task).count(SPEECH)) > 1:
                raise UserError(
                    f"prompt.{task.name}: found {found} times {SPEECH}, expected one, or none for prompt.order"
                )
            self._placeholders(task)
        around = ("system", "before_speech", "after_speech")
        for key in around:
            if found := (getattr(self, key) or "").count(SPEECH):
                raise UserError(f"prompt.{key}: found {found} times {SPEECH}, expected none")
        for key in (*(task.name for task in tasks), *around):
            if _PLACE in (getattr(self, key, None) or ""):
                raise UserError(f"prompt.{key}: found the character U+{ord(_PLACE):X}, which is none; expected text")

    def task_of(self, source_lang: str, target_lang: str | None, stated: str = "") -> Task:
        """What is asked of a clip: what its row states; else to answer, where there is an instruction for it; else what
        the languages tell."""
        return task_of_row(source_lang, target_lang, stated or ("" if self.answer is None else "answer"))

    def instruction(self, source_lang: str, target_lang: str | None, task: Task | None = None) -> str:
        """What is asked for one clip, with its place for speech.

        :param task: None = see `task_of`.
        :raises UserError: it names a language that has no name.
        """
        task = task or self.task_of(source_lang, target_lang)
        named = self.named(source_lang, target_lang, task)
        names = {name: language_name(language) for name, language in named.items()}
        text = self._template(task).format(**names)
        if SPEECH not in text:
            text = _ORDERS[self.order].format(text)
        return text.replace(SPEECH, f"{self.before_speech}{SPEECH}{self.after_speech}")

    def named(self, source_lang: str, target_lang: str | None, task: Task | None = None) -> dict[str, str]:
        """The languages that the instruction names, by `source` and `target`."""
        task = task or self.task_of(source_lang, target_lang)
        languages = {"source": source_lang, "target": target_lang or source_lang}
        return {name: languages[name] for name in sorted(self._placeholders(task))}

    def named_in(self, source_lang: str, target_lang: str, stated: str) -> dict[str, str]:
        """`named`, for a row that states its task, or does not."""
        return self.named(source_lang, target_lang, self.task_of(source_lang, target_lang, stated))

    def _template(self, task: Task) -> str:
        configured: str | None = getattr(self, task.name, None)
        return task.instruction if configured is None else configured

    def _placeholders(self, task: Task) -> set[str]:
        template, key = self._template(task), task.name
        expected = f"{' or '.join(f'{{{name}}}' for name in task.names)}, and {{{{ or }}}} for a brace of the text"
        try:
            found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
            for name in sorted(found - {*task.names}):
                raise UserError(f"prompt.{key}: found placeholder {{{name}}}, expected {expected}")
            # Conversions and formats: {source!x}, {source:d}.
            template.format(**dict.fromkeys(task.names, ""))
        except (KeyError, IndexError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"prompt.{key}: found {template!r} ({error}), expected {expected}") from error
        return found


@dataclass(frozen=True)
class RenderedPrompt:
    """Token ids around the speech."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class PromptRenderer:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, *, chat: bool = True) -> None:
        """
        :param chat: whether the LLM has a chat template; without one, a prompt ends like T5's inputs, with the end of
            the sequence.
        :raises UserError: the configuration, the template or the tokenizer is not of use.
        """
        config.check()
        if chat and not tokenizer.chat_template:
            raise UserError("prompt: the LLM's tokenizer has no chat template; expected an instruction-tuned LLM")
        self._tokenizer = tokenizer
        # One added token stands for the speech, so that prompt and answer are tokenised in one piece. Tokenised apart,
        # the text after the speech would begin like a new text: with a space, in many sentencepiece models.
        self._joint = copy.deepcopy(tokenizer)
        self._joint.add_tokens([AddedToken(_PLACE, special=False, normalized=False)])
        self._place = self._joint.convert_tokens_to_ids(_PLACE)
        self._config = config
        self._chat = chat
        self._rendered: dict[tuple[str, str, Task], RenderedPrompt] = {}
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(token for token, content in added if content.special)}
        self._opening, self._lead, end_of_turn = self._read_answer_turn() if chat else ("", "", None)
        if end_of_turn is None:
            end_of_turn = tokenizer.eos_token_id
        if end_of_turn is None:
            raise UserError("prompt: found no token that ends an answer in the LLM's chat template or tokenizer")
        self.end_of_turn = end_of_turn
        """Token id that closes the answer: what the LLM learns to stop with."""
        # The unknown token is not a control token: texts may hold it.
        self._control = self._special - {tokenizer.unk_token_id} | {end_of_turn, self._place}

    def render(self, source_lang: str, target_lang: str, task: Task | None = None) -> RenderedPrompt:
        """The prompt for one clip; see `PromptConfig.instruction`."""
        key = (source_lang, target_lang, task or self._config.task_of(source_lang, target_lang))
        if key not in self._rendered:
            before, after = self._around(self._config.instruction(*key))
            ids = [token for token, _, _ in self._tokenize(before + _PLACE + after)]
            place = ids.index(self._place)
            self._rendered[key] = RenderedPrompt(tuple(ids[:place]), (*ids[place + 1 :], *self._end_of_input))
        return self._rendered[key]

    def render_text(
        self, source_lang: str, target_lang: str, text: str, task: Task | None = None
    ) -> tuple[RenderedPrompt, list[int]]:
        """The prompt with a text in the place of the speech, tokenised as one.

        :returns: the prompt, and the token ids of the text, in which special tokens are read as plain text.
        """
        before, after = self._around(self._config.instruction(source_lang, target_lang, task))
        first, last = len(before), len(before) + len(text)
        heads: list[int] = []
        words: list[int] = []
        tails: list[int] = []
        for token, start, end in self._tokenize(before + text + after):
            if start >= last:
                tails.append(token)
            elif start >= first:
                words += self._as_text(token)
            # A word's token may begin with the space before it.
            elif end > first and token not in self._special:
                words.append(token)
            else:
                heads.append(token)
        return RenderedPrompt(tuple(heads), (*tails, *self._end_of_input)), words

    def encode_target(self, text: str) -> list[int]:
        """Token ids of an answer with the end of its turn, as the chat template has them after the prompt.

        Special tokens spelt out in the text are read as plain text, so no transcript can end its turn or open another.
        """
        return [*(token for token, _, _ in self.pieces(text)), self.end_of_turn]

    def pieces(self, text: str) -> list[tuple[int, int, int]]:
        """What `encode_target` encodes: token ids, each with the first character that it stands for and the one past
        the last."""
        opening = self._opening
        head = self._tokenize(opening, plain=True)
        tokens = self._tokenize(opening + self._lead + text, plain=True)
        if tokens[: len(head)] != head:
            # A token would span the end of the prompt and the start of the text, but the prompt comes first.
            opening = _PLACE
            head, tokens = [(self._place, 0, 1)], self._tokenize(opening + self._lead + text, plain=True)
        shift = len(opening) + len(self._lead)
        return [
            (plain, max(start - shift, 0), max(end - shift, 0))
            for token, start, end in tokens[len(head) :]
            for plain in self._as_text(token)
        ]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def _tokenize(self, text: str, *, plain: bool = False) -> list[tuple[int, int, int]]:
        """Tokens with their characters' places; the template wrote the special ones, the beginning of the sequence
        included.

        :param plain: reads special tokens as text.
        """
        encoded = self._joint(
            text, add_special_tokens=False, split_special_tokens=plain, return_offsets_mapping=True
        )
        return [(token, *span) for token, span in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def _as_text(self, token: int) -> Iterator[int]:
        """A control token's name, character by character; any other token as it is.

        A unigram model (T5), and a BPE model that was converted from sentencepiece (Llama 2, Mistral, Gemma), put a
        spelt control token together from its characters even where they are told to read it as text.
        """
        if token not in self._control:
            yield token
            return
        for character in self._joint.convert_ids_to_tokens(token):
            piece = self._tokenizer.convert_tokens_to_ids(character)
            if piece in (None, self._tokenizer.unk_token_id):
                yield from self._tokenizer(character, add_special_tokens=False)["input_ids"]
            else:
                yield piece

    def _around(self, instruction: str) -> tuple[str, str]:
        """What the whole prompt has before and after the speech."""
        if self._chat:
            text = self._apply_template([{"role": "user", "content": instruction}], generate=True)
        else:
            text = _with_system(self._config.system, instruction)
        if text.count(SPEECH) != 1:
            raise UserError(
                f"prompt: the LLM's chat template wrote {SPEECH} {text.count(SPEECH)} times, expected exactly once"
            )
        before, _, after = text.partition(SPEECH)
        return before, after

    @property
    def _end_of_input(self) -> tuple[int, ...]:
        return () if self._chat else (self.end_of_turn,)

    def _apply_template(self, turns: list[dict[str, str]], *, generate: bool) -> str:
        system = self._config.system
        if not system:
            return self._template(turns, generate)
        try:
            # The system's own words may stand in the user's turn too, or in the template's default.
            if _PLACE in self._template([{"role": "system", "content": _PLACE}, *turns], generate):
                return self._template([{"role": "system", "content": system}, *turns], generate)
        except UserError:
            pass
        # Templates that refuse a system turn (Gemma, some Mistrals), or leave it out, get its text with the user's.
        first, *rest = turns
        return self._template([{**first, "content": _with_system(system, first["content"])}, *rest], generate)

    def _template(self, turns: list[dict[str, str]], generate: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                chat_template=_FIXED_DATE + self._tokenizer.get_chat_template(),
                tokenize=False,
                add_generation_prompt=generate,
                # Qwen 3 and others answer at once instead of writing down their thoughts first.
                enable_thinking=False,
            )
        except Exception as error:  # jinja2's errors: whatever the template raises for a turn it does not take
            raise UserError(f"prompt: the LLM's chat template failed: {error}") from error
        return str(text)

    def _read_answer_turn(self) -> tuple[str, str, int | None]:
        """
        :returns: the end of the prompt after its last control token, which the answer's first token may depend on;
            white space that the template puts between prompt and answer (Mistral: a space); the token that closes the
            answer.
        """
        user = {"role": "user", "content": SPEECH}
        prompt = self._apply_template([user], generate=True)
        turns = self._apply_template([user, {"role": "assistant", "content": _ANSWER}], generate=False)
        opened, _, closing = turns.partition(_ANSWER)
        lead = opened[len(prompt) :] if opened.startswith(prompt) else ""
        after = prompt.partition(SPEECH)[2]
        start = max((end for token, _, end in self._tokenize(after) if token in self._special), default=0)
        ends = self._special | set(self._tokenizer.get_added_vocab().values())
        end_of_turn = next((token for token, _, _ in self._tokenize(closing) if token in ends), None)
        # Other text than white space would be part of the answer that the LLM writes.
        return _PLACE + after[start:], lead if lead.isspace() else "", end_of_turn


def _with_system(system: str | None, instruction: str) -> str:
    return f"{system}\n\n{instruction}" if system else instruction
