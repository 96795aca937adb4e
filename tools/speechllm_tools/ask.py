"""`speechllm ask`: an instruction and audio files in, answers out, whatever the system was trained on."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.datasets.audio import AudioError, resolve
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.remote import is_remote
from speechllm_plugin.tasks.row_prompt import SPEECH, read_history, read_row_prompt
from speechllm_tools.system_options import (
    add_decoding,
    add_system,
    check_system,
    checkpoint_of,
    decoding_of,
    files_and_overrides,
    server_of,
)

if TYPE_CHECKING:
    from speechllm_plugin.inference.transcriber import Transcriber
    from speechllm_tools.recordings.inputs import Input

_LIMITS = ("tokens_per_second", "extra_tokens")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="files with sound, within the encoder's window; a "
                        "directory stands for its files, a manifest (.tsv) for its rows")
    parser.add_argument("--instruction", metavar="TEXT", required=True, help="what is asked, with <speech> in the "
                        "place of the audio: 'Which city is named? <speech>'; without it the audio stands where the "
                        "training run had it")
    parser.add_argument("--context", metavar="TEXT", default="", help="phrases or documents to look things up in; "
                        "@FILE reads a file")
    parser.add_argument("--history", metavar="FILE", type=Path, help="earlier turns: JSON, "
                        '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]; a turn of the '
                        'user in speech has "audio", a path from the folder of FILE')
    parser.add_argument("--system", metavar="TEXT", default="", help="the system turn, in place of the training run's "
                        "prompt.system")
    parser.add_argument("--source-lang", default="en", help="language of the speech (default: en)")
    parser.add_argument("--max-tokens", type=int, metavar="N", default=128, help="most tokens of an answer (default: "
                        "128)")
    parser.add_argument("--batch-size", type=int, metavar="N", default=8, help="files answered together (default: 8); "
                        "changes the speed, not the answers")
    parser.add_argument("--audio-root", metavar="DIR", type=Path, help="folder that the paths in a manifest start "
                        "from (default: the manifest's own)")
    add_system(parser)
    add_decoding(parser, left_out=_LIMITS)


def run(options: argparse.Namespace) -> int:
    """Prints a line `AUDIO<TAB>ANSWER` for each file. A file that cannot be read gives a line on standard error; the
    others are still answered, and the exit status is 2."""
    for name in ("batch_size", "max_tokens"):
        if (found := getattr(options, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {found}, expected at least 1")
    files, overrides = files_and_overrides(options)
    question = _question(options)

    from speechllm_plugin.llms.decoding import without_guards
    from speechllm_tools.recordings.inputs import find_inputs, missing_files

    # Checks that need no model come before the import of torch and transformers, which takes seconds.
    checkpoint = checkpoint_of(options)
    decoding = decoding_of(options, replace(without_guards(checkpoint.decoding()), extra_tokens=options.max_tokens))
    inputs, passed_over = find_inputs(files, options.audio_root)
    if passed_over:
        _say(f"{passed_over} files in the directories have no ending of a file with sound; they are left out")
    missing = missing_files(inputs)
    for error in missing.values():
        _say(f"error: {error}")
    if not (inputs := [item for item in inputs if item.name not in missing]):
        return 2
    check_system(checkpoint, overrides)
    server = server_of(options, decoding)

    from speechllm_tools.light_imports import import_transformers

    import_transformers()

    from speechllm_plugin.inference.transcriber import Transcriber
    from speechllm_tools.numerics import use_recipe_numerics

    use_recipe_numerics()
    system = Transcriber.of(checkpoint, device=options.device, overrides=overrides, server=server)
    question.update(source_lang=options.source_lang, max_tokens=options.max_tokens, decoding=decoding)
    failed = 0
    for start in range(0, len(inputs), options.batch_size):
        failed += _answer(system, inputs[start : start + options.batch_size], question)
    return 2 if missing or failed else 0


def _question(options: argparse.Namespace) -> dict[str, Any]:
    """
    :raises UserError: a text cannot be used, or its file cannot be read.
    """
    context, history = options.context, ""
    if context.startswith("@"):
        context = _text_of(Path(context[1:]), "--context")
    if options.history is not None:
        history = _text_of(options.history, "--history")

    def wrong(name: str, expected: str) -> UserError:
        return UserError(f"--{name}: expected {expected}")

    read_row_prompt({"instruction": options.instruction, "context": context}, wrong)
    if SPEECH in options.system:
        raise wrong("system", f"text without {SPEECH}")
    turns = read_history(history.strip(), lambda expected: wrong("history", expected))
    return {
        "instruction": options.instruction, "context": context, "system": options.system,
        "history": [turn.values() | _placed(turn.audio, options.history) for turn in turns],
    }


def _placed(audio: str, history: Path) -> dict[str, str]:
    """The file of an earlier turn, relative to the current folder.

    :raises UserError: there is no such file.
    """
    if not audio:
        return {}
    place = audio if is_remote(audio) else str(history.parent / audio)
    try:
        resolve(place, Path())
    except AudioError as error:
        raise UserError(f"--history: {error}") from None
    return {"audio": place}


def _text_of(file: Path, option: str) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{option}: cannot read {file} ({error}), expected a text file in UTF-8") from error


def _answer(system: Transcriber, inputs: list[Input], question: dict[str, Any]) -> int:
    """Prints the answers. Each half of a batch with a file that cannot be used is answered by itself.

    :returns: the number of files that cannot be used.
    """
    sources = [item.source(item.channel) for item in inputs]
    try:
        answers = system.ask(sources, **question)
    except UserError as error:
        if len(inputs) == 1:
            _say(f"error: {error}")
            return 1
        middle = len(inputs) // 2
        return sum(_answer(system, half, question) for half in (inputs[:middle], inputs[middle:]))
    for item, answer in zip(inputs, answers, strict=True):
        print(item.name, " ".join(answer.split()), sep="\t", flush=True)
    return 0


def _say(message: str) -> None:
    print(f"speechllm ask: {message}", file=sys.stderr)
