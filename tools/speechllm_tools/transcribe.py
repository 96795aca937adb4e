"""`speechllm transcribe`: audio files in, text out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from speechllm_plugin.errors import UserError

BATCH = 8
"""Files decoded together. It changes the speed, never the text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="wav, flac, mp3 or ogg; any rate, any channels")
    parser.add_argument("--checkpoint", metavar="DIR", required=True, type=Path,
                        help="output directory of a training run, or one checkpoints/step_N in it")
    parser.add_argument("--step", default="best", help="best (default), last, or a step number")
    parser.add_argument("--source-lang", default="en", help="language of the speech (default: en)")
    parser.add_argument("--target-lang", help="language to translate into (default: transcribe)")
    parser.add_argument("--beam-size", type=int, default=1, help="1 = greedy (default)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                        help="change a key of the checkpoint's model configuration, for instance where the frozen "
                        "models lie now: --set llm.config.path=DIR")


def run(options: argparse.Namespace) -> int:
    """Prints one line a file, `AUDIO<TAB>TEXT`. A file that cannot be read is one line on standard error; the others
    are still transcribed, and the exit status is 2."""
    if options.step not in ("best", "last") and not options.step.isdigit():
        raise UserError(f"--step: found {options.step!r}, expected best, last or a step number")
    if options.beam_size < 1:
        raise UserError(f"--beam-size: found {options.beam_size}, expected at least 1")
    overrides = dict(_assignment(item) for item in options.set)

    from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
    from speechllm_plugin.encoders.api import too_long
    from speechllm_plugin.languages import language_name
    from speechllm_plugin.llms.api import DecodingConfig
    from speechllm_plugin.models.speech_llm.checkpoint import load_speech_llm

    for language in filter(None, (options.source_lang, options.target_lang)):
        language_name(language)
    step = int(options.step) if options.step.isdigit() else options.step
    model = load_speech_llm(options.checkpoint, step, device=options.device, overrides=overrides)
    failed = 0
    readable = []
    for name in options.audio:
        try:
            seconds = len(read_audio(resolve(name, Path()))) / SAMPLE_RATE
            if model.encoder.max_seconds is not None and seconds > model.encoder.max_seconds:
                raise UserError(f"{name}: {too_long(seconds, model.encoder.max_seconds)}")
            readable.append(name)
        except UserError as error:
            failed += 1
            print(f"speechllm transcribe: error: {error}", file=sys.stderr)
    for names in _chunks(readable, BATCH):
        texts = model.transcribe(
            names,
            source_lang=options.source_lang,
            target_lang=options.target_lang,
            decoding=DecodingConfig(beam_size=options.beam_size),
        )
        for name, text in zip(names, texts, strict=True):
            # One line a file, whatever the model writes.
            print(f"{name}\t{' '.join(text.split())}", flush=True)
    if failed:
        print(f"speechllm transcribe: {len(readable)} transcribed, {failed} failed", file=sys.stderr)
    return 2 if failed else 0


def _assignment(item: str) -> tuple[str, object]:
    key, separator, value = item.partition("=")
    if not separator or not key:
        raise UserError(f"--set: found {item!r}, expected KEY=VALUE")
    import yaml

    return key, yaml.safe_load(value)


def _chunks(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
