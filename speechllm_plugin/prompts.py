"""The one renderer of prompts, for training and for inference.

A prompt is an instruction with one place for speech, inside the user turn of the LLM's own chat template, or on its
own for an LLM without turns (T5). Rendering gives the token ids before and after that place; the speech embeddings go
between them, the answer follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from transformers import PreTrainedTokenizerBase

from speechllm_plugin.errors import UserError
from speechllm_plugin.languages import language_name

SPEECH = "<speech>"
"""The place of the speech embeddings in a prompt template."""
_ANSWER = "<answer>"
_TODAY = datetime(2024, 7, 26)
"""What templates that write the date are told (the date that Llama 3.1's falls back on): a prompt is the same
tomorrow."""


@dataclass(kw_only=True)
class PromptConfig:
    transcribe: str = f"can you transcribe {{source}}? {SPEECH}"
    """Instruction for speech recognition; `{source}` becomes the language's name (arXiv 2409.17044, section 3)."""
    translate: str = f"can you translate from {{source}} to {{target}}? {SPEECH}"
    """Instruction for speech translation; `{source}` and `{target}` become the languages' names."""
    system: str | None = None
    """Text of a system turn; at the head of the instruction for an LLM that has none. None leaves the turn to the
    template, which may have a default of its own."""


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
        for key in ("transcribe", "translate"):
            found = getattr(config, key).count(SPEECH)
            if found != 1:
                raise UserError(f"prompt.{key}: found {found} times {SPEECH}, expected exactly one")
        if found := (config.system or "").count(SPEECH):
            raise UserError(f"prompt.system: found {found} times {SPEECH}, expected none")
        if chat and not tokenizer.chat_template:
            raise UserError("prompt: the LLM's tokenizer has no chat template; expected an instruction-tuned LLM")
        self._tokenizer = tokenizer
        self._config = config
        self._chat = chat
        self._rendered: dict[tuple[str, str], RenderedPrompt] = {}
        self.end_of_turn = self._find_end_of_turn()
        """Token id that closes the answer: what the LLM learns to stop with."""
        added = tokenizer.added_tokens_decoder.items()
        special = {*tokenizer.all_special_ids, *(token for token, content in added if content.special)}
        # The token for what is unknown stands in texts rightly.
        self._control = special - {tokenizer.unk_token_id} | {self.end_of_turn}

    def render(self, source_lang: str, target_lang: str) -> RenderedPrompt:
        """The prompt for one clip: recognition if both languages are equal or no target is given, else translation."""
        key = (source_lang, target_lang)
        if key not in self._rendered:
            self._rendered[key] = self._render(self.instruction(source_lang, target_lang))
        return self._rendered[key]

    def instruction(self, source_lang: str, target_lang: str) -> str:
        if target_lang in ("", source_lang):
            return self._fill("transcribe", source=language_name(source_lang))
        return self._fill("translate", source=language_name(source_lang), target=language_name(target_lang))

    def encode_target(self, text: str) -> list[int]:
        """Token ids of an answer with the end of its turn.

        Special tokens spelt out in the text are read as plain text, so no transcript can end its turn or open another.
        """
        ids = self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        # A unigram model (T5), and a BPE model that was converted from sentencepiece (Llama 2, Mistral, Gemma), still
        # put a spelt control token together from its characters.
        plain = [piece for token in ids for piece in (self._spell(token) if token in self._control else (token,))]
        return [*plain, self.end_of_turn]

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()

    def _spell(self, control: int) -> Iterator[int]:
        """A control token's name, character by character."""
        for character in self._tokenizer.convert_ids_to_tokens(control):
            piece = self._tokenizer.convert_tokens_to_ids(character)
            if piece in (None, self._tokenizer.unk_token_id):
                yield from self._encode(character)
            else:
                yield piece

    def _fill(self, key: str, **names: str) -> str:
        try:
            return getattr(self._config, key).format(**names)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(f"prompt.{key}: bad placeholder {error}; expected {{source}}, {{target}}") from error

    def _render(self, instruction: str) -> RenderedPrompt:
        if self._chat:
            text = self._apply_template([{"role": "user", "content": instruction}], generate=True)
        else:
            text = _with_system(self._config.system, instruction)
        if text.count(SPEECH) != 1:
            raise UserError(
                f"prompt: the LLM's chat template wrote {SPEECH} {text.count(SPEECH)} times, expected exactly once"
            )
        before, _, after = text.partition(SPEECH)
        end = () if self._chat else (self.end_of_turn,)
        return RenderedPrompt(self._encode(before), (*self._encode(after), *end))

    def _encode(self, text: str) -> tuple[int, ...]:
        # The template wrote the special tokens, the beginning of the sequence included.
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _apply_template(self, turns: list[dict[str, str]], *, generate: bool) -> str:
        system = self._config.system
        if system is None:
            return self._template(turns, generate)
        try:
            text = self._template([{"role": "system", "content": system}, *turns], generate)
            if system.strip() in text:
                return text
        except UserError:
            pass
        # Templates that refuse a system turn (Gemma, some Mistrals), or leave it out, get its text with the user's.
        first, *rest = turns
        return self._template([{**first, "content": _with_system(system, first["content"])}, *rest], generate)

    def _template(self, turns: list[dict[str, str]], generate: bool) -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=generate,
                strftime_now=_TODAY.strftime,
                # Qwen 3 and others answer at once instead of writing down their thoughts first.
                enable_thinking=False,
            )
        except Exception as error:  # jinja2's errors: whatever the template raises for a turn it does not take
            raise UserError(f"prompt: the LLM's chat template failed: {error}") from error
        return str(text)

    def _find_end_of_turn(self) -> int:
        if self._chat:
            turns = [{"role": "user", "content": SPEECH}, {"role": "assistant", "content": _ANSWER}]
            rest = self._apply_template(turns, generate=False).partition(_ANSWER)[2]
            special = set(self._tokenizer.all_special_ids) | set(self._tokenizer.get_added_vocab().values())
            for token in self._encode(rest):
                if token in special:
                    return token
        if self._tokenizer.eos_token_id is None:
            raise UserError("prompt: found no token that ends an answer in the LLM's chat template or tokenizer")
        return self._tokenizer.eos_token_id


def _with_system(system: str | None, instruction: str) -> str:
    return instruction if system is None else f"{system}\n\n{instruction}"
