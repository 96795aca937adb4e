"""`speechllm transcribe`: audio files in, text out, with times if asked for."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from speechllm_plugin.errors import UserError
from speechllm_plugin.yaml_text import parse_assignment

if TYPE_CHECKING:
    from speechllm_plugin.alignment import TimedText
    from speechllm_plugin.datasets.files import Named
    from speechllm_plugin.llms.api import DecodingConfig
    from speechllm_plugin.models.speech_llm.model import SpeechLlm


def _number_or_off(value: str) -> float | None:
    return None if value == "off" else float(value)


_number_or_off.__name__ = "number"  # what argparse calls it

DECODING: dict[str, tuple[Callable[[str], object], str]] = {
    "beam_size": (int, "hypotheses kept side by side; 1 = greedy; 4 costs more time and often errs less"),
    "length_penalty": (float, "for beams: above 1 favours long texts, below 1 short ones"),
    "temperature": (float, "0 = the likeliest token each time; above 0 tokens are drawn, the more freely the higher"),
    "top_k": (int, "for a temperature: draws from this many of the likeliest tokens; 0 = from all"),
    "top_p": (float, "for a temperature: draws from the likeliest tokens that together have this probability; 1 = all"),
    "seed": (int, "for a temperature: the same seed draws the same text of a file"),
    "repetition_penalty": (float, "above 1 discourages tokens already said; 1 = off"),
    "no_repeat_ngram_size": (int, "no n-gram of this many tokens occurs twice; 0 = off"),
    "max_compression_ratio": (
        _number_or_off, "a text that zlib shrinks more than this many times loops, and is decoded again without "
        "repetitions; 2.4 suits speech; off = keep it"
    ),
    "tokens_per_second": (
        float, "limit of a text's length, in tokens per second of audio, beside --extra-tokens; if the run was given "
        "none, it is from its training references"
    ),
    "extra_tokens": (int, "limit of a text's length, in tokens, beside --tokens-per-second"),
    "no_speech_level": (
        _number_or_off, "a file whose loudest 0.1 s is below this level, in dB under full scale, gets no text; -60 is "
        "silence; off = every file gets one"
    ),
    "no_speech_probability": (
        _number_or_off, "a text whose tokens have a lower mean probability than this was made up and is left out; off "
        "= keep it"
    ),
}
"""Fields of `DecodingConfig`: what each takes, and what it does."""
FEW = 0.5
"""Share of words with a time of their own below which the times of a file are called estimates."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("audio", metavar="AUDIO", nargs="+", help="wav, flac, mp3 or ogg, and m4a, mp4, webm and "
                        "others where PyAV is installed; any rate, any channels")
    parser.add_argument("--channel", type=_channel, metavar="N|each",
                        help="hear one channel, counted from 1, or each for itself: AUDIO<TAB>CHANNEL<TAB>TEXT "
                        "(default: their mean)")
    parser.add_argument("--checkpoint", metavar="DIR", required=True, type=Path,
                        help="output directory of a training run, or one checkpoints/step_N in it")
    parser.add_argument("--step", default="best", help="best (default), last, or a step number")
    parser.add_argument("--source-lang", default="en", help="language of the speech (default: en)")
    parser.add_argument("--target-lang", help="language to translate into (default: transcribe)")
    parser.add_argument("--timestamps", nargs="?", const="segments", type=_unit, metavar="segments|words",
                        help="print a line AUDIO<TAB>START<TAB>END<TAB>TEXT, in seconds, for each segment (default) "
                        "or word")
    parser.add_argument("--batch-size", type=int, default=8, help="files decoded together (default: 8); changes the "
                        "speed, not the text: exactly in bfloat16 and float16, up to ties within 1e-5 in float32")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the GPU if there is one)")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[],
                        help="change a key of the checkpoint's model configuration, for instance where the frozen "
                        "models lie now: --set llm.config.path=DIR")
    group = parser.add_argument_group("decoding", "What is not given is as in the validation of the training run.")
    for name, (kind, meaning) in DECODING.items():
        group.add_argument(_option(name), type=kind, default=argparse.SUPPRESS, help=meaning)


def run(options: argparse.Namespace) -> int:
    """Prints one line a file, `AUDIO<TAB>TEXT`, or with `--timestamps` one a segment or word. A file that cannot be
    read is one line on standard error; the others are still transcribed, and the exit status is 2."""
    if options.batch_size < 1:
        raise UserError(f"--batch-size: found {options.batch_size}, expected at least 1")
    files = [name for name in options.audio if not (options.set and _is_assignment(name))]
    given = [*options.set, *(name for name in options.audio if name not in files)]
    overrides = dict(parse_assignment(item, "--set") for item in given)
    if not files:
        raise UserError("AUDIO: found none, expected at least one file")

    from speechllm_plugin.languages import language_code
    from speechllm_plugin.models.speech_llm.checkpoint import find_checkpoint, load_speech_llm, parse_step
    from speechllm_plugin.precision import describe_decoding, machine_precision
    from speechllm_tools.numerics import use_recipe_numerics

    step = parse_step(options.step)
    checkpoint = find_checkpoint(options.checkpoint, step)
    of_the_run = checkpoint.decoding()
    decoding = _decoding(options, of_the_run)
    for name in ("source_lang", "target_lang"):
        if getattr(options, name) == "":
            raise UserError(f"{_option(name)}: found '', expected a language")
    # Before anything is loaded: a language that the prompt names must have a name.
    checkpoint.config(overrides).prompt.instruction(options.source_lang, options.target_lang)
    use_recipe_numerics()
    model = load_speech_llm(options.checkpoint, step, device=options.device, overrides=overrides)
    if (trained := checkpoint.precision()) != model.precision:
        _say(describe_decoding(model.precision, trained, machine_precision(next(model.parameters()).device)))
    _say(f"decoding {decoding.described(of_the_run)}")
    if model.encoder.languages and language_code(options.source_lang) not in model.encoder.languages:
        _say(f"--source-lang: found {options.source_lang!r}, but the speech encoder was pretrained on "
             f"{', '.join(model.encoder.languages)} alone")
    if options.timestamps and not model.prompts.transcribes(options.source_lang, options.target_lang):
        what = "an answer has other words than" if model.prompts.answers else "a translation puts words in another "\
            "order than"
        _say(f"{what} the speech; each text gets the times of its whole file")
    sounds = _Sounds(files, options.channel, model)
    for clips in _chunks(sounds, options.batch_size):
        for clip, lines in zip(clips, _lines(model, clips, options, decoding), strict=True):
            for line in lines:
                print(*clip.fields, *line, sep="\t", flush=True)
    if sounds.failed:
        _say(f"{len(files) - sounds.failed} transcribed, {sounds.failed} failed")
    return 2 if sounds.failed else 0


@dataclasses.dataclass(frozen=True)
class _Clip:
    fields: list[str]
    """What its lines begin with: the file, and the channel where each is asked for."""
    audio: Named


class _Sounds:
    """The clips of the files, each read when its turn comes, and once. A file that cannot be read is one line."""

    def __init__(self, files: Sequence[str], channel: int | str | None, model: SpeechLlm) -> None:
        self._files, self._channel, self._model = files, channel, model
        self.failed = 0
        """Files that could not be read, so far."""

    def __iter__(self) -> Iterator[_Clip]:
        for name in self._files:
            try:
                # All channels, before any is given: a file is transcribed whole or not at all.
                clips = [self._clip(name, channel) for channel in self._channels(name)]
            except UserError as error:
                self.failed += 1
                print(f"speechllm transcribe: error: {error}", file=sys.stderr)
                continue
            yield from clips

    def _channels(self, name: str) -> Sequence[int | None]:
        from speechllm_plugin.datasets.audio import count_channels, resolve

        if isinstance(self._channel, str):
            return range(1, count_channels(resolve(name, Path())) + 1)
        return [self._channel]

    def _clip(self, name: str, channel: int | None) -> _Clip:
        from speechllm_plugin.datasets.audio import SAMPLE_RATE, read_audio, resolve
        from speechllm_plugin.datasets.files import Named
        from speechllm_plugin.models.speech_llm.model import check_duration

        def check(seconds: float) -> None:
            check_duration(name, seconds, self._model.encoder)

        samples = read_audio(resolve(name, Path(), channel), check)
        check(len(samples) / SAMPLE_RATE)
        return _Clip([name, str(channel)] if isinstance(self._channel, str) else [name], Named(name, samples))


def _lines(
    model: SpeechLlm, clips: Sequence[_Clip], options: argparse.Namespace, decoding: DecodingConfig
) -> list[list[list[str]]]:
    """For each clip its lines, for each line its fields after the clip's own."""
    audio = [clip.audio for clip in clips]
    languages = {"source_lang": options.source_lang, "target_lang": options.target_lang}
    if not options.timestamps:
        return [[[_one_line(text)]] for text in model.transcribe(audio, **languages, decoding=decoding)]
    timed = model.transcribe_timed(audio, **languages, decoding=decoding)
    if model.prompts.transcribes(options.source_lang, options.target_lang):
        for clip, text in zip(clips, timed, strict=True):
            _warn_of_estimates(" ".join(clip.fields), text)
    return [
        [[f"{part.start:.2f}", f"{part.end:.2f}", _one_line(part.text)] for part in getattr(text, options.timestamps)]
        for text in timed
    ]


def _warn_of_estimates(name: str, text: TimedText) -> None:
    if text.placed == 0:
        _say(f"{name}: no word could be found in the audio; the times are spread evenly over it")
    elif text.placed < FEW:
        _say(f"{name}: {text.placed:.0%} of the words could be found in the audio; the times of the others are "
             "estimates")


def _decoding(options: argparse.Namespace, default: DecodingConfig) -> DecodingConfig:
    given = {name: value for name, value in vars(options).items() if name in DECODING}
    decoding = dataclasses.replace(default, **given)
    names = re.compile(rf"\b({'|'.join(DECODING)})\b")
    if problems := [names.sub(lambda name: _option(name[1]), problem) for problem in decoding.problems()]:
        raise UserError("; ".join(problems))
    return decoding


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _channel(value: str) -> int | str:
    if value == "each" or (value.isascii() and value.isdigit() and int(value) > 0):
        return value if value == "each" else int(value)
    raise argparse.ArgumentTypeError(f"found {value!r}, expected a channel's number, from 1 on, or each")


def _unit(value: str) -> str:
    if value not in ("segments", "words"):
        # argparse takes the word after the option for its value.
        raise argparse.ArgumentTypeError(
            f"found {value!r}, expected segments or words; a file after --timestamps needs --timestamps=segments"
        )
    return value


def _is_assignment(name: str) -> bool:
    """A second KEY=VALUE behind one `--set`, which argparse takes for a file."""
    return re.match(r"[a-z_]+(\.[a-z_]+)*=", name) is not None and not Path(name).exists()


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _say(message: str) -> None:
    print(f"speechllm transcribe: {message}", file=sys.stderr)


def _chunks(items: Iterable[_Clip], size: int) -> Iterator[Sequence[_Clip]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk
