"""The one renderer of prompts, for training and for inference.

A prompt is an instruction with one place for speech, inside the user turn of the LLM's own chat template, or on its
own for an LLM without turns (T5). An instruction that does not name the place gets it from `PromptConfig.order`.
Rendering gives the token ids before and after that place; the speech embeddings go between them, the answer follows.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tokenizers import AddedToken

from speechllm_plugin.errors import UserError
from speechllm_plugin.prompts.config import PLACE, PromptConfig, marked, without_marks
from speechllm_plugin.tasks.api import Task
from speechllm_plugin.tasks.row_prompt import NOTHING, SPEECH, RowPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER = "<answer>"
_KEPT = 4096
"""Most prompts that are kept in memory: rows without texts of their own share a few, others have one each."""
_TODAY = datetime(2024, 7, 26)
"""The date for templates that write one, Llama 3.1's default, so that a prompt does not change from day to day."""
_DIRECTIVES = "aAwdbBmyYHIMSpfjUWxXcGuV"
# A macro in the template takes precedence over transformers' own `strftime_now`. The empty string keeps a line end at
# the beginning of the template.
_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('%{letter}', {_TODAY.strftime(f'%{letter}')!r})" for letter in _DIRECTIVES)
    + "|replace('%%', '%') }}{% endmacro %}{{ '' }}"
)

@dataclass(frozen=True)
class RenderedPrompt:
    """Token ids around the speech."""

    before: tuple[int, ...]
    """Tokens before the speech, or before the first speech of earlier turns."""
    after: tuple[int, ...]
    between: tuple[tuple[int, ...], ...] = ()
    """Tokens after the speech of each earlier turn, up to the next speech. The LLM gets them as embeddings, as part of
    what it is given as speech."""

    @property
    def num_tokens(self) -> int:
        return len(self.before) + sum(map(len, self.between)) + len(self.after)


class PromptRenderer:
    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: PromptConfig, *, chat: bool = True) -> None:
        """
        :param chat: whether the LLM has a chat template; without one, a prompt ends like T5's inputs, with the end of
            the sequence.
        :raises UserError: the configuration, the template or the tokenizer cannot be used.
        """
        config.check()
        if chat and not tokenizer.chat_template:
            raise UserError("prompt: the LLM's tokenizer has no chat template; expected an instruction-tuned LLM")
        self._tokenizer = tokenizer
        # One added token stands for the speech, so that prompt and answer are tokenised in one piece. Otherwise the
        # text after the speech would begin like a new text: with a space, in many sentencepiece models.
        self._joint = copy.deepcopy(tokenizer)
        self._joint.add_tokens([AddedToken(PLACE, special=False, normalized=False)])
        self._place = self._joint.convert_tokens_to_ids(PLACE)
        self._config = config
        self._chat = chat
        self._rendered: OrderedDict[tuple[str, RowPrompt], RenderedPrompt] = OrderedDict()
        added = tokenizer.added_tokens_decoder.items()
        self._special = {*tokenizer.all_special_ids, *(token for token, content in added if content.special)}
        self._opening, self._lead, end_of_turn = self._read_answer_turn() if chat else ("", "", None)
        if end_of_turn is None:
            end_of_turn = tokenizer.eos_token_id
        if end_of_turn is None:
            raise UserError("prompt: found no token that ends an answer in the LLM's chat template or tokenizer")
        self.end_of_turn = end_of_turn
        """Token id that closes the answer, with which the LLM learns to stop."""
        # The unknown token is not a control token: texts may hold it.
        self._control = self._special - {tokenizer.unk_token_id} | {end_of_turn, self._place}

    def render(
        self,
        source_lang: str,
        target_lang: str,
        task: Task | None = None,
        row: RowPrompt = NOTHING,
        key: str = "",
    ) -> RenderedPrompt:
        """The prompt for one clip; see `PromptConfig.instruction`."""
        instruction = self._config.instruction(source_lang, target_lang, task, row, key)
        known = (instruction, row)
        if known not in self._rendered:
            pieces: list[list[int]] = [[]]
            for token, _, _ in self._tokenize_marked(PLACE.join(self._around(instruction, row))):
                if token == self._place:
                    pieces.append([])
                else:
                    pieces[-1].append(token)
            before, *between, after = map(tuple, pieces)
            self._rendered[known] = RenderedPrompt(before, (*after, *self._end_of_input), tuple(between))
            if len(self._rendered) > _KEPT:
                self._rendered.popitem(last=False)
        return self._rendered[known]

    def render_text(
        self,
        source_lang: str,
        target_lang: str,
        text: str,
        task: Task | None = None,
        row: RowPrompt = NOTHING,
        key: str = "",
    ) -> tuple[RenderedPrompt, list[int]]:
        """The prompt with a text in the place of the speech, tokenised in one piece; transcripts replace earlier
        speech.

        :returns: the prompt, and the token ids of the text, in which special tokens are read as plain text.
        :raises UserError: earlier speech has no transcript.
        """
        for turn in row.heard:
            if not turn.transcript:
                raise UserError(f"history: found {turn.audio!r} without a transcript, expected one: the LLM reads it")
        instruction = self._config.instruction(source_lang, target_lang, task, row, key)
        *earlier, last_piece, after = self._around(instruction, row)
        heard = (marked(turn.transcript) for turn in row.heard)
        before = "".join(piece + words for piece, words in zip(earlier, heard, strict=True)) + last_piece
        first = len(without_marks(before)[0])
        last = first + len(text)
        heads: list[int] = []
        words: list[int] = []
        tails: list[int] = []
        for token, start, end in self._tokenize_marked(before + marked(text) + after):
            if start >= last:
                tails.append(token)
            elif start >= first or (end > first and token not in self._special):
                # A word's token may begin with the space before it.
                words.append(token)
            else:
                heads.append(token)
        return RenderedPrompt(tuple(heads), (*tails, *self._end_of_input)), words

    def encode_target(self, text: str) -> list[int]:
        """Token ids of an answer with the end of its turn, as the chat template has them after the prompt.

        Special tokens spelt out in the text are read as plain text, so no transcript can end its turn or open another.
        """
        return [*(token for token, _, _ in self.pieces(text)), self.end_of_turn]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_target` for many texts, in a fraction of the time."""
        if not texts:
            return []
        # From here on the tokenizer reads special tokens as text, without padding.
        head = self._tokenize(self._opening, plain=True)
        ids = [token for token, _, _ in head]
        whole = [self._opening + self._lead + text for text in texts]
        rows = self._joint.backend_tokenizer.encode_batch(whole, add_special_tokens=False)
        targets = []
        for text, row in zip(texts, rows, strict=True):
            own = row.ids[len(head) :]
            # Only the last token of the prompt may extend into the text.
            joins = row.ids[: len(head)] != ids or (head and row.token_to_chars(len(head) - 1) != head[-1][1:])
            is_plain = not joins and self._control.isdisjoint(own)
            targets.append([*own, self.end_of_turn] if is_plain else self.encode_target(text))
        return targets

    def pieces(self, text: str) -> list[tuple[int, int, int]]:
        """The tokens of `encode_target`, each with the first character that it stands for and the one past the last."""
        opening = self._opening
        head = self._tokenize(opening, plain=True)
        tokens = self._tokenize(opening + self._lead + text, plain=True)
        if tokens[: len(head)] != head:
            # A token would span the end of the prompt and the start of the text, so the text is tokenised alone.
            opening = PLACE
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
        """Tokens with the places of their characters. The template has written all special tokens, also the beginning
        of the sequence.

        :param plain: whether to read special tokens as text.
        """
        encoded = self._joint(
            text, add_special_tokens=False, split_special_tokens=plain, return_offsets_mapping=True,
            # `check_positions` checks whether the tokens have room.
            verbose=False,
        )
        return [(token, *span) for token, span in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)]

    def _tokenize_marked(self, text: str) -> Iterator[tuple[int, int, int]]:
        """`_tokenize` that reads control tokens in a row's own text as text."""
        plain, spans = without_marks(text)
        own = iter([*spans, (len(plain) + 1, len(plain) + 1)])
        first, last = next(own)
        for token, start, end in self._tokenize(plain):
            while start >= last:
                first, last = next(own)
            for piece in self._as_text(token) if start >= first and token != self._place else [token]:
                yield piece, start, end

    def _as_text(self, token: int) -> Iterator[int]:
        """A control token's name, character by character; any other token as it is.

        Unigram models (T5), and BPE models that were converted from sentencepiece (Llama 2, Mistral, Gemma), join the
        characters of a control token into that token even if they are told to read it as text.
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

    def _around(self, instruction: str, row: RowPrompt) -> list[str]:
        """The texts of the whole prompt between its places of speech, also in earlier turns, with marks around a row's
        own words."""
        turns = [{"role": turn.role, "content": self._config.turn(turn)} for turn in row.history]
        system = marked(row.system) or self._config.system
        if self._chat:
            text = self._apply_template([*turns, {"role": "user", "content": instruction}], system, generate=True)
        else:
            earlier = "".join(f"{turn['role']}: {turn['content']}\n" for turn in turns)
            text = _with_system(system, earlier + instruction)
        if (found := text.count(SPEECH)) != (expected := 1 + len(row.heard)):
            often = "once" if expected == 1 else f"{expected} times"
            raise UserError(f"prompt: the LLM's chat template wrote {SPEECH} {found} times, expected exactly {often}")
        return text.split(SPEECH)

    @property
    def _end_of_input(self) -> tuple[int, ...]:
        return () if self._chat else (self.end_of_turn,)

    def _apply_template(self, turns: list[dict[str, str]], system: str | None, *, generate: bool) -> str:
        if not system:
            return self._template(turns, generate)
        try:
            # The text of the system turn may occur in the user's turn, too, or in the template's default.
            if PLACE in self._template([{"role": "system", "content": PLACE}, *turns], generate):
                return self._template([{"role": "system", "content": system}, *turns], generate)
        except UserError:
            pass
        # If a template refuses a system turn (Gemma, some Mistrals) or leaves it out, its text goes to the user's turn.
        first, *rest = turns
        return self._template([{**first, "content": _with_system(system, first["content"])}, *rest], generate)

    def _template(self, turns: list[dict[str, str]], generate: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                chat_template=_FIXED_DATE + self._tokenizer.get_chat_template(),
                tokenize=False,
                add_generation_prompt=generate,
                # No reasoning before the answer (Qwen 3 and others).
                enable_thinking=False,
            )
        except Exception as error:  # jinja2's errors, and any that a template raises for a turn that it refuses
            raise UserError(f"prompt: the LLM's chat template failed: {error}") from error
        return str(text)

    def _read_answer_turn(self) -> tuple[str, str, int | None]:
        """
        :returns: the end of the prompt after its last control token, on which the answer's first token may depend;
            white space that the template puts between prompt and answer (Mistral: a space); the token that closes the
            answer.
        """
        user = {"role": "user", "content": SPEECH}
        system = self._config.system
        prompt = self._apply_template([user], system, generate=True)
        turns = self._apply_template([user, {"role": "assistant", "content": _ANSWER}], system, generate=False)
        opened, _, closing = turns.partition(_ANSWER)
        lead = opened[len(prompt) :] if opened.startswith(prompt) else ""
        after = prompt.partition(SPEECH)[2]
        start = max((end for token, _, end in self._tokenize(after) if token in self._special), default=0)
        ends = self._special | set(self._tokenizer.get_added_vocab().values())
        end_of_turn = next((token for token, _, _ in self._tokenize(closing) if token in ends), None)
        # Text other than white space would be part of the answer that the LLM writes.
        return PLACE + after[start:], lead if lead.isspace() else "", end_of_turn


def _with_system(system: str | None, instruction: str) -> str:
    return f"{system}\n\n{instruction}" if system else instruction
