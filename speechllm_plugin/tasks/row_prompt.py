"""The prompt of a row or of a caller, beside its task: an instruction of its own, a context, earlier turns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from speechllm_plugin.errors import UserError

SPEECH = "<speech>"
"""The place of the speech embeddings in an instruction."""
ROLES = ("user", "assistant")
COLUMNS = ("instruction", "context", "history")


_TURNS = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
_KEYS = {"role", "content", "audio", "transcript"}


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier turn of a conversation."""

    role: str
    content: str
    """Text of the turn. With `audio` it may hold `<speech>` once; otherwise `prompt.order` decides the place of the
    speech."""
    audio: str = ""
    """The user's speech, named as in the column `audio`; empty = the turn is text."""
    transcript: str = ""
    """Transcript of `audio`, for an LLM that gets the text in its place; empty where it is unknown."""

    def values(self) -> dict[str, str]:
        """The turn as values for JSON."""
        return {name: value for name, value in asdict(self).items() if value or name in ("role", "content")}


@dataclass(frozen=True, slots=True)
class RowPrompt:
    """A prompt in which everything is plain text: names of control tokens stay text, and braces stand for
    themselves."""

    instruction: str = ""
    """Instruction with at most one place for the speech; empty = the task's instruction."""
    context: str = ""
    """Phrases or documents, which `prompt.context` places."""
    history: tuple[Turn, ...] = ()
    """Earlier turns, from the user's first to the assistant's last."""
    system: str = ""
    """Replaces `PromptConfig.system`; empty = that of the configuration. No column gives it, since one suits all
    rows."""

    @property
    def heard(self) -> tuple[Turn, ...]:
        """The earlier turns in speech."""
        return tuple(turn for turn in self.history if turn.audio)

    def columns(self) -> dict[str, str]:
        """The prompt as columns of a manifest."""
        turns = [turn.values() for turn in self.history]
        history = json.dumps(turns, ensure_ascii=False) if turns else ""
        return {"instruction": self.instruction, "context": self.context, "history": history}


NOTHING = RowPrompt()


def read_row_prompt(fields: Mapping[str, str], wrong: Callable[[str, str], UserError]) -> RowPrompt:
    """
    :param fields: `instruction`, `context` and `history`, each empty or missing where there is none.
    :param wrong: makes the error for a field, given its name and the expectation.
    :raises UserError: the speech has two places, or one outside the instruction; `history` is no list of turns.
    """
    if not any(fields.get(name, "").strip() for name in COLUMNS):
        return NOTHING
    instruction, context = fields.get("instruction", "").strip(), fields.get("context", "").strip()
    _check_characters(instruction, partial(wrong, "instruction"))
    _check_characters(context, partial(wrong, "context"))
    if instruction.count(SPEECH) > 1:
        raise wrong("instruction", f"one place for the speech, {SPEECH}, or none for prompt.order")
    if SPEECH in context:
        raise wrong("context", f"text without {SPEECH}")
    history = fields.get("history", "").strip()
    return RowPrompt(instruction, context, read_history(history, partial(wrong, "history")))


def question(
    instruction: str, context: str = "", history: Sequence[Mapping[str, str]] = (), system: str = ""
) -> RowPrompt:
    """
    :param history: turns, `{"role": "user" or "assistant", "content": TEXT}`; a user's may have `audio`, see `Turn`.
    :param system: see `RowPrompt`.
    :raises UserError: see `read_row_prompt`.
    """
    turns = json.dumps(list(history)) if history else ""

    def wrong(name: str, expected: str) -> UserError:
        return UserError(f"{name}: expected {expected}")

    _check_characters(system, partial(wrong, "system"))
    if SPEECH in system:
        raise wrong("system", f"text without {SPEECH}")
    asks = read_row_prompt({"instruction": instruction, "context": context, "history": turns}, wrong)
    return replace(asks, system=system.strip())


def _check_characters(text: str, wrong: Callable[[str], UserError]) -> None:
    if re.search("[\ufdd0-\ufdef]", text):
        raise wrong("text without the code points U+FDD0 to U+FDEF, which are no characters")


def read_history(text: str, wrong: Callable[[str], UserError]) -> tuple[Turn, ...]:
    """
    :param text: JSON, `[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]`; empty = none.
    :param wrong: makes the error, given the expectation.
    :raises UserError: the text is no such JSON.
    """
    if not text:
        return ()
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(f"{_TURNS} ({error})") from None
    read = [_read_turn(turn, wrong) for turn in (turns if isinstance(turns, list) else [None])]
    if [turn.role for turn in read] != [ROLES[place % 2] for place in range(len(read))] or len(read) % 2:
        raise wrong(f"{_TURNS}: turns of user and assistant by turns, the last of the assistant")
    # Checked after parsing, since JSON may write these characters as ASCII escapes.
    _check_characters("".join(f"{turn.content}{turn.transcript}" for turn in read), wrong)
    return tuple(read)


def _read_turn(turn: object, wrong: Callable[[str], UserError]) -> Turn:
    keys = turn.keys() if isinstance(turn, dict) else set()
    needed = {"role"} if "audio" in keys else {"role", "content"}
    if not isinstance(turn, dict) or not needed <= keys <= _KEYS or {*map(type, turn.values())} != {str}:
        raise wrong(f'{_TURNS}, a turn in speech with "audio": "FILE" and perhaps its "transcript"')
    read = Turn(**{name: value.strip() for name, value in {"content": "", **turn}.items()})
    if "audio" not in turn:
        if not read.content or SPEECH in read.content:
            raise wrong(f"turns that are not empty, and without {SPEECH} where they have no audio")
        if read.transcript:
            raise wrong("a transcript beside audio alone")
    elif read.role != "user" or not read.audio:
        raise wrong("audio in turns of the user alone, which names a file")
    elif read.content.count(SPEECH) > 1:
        raise wrong(f"one place for the speech of a turn, {SPEECH}, or none for prompt.order")
    return read if read.content else replace(read, content=SPEECH)
