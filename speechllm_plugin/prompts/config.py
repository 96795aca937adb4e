"""The configuration of prompts: instructions by task or by row, with the place of the speech in them."""

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
"""Character that stands for the speech when a prompt is tokenised, and by which a template's own text is found. Unicode
reserves it, like those of `MARKS`, so that no text has it."""
MARKS = ("\ufdd1", "\ufdd2")
"""Characters around a row's own text in a prompt, from which no control token is read."""
_ORDERS = {"speech_first": f"{SPEECH}\n{{}}", "instruction_first": f"{{}} {SPEECH}"}
_CONTEXT = ("context", "instruction")


@dataclass(kw_only=True)
class PromptConfig:
    transcribe: str | list[str] = TRANSCRIBE.instruction
    """Instruction for speech recognition; `{source}` becomes the language's name (arXiv 2409.17044, section 3). From a
    list, each row of a manifest gets one instruction, drawn by its id and `seed`; files without a manifest get the
    first."""
    translate: str | list[str] = TRANSLATE.instruction
    """Instruction for speech translation; `{source}` and `{target}` become the languages' names. One or several."""
    order: str = "speech_first"
    """Place of the speech in an instruction without `<speech>`. `speech_first`: on a line of its own before it, as in
    LLaVA (arXiv 2304.08485), which arXiv 2409.17044 follows. `instruction_first`: after it."""
    before_speech: str = ""
    """Text or special tokens of the LLM directly before the speech, wherever the speech stands."""
    after_speech: str = ""
    """Text or special tokens of the LLM directly after the speech."""
    answer: str | list[str] | None = None
    """Instruction for speech that is to be answered, such as a spoken question (arXiv 2310.00230). It replaces
    `transcribe` and `translate`. `<speech>` alone makes the speech the whole instruction. One or several. None =
    speech is transcribed or translated, except in rows whose `task` says otherwise."""
    context: str = "Context: {context}\n{instruction}"
    """Template of the prompt for rows with a `context` (phrases, documents); `{instruction}` includes the speech."""
    seed: int = 0
    """Seed that with a row's id decides which of several instructions the row gets."""
    system: str | None = None
    """Text of the system turn. For an LLM without system turns it is put before the instruction. None or empty = what
    the chat template writes by default."""

    def check(self) -> None:
        """
        :raises UserError: an instruction has several places for speech, or a placeholder that does not exist.
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
        """The task of a clip: the one that its row states; otherwise `answer` where there is an instruction for it;
        otherwise the one that the languages imply."""
        return task_of_row(source_lang, target_lang, stated or ("" if self.answer is None else "answer"))

    def instruction(
        self,
        source_lang: str,
        target_lang: str | None,
        task: Task | None = None,
        row: RowPrompt = NOTHING,
        key: str = "",
    ) -> str:
        """The instruction for one clip, with the place of the speech; texts of its row stand between `MARKS`.

        :param task: None = see `task_of`.
        :param key: decides which of several instructions is drawn; empty = the first.
        :raises UserError: the instruction names a language that is unknown.
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
        """The text of an earlier turn between `MARKS`, with the place of its speech, if it has any."""
        text = SPEECH.join(map(marked, turn.content.split(SPEECH)))
        return self._with_place(text) if turn.audio else text

    def _with_place(self, text: str) -> str:
        if SPEECH not in text:
            text = _ORDERS[self.order].replace("{}", text)
        return text.replace(SPEECH, f"{self.before_speech}{SPEECH}{self.after_speech}")

    def named(
        self, source_lang: str, target_lang: str | None, task: Task | None = None, row: RowPrompt = NOTHING
    ) -> dict[str, str]:
        """The languages that any of the instructions names, by `source` and `target`."""
        if row.instruction:
            return {}
        languages = self._languages(source_lang, target_lang)
        placeholders = self._placeholders(task or self.task_of(source_lang, target_lang))
        return {name: languages[name] for name in sorted(placeholders)}

    def named_in(
        self, source_lang: str, target_lang: str, stated: str, row: RowPrompt = NOTHING
    ) -> dict[str, str]:
        """`named` for a row, which may state its task."""
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
        """The placeholders in all instructions of a task."""
        expected = f"{' or '.join(f'{{{name}}}' for name in task.names)}, and {{{{ or }}}} for a brace of the text"
        found: set[str] = set()
        for key, template in self._templates(task).items():
            try:
                names = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
                for name in sorted(names - {*task.names}):
                    raise UserError(f"{key}: found placeholder {{{name}}}, expected {expected}")
                # Formatting also finds wrong conversions and formats, such as {source!x} and {source:d}.
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
    :returns: the text, and the stretches of it that are a row's own.
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
