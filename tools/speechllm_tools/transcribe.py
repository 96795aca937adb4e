"""`speechllm transcribe`: audio files in, text out, with times if asked for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.recordings.formats import FORMATS
from speechllm_tools.system_options import (
    add_decoding,
    add_system,
    check_system,
    checkpoint_of,
    decoding_of,
    files_and_overrides,
    option_of,
    server_of,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="wav, flac, mp3 or ogg, and m4a, mp4, webm and "
                        "others where PyAV is installed; any rate, any channels, any length. A directory stands for "
                        "its files with sound, a manifest (.tsv) for its rows")
    parser.add_argument("--channel", type=_channel, metavar="N|each",
                        help="hear one channel, counted from 1, or each for itself: AUDIO<TAB>CHANNEL<TAB>TEXT "
                        "(default: their mean)")
    parser.add_argument("--source-lang", default="en", help="language of the speech (default: en)")
    parser.add_argument("--target-lang", help="language to translate into (default: transcribe)")
    parser.add_argument("--timestamps", nargs="?", const="segments", type=_unit, metavar="segments|words",
                        help="print a line AUDIO<TAB>START<TAB>END<TAB>TEXT, in seconds, for each segment (default) "
                        "or word")
    parser.add_argument("--format", choices=list(FORMATS), help="a document in place of lines: text, subtitles (srt, "
                        "vtt), json with the times of segments and words, or a table of segments (tsv)")
    parser.add_argument("--output", metavar="DIR", type=Path, help="write a document for each recording to "
                        "DIR/NAME.FORMAT (default: --format text); a command that was stopped goes on where it was")
    parser.add_argument("--audio-root", metavar="DIR", type=Path, help="folder that the paths in a manifest start "
                        "from (default: the manifest's own)")
    parser.add_argument("--longest-piece", type=float, metavar="SECONDS", help="a recording that is longer than the "
                        "encoder's window is cut into pieces, none longer than this (default: the longest clip that "
                        "the system was trained on, or the window)")
    parser.add_argument("--pause", type=float, metavar="SECONDS", default=0.5, help="silence that always ends such a "
                        "piece (default: 0.5)")
    parser.add_argument("--batch-size", type=int, default=8, help="files or pieces decoded together (default: 8); "
                        "changes the speed, not the text: exactly in bfloat16 and float16, up to ties within 1e-5 in "
                        "float32 (with --engine vllm in float32 alone)")
    add_system(parser)
    add_decoding(parser)


def run(options: argparse.Namespace) -> int:
    """Prints a line `AUDIO<TAB>TEXT` for each file, or with `--timestamps` one for each segment or word, or writes
    documents. A file that cannot be read gives a line on standard error; the others are still transcribed, and the exit
    status is 2."""
    if options.batch_size < 1:
        raise UserError(f"--batch-size: found {options.batch_size}, expected at least 1")
    files, overrides = files_and_overrides(options)

    from speechllm_tools.recordings.inputs import check_places, find_inputs, missing_files

    # Checks that need no model come before the import of torch and transformers, which takes seconds.
    checkpoint = checkpoint_of(options)
    of_the_run = checkpoint.decoding()
    decoding = decoding_of(options, of_the_run)
    inputs, passed_over = find_inputs(files, options.audio_root)
    if passed_over:
        _say(f"{passed_over} files in the directories have no ending of a file with sound; they are left out")
    if options.output is not None:
        check_places(inputs)
    elif options.format is not None and len(inputs) > 1:
        raise UserError(f"--format: found {len(inputs)} recordings, expected --output DIR for their documents")
    for name in ("source_lang", "target_lang"):
        if getattr(options, name) == "":
            raise UserError(f"{option_of(name)}: found '', expected a language")
    missing = missing_files(inputs)
    for error in missing.values():
        print(f"speechllm transcribe: error: {error}", file=sys.stderr)
    if missing and not (inputs := [item for item in inputs if item.name not in missing]):
        _say(f"0 transcribed, {len(missing)} failed")
        return 2

    # The prompt must know the name of a language that it names.
    prompt = checkpoint.config(dict(overrides)).prompt
    for source, target in {(item.source_lang, item.target_lang) for item in inputs} | {("", "")}:
        prompt.instruction(source or options.source_lang, target or options.target_lang)
    check_system(checkpoint, overrides)
    server = server_of(options, decoding)

    from speechllm_tools.light_imports import import_transformers

    import_transformers()

    from speechllm_plugin.inference.transcriber import Transcriber
    from speechllm_plugin.tensors.precision import describe_decoding, machine_precision
    from speechllm_plugin.text.languages import language_code
    from speechllm_tools.numerics import use_recipe_numerics
    from speechllm_tools.recordings.session import Session

    use_recipe_numerics()
    system = Transcriber.of(checkpoint, device=options.device, overrides=overrides, server=server)
    model = system.model
    if (trained := checkpoint.precision()) != model.precision:
        _say(describe_decoding(model.precision, trained, machine_precision(next(model.parameters()).device)))
    if server is not None:
        _say(f"the LLM runs in {server}, in the precision that it was started with")
    _say(f"decoding {decoding.described(of_the_run)}")
    if model.encoder.languages and language_code(options.source_lang) not in model.encoder.languages:
        _say(f"--source-lang: found {options.source_lang!r}, but the speech encoder was pretrained on "
             f"{', '.join(model.encoder.languages)} alone")
    task = model.config.prompt.task_of(options.source_lang, options.target_lang)
    if options.timestamps and not task.writes_speech:
        what = "a translation puts words in another order than" if task.name == "translate" else "an answer has other "\
            "words than"
        _say(f"{what} the speech; each text gets the times of its whole file")
    return Session(system, checkpoint, decoding, options, _say).run(inputs, missing.keys())


def _channel(value: str) -> int | str:
    if value == "each" or (value.isascii() and value.isdigit() and int(value) > 0):
        return value if value == "each" else int(value)
    raise argparse.ArgumentTypeError(f"found {value!r}, expected a channel's number, from 1 on, or each")


def _unit(value: str) -> str:
    if value not in ("segments", "words"):
        # argparse has taken the word after the option for its value.
        raise argparse.ArgumentTypeError(
            f"found {value!r}, expected segments or words; a file after --timestamps needs --timestamps=segments"
        )
    return value


def _say(message: str) -> None:
    print(f"speechllm transcribe: {message}", file=sys.stderr)
