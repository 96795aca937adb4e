"""The contract of a task, and the choice of a clip's task, which is made once and stored in the clip.

Another package adds a task, like an adapter, through an entry point, here of the group `speechllm_plugin.tasks`:
importing the module that it names calls `register`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Literal

from speechllm_plugin.errors import UserError
from speechllm_plugin.loading import Once
from speechllm_plugin.text.languages import is_translation

_tasks: dict[str, Task] = {}


@dataclass(frozen=True)
class Task:
    name: str
    """Name in the column `task` of a manifest; the key of `PromptConfig` with this name replaces the instruction."""
    instruction: str
    """Default instruction, which may hold `<speech>`, and `names` in braces."""
    names: tuple[str, ...]
    """The languages that an instruction may name: `source`, `target`."""
    writes_speech: bool
    """Whether the text is a transcript of the speech. Such a text can be aligned with the sound, a recogniser alone
    could write it, and WER counts its errors."""
    scored_by: Literal["wer", "translation", "answers"]
    """Decides the part of a score file for its texts: `asr`, `st` or `answers`."""

    def spoken(self, text: str, transcript: str) -> str | None:
        """The transcript of a clip; None where it is unknown.

        :param text: the text that the LLM should write; an empty text means silence.
        :param transcript: the row's transcript; empty where it has none.
        """
        if transcript or not text:
            return transcript
        return text if self.writes_speech else None


def register(task: Task) -> Task:
    if _tasks.get(task.name, task) != task:
        raise ValueError(f"task {task.name!r} is registered twice")
    _tasks[task.name] = task
    return task


def task_names() -> list[str]:
    _load()
    return sorted(_tasks)


def task_named(name: str, where: str) -> Task:
    """
    :param where: the place of the name, for the error.
    :raises UserError: there is no such task.
    """
    _load()
    if name not in _tasks:
        raise UserError(f"{where}: found {name!r}, expected one of {', '.join(sorted(_tasks))}")
    return _tasks[name]


def task_of_languages(source_lang: str, target_lang: str | None) -> Task:
    """The default task of two languages: a text in another language than the speech is a translation."""
    return task_named("translate" if is_translation(source_lang, target_lang) else "transcribe", "task")


def task_of_row(source_lang: str, target_lang: str | None, stated: str = "") -> Task:
    """:param stated: the column `task` of the row; empty = the languages decide."""
    return task_named(stated, "task") if stated else task_of_languages(source_lang, target_lang)


def _load_all() -> None:
    package = "speechllm_plugin.tasks"
    for module in iter_modules(import_module(package).__path__, f"{package}."):
        import_module(module.name)
    for entry_point in entry_points(group="speechllm_plugin.tasks"):
        entry_point.load()


# The reader's threads ask at once.
_load = Once(_load_all)
