"""What is asked: instructions by task or by row, with the place of the speech in them."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from string import Formatter

from speechllm_plugin.errors import UserError
from speechllm_plugin.tasks.api import Task, task_named, task_names, task_of_row
from speechllm_plugin.tasks.row_prompt import NOTHING, SPEECH, RowPrompt, Turn
from speechllm_plugin.tasks.transcribe import TRANSCRIBE
from speechllm_plugin.tasks.translate import TRANSLATE
from speechllm_plugin.text.languages import language_name

PLACE = "\ufdd0"
"""Stands for the speech where a prompt is tokenised, and shows what a template writes. Unicode keeps this code point
out of texts, and so the two of `MARKS`."""
MARKS = ("\ufdd1", "\ufdd2")
"""Begin and end of a row's own text in a prompt: no control token is read from it."""
_ORDERS = {"speech_first": f"{SPEECH}\n{{}}", "instruction_first": f"{{}} {SPEECH}"}
_CONTEXT = ("context", "instruction")


@dataclass(kw_only=True)
class PromptConfig:
    transcribe: str | list[str] = TRANSCRIBE.instruction
    """Instruction for speech recognition; `{source}` becomes the language's name (arXiv 2409.17044, section 3). Of
    several, each row of a manifest has one, drawn by its id and `seed`; files without a manifest have the first."""
    translate: str | list[str] = TRANSLATE.instruction
    """Instruction for speech translation; `{source}` and `{target}` become the languages' names. One or several."""
    order: str = "speech_first"
    """Place of the speech in an instruction without `<speech>`. `speech_first`: on a line of its own before it, as in
    LLaVA (arXiv 2304.08485), which arXiv 2409.17044 follows. `instruction_first`: behind it."""
    before_speech: str = ""
    """Text or special tokens of the LLM directly before the speech, wherever the speech stands."""
    after_speech: str = ""
    """Text or special tokens of the LLM directly behind the speech."""
    answer: str | list[str] | None = None
    """Instruction for speech that is to be answered, such as a spoken question (arXiv 2310.00230). It replaces
    `transcribe` and `translate`. `<speech>` alone makes the speech the whole instruction. One or several. None =
    speech is transcribed or translated, but for rows whose `task` says otherwise."""
    context: str = "Context: {context}\n{instruction}"
    """How the `context` of a row (phrases, documents) and its instruction, with the speech, stand in the prompt."""
    seed: int = 0
    """Decides, with a row's id, which of several instructions it has."""
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
            for key, template in self._templates(task).items():
                if (found := template.count(SPEECH)) > 1:
                    raise UserError(f"{key}: found {found} times {SPEECH}, expected one, or none for prompt.order")
                self._check_characters(key, template)
            self._placeholders(task)
        for key in ("system", "before_speech", "after_speech", "context"):
            text = getattr(self, key) or ""
            if found := text.count(SPEECH):
                raise UserError(f"prompt.{key}: found {found} times {SPEECH}, expected none")
            self._check_characters(f"prompt.{key}", text)
        if sorted(re.findall(r"\{(.*?)\}", self.context)) != sorted(_CONTEXT):
            raise UserError(
                f"prompt.context: found {self.context!r}, expected {{context}} and {{instruction}}, once each"
            )

    @staticmethod
    def _check_characters(key: str, text: str) -> None:
        for character in (PLACE, *MARKS):
            if character in text:
                raise UserError(f"{key}: found the character U+{ord(character):X}, which is none; expected text")

    def task_of(self, source_lang: str, target_lang: str | None, stated: str = "") -> Task:
        """What is asked of a clip: what its row states; else to answer, where there is an instruction for it; else what
        the languages tell."""
        return task_of_row(source_lang, target_lang, stated or ("" if self.answer is None else "answer"))

    def instruction(
        self,
        source_lang: str,
        target_lang: str | None,
        task: Task | None = None,
        row: RowPrompt = NOTHING,
        key: str = "",
    ) -> str:
        """What is asked for one clip, with its place for speech; texts of its row stand between `MARKS`.

        :param task: None = see `task_of`.
        :param key: draws one of several instructions; empty = the first.
        :raises UserError: it names a language that has no name.
        """
        if row.instruction:
            text = SPEECH.join(map(marked, row.instruction.split(SPEECH)))
        else:
            task = task or self.task_of(source_lang, target_lang)
            languages = self._languages(source_lang, target_lang)
            names = {name: language_name(languages[name]) for name in sorted(self._placeholders(task))}
            templates = list(self._templates(task).values())
            draw = zlib.crc32(f"{self.seed} {key}".encode()) % len(templates) if key else 0
            text = templates[draw].format(**names)
        text = self._with_place(text)
        if not row.context:
            return text
        values = {"{context}": marked(row.context), "{instruction}": text}
        return re.sub(r"\{(?:context|instruction)\}", lambda found: values[found[0]], self.context)

    def turn(self, turn: Turn) -> str:
        """What an earlier turn says, with the place of its speech where it has some, between `MARKS`."""
        text = SPEECH.join(map(marked, turn.content.split(SPEECH)))
        return self._with_place(text) if turn.audio else text

    def _with_place(self, text: str) -> str:
        if SPEECH not in text:
            text = _ORDERS[self.order].replace("{}", text)
        return text.replace(SPEECH, f"{self.before_speech}{SPEECH}{self.after_speech}")

    def named(
        self, source_lang: str, target_lang: str | None, task: Task | None = None, row: RowPrompt = NOTHING
    ) -> dict[str, str]:
        """The languages that the instruction names, by `source` and `target`: with several instructions, any of them.
        """
        if row.instruction:
            return {}
        languages = self._languages(source_lang, target_lang)
        placeholders = self._placeholders(task or self.task_of(source_lang, target_lang))
        return {name: languages[name] for name in sorted(placeholders)}

    def named_in(
        self, source_lang: str, target_lang: str, stated: str, row: RowPrompt = NOTHING
    ) -> dict[str, str]:
        """`named`, for a row that states its task, or does not."""
        return self.named(source_lang, target_lang, self.task_of(source_lang, target_lang, stated), row)

    @staticmethod
    def _languages(source_lang: str, target_lang: str | None) -> dict[str, str]:
        return {"source": source_lang, "target": target_lang or source_lang}

    def _templates(self, task: Task) -> dict[str, str]:
        """The instructions of a task, by their keys."""
        configured: str | list[str] | None = getattr(self, task.name, None)
        key = f"prompt.{task.name}"
        if not isinstance(configured, list):
            return {key: task.instruction if configured is None else configured}
        if not configured:
            raise UserError(f"{key}: found an empty list, expected an instruction")
        return {f"{key}[{place}]": text for place, text in enumerate(configured)}

    def _placeholders(self, task: Task) -> set[str]:
        """Of all instructions of a task."""
        expected = f"{' or '.join(f'{{{name}}}' for name in task.names)}, and {{{{ or }}}} for a brace of the text"
        found: set[str] = set()
        for key, template in self._templates(task).items():
            try:
                names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
                for name in sorted(names - {*task.names}):
                    raise UserError(f"{key}: found placeholder {{{name}}}, expected {expected}")
                # Conversions and formats: {source!x}, {source:d}.
                template.format(**dict.fromkeys(task.names, ""))
            except (KeyError, IndexError, ValueError) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{key}: found {template!r} ({error}), expected {expected}") from error
            found |= names
        return found


def marked(text: str) -> str:
    return f"{MARKS[0]}{text}{MARKS[1]}" if text else ""


def without_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    """
    :returns: the text, and from where to where it is a row's own.
    """
    pieces = re.split(f"([{''.join(MARKS)}])", text)
    plain, spans, start = "", [], 0
    for piece in pieces:
        if piece == MARKS[0]:
            start = len(plain)
        elif piece == MARKS[1]:
            spans.append((start, len(plain)))
        else:
            plain += piece
    return plain, spans
