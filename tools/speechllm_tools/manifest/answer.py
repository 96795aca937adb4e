"""`speechllm manifest answer`: targets that the frozen LLM writes itself.

An adapter that is trained towards the LLM's answers to the text learns to make speech mean to the LLM what the text
does, for any instruction. No answers need to be collected, as in arXiv 2310.00230.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment
from speechllm_plugin.tasks.row_prompt import COLUMNS, read_row_prompt
from speechllm_tools.completion import fingerprint
from speechllm_tools.manifest.requests import languages_of, transcript_of
from speechllm_tools.manifest.rows import (
    Row,
    add_audio_root,
    add_output,
    check_output,
    columns_of,
    folder_of,
    placed,
    read_rows,
    write_rows,
)
from speechllm_tools.prepare.kept import KeptResults
from speechllm_tools.prepare.rows import unbroken
from speechllm_tools.progress import ProgressLine
from speechllm_tools.shards.api import Machines, add_ray, map_shards

if TYPE_CHECKING:
    from speechllm_tools.manifest.written import LlmChoice, Request

SUMMARY = "write what a frozen LLM answers to the transcripts of a manifest, as targets"
NO_TRANSCRIPT = "no transcript"
EMPTY = "empty answer"
CUT = "answer cut off at the length limit"
_OF_SOUND = ("tokens_per_second", "extra_tokens", "no_speech_level", "no_speech_blank_share")
"""Keys of decoding that depend on the sound, which does not exist here."""
_SPACED = "answers whose line ends and tabs became spaces"


@dataclass(frozen=True)
class _Asked:
    """A row with its request to the LLM."""

    row: Row
    request: Request | None
    """None = the row has no transcript."""

    @property
    def where(self) -> str:
        return f"{self.row.manifest}, line {self.row.line}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="TSV manifest; the transcript is src_text, or "
                        "tgt_text of rows that are to be transcribed")
    parser.add_argument("--llm", metavar="NAME", required=True,
                        help="the LLM that is trained with: a published one (smollm2_135m), a hub id or a directory")
    parser.add_argument("--llm-config", metavar="KEY=VALUE", nargs="+", default=[],
                        help="of the LLM: dtype=float32, quantization=int8")
    parser.add_argument("--instruction", metavar="TEXT", default="",
                        help="what is asked, with <speech> in the place of the transcript; it becomes the column "
                        "instruction of rows that have none (default: the transcript is the whole instruction)")
    parser.add_argument("--system", metavar="TEXT", help="text of the system turn, as prompt.system in training")
    parser.add_argument("--max-tokens", metavar="N", type=int, default=256,
                        help="most tokens of an answer (default: 256)")
    parser.add_argument("--decoding", metavar="KEY=VALUE", nargs="+", default=[],
                        help="keys of decoding, such as temperature=0.7 seed=2 (default: the likeliest token)")
    parser.add_argument("--keep-cut", action="store_true",
                        help="keep answers that the limit ended; without it their rows are left out, since training "
                        "would learn to stop in the middle")
    parser.add_argument("--batch-size", metavar="N", type=int, default=32, help="default: 32")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")
    add_ray(parser)
    add_output(parser)
    add_audio_root(parser)


def run(options: argparse.Namespace) -> int:
    for name in ("batch_size", "max_tokens"):
        if (found := getattr(options, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {found}, expected at least 1")
    check_output(options.output, [options.manifest], overwrite=options.overwrite)
    asked = list(_read(options.manifest, options.instruction))
    if not any(one.request for one in asked):
        raise UserError(f"{options.manifest}: found no transcript in {len(asked):,} rows, expected src_text, or "
                        "tgt_text of rows that are to be transcribed")
    from speechllm_tools.manifest.written import identify

    choice, decoding = _choice(options)
    # Without a cluster, this process has the LLM and keeps it for all batches.
    machines = Machines(workers=0, ray=options.ray, gpus=True)
    places = {one.request.key: (one.where, one.request) for one in reversed(asked) if one.request is not None}
    ((_, llm),) = map_shards(identify, [(choice, dict(places.values()))], machines)
    made_by = {
        "version": version("speechllm-plugin"), "transformers": version("transformers"), "llm": llm,
        "decoding": decoding, "system": options.system,
    }  # fmt: skip
    kept = KeptResults(options.output.with_name(f".{options.output.name}.answers"), fingerprint(made_by))
    _answer(choice, {key: request for key, (_, request) in places.items()}, kept, machines, options.batch_size)
    counts = _Counts()
    rows = counts.rows(asked, kept.found, options)
    columns = [*columns_of(options.manifest)]
    columns += [name for name in ("tgt_text", "src_text", "task") if name not in columns]
    if options.instruction and "instruction" not in columns:
        columns.append("instruction")
    story = {"action": "answer", **made_by, "instruction": options.instruction, "rows": counts.figures}
    write_rows(options.output, columns, rows, inputs=[options.manifest], overwrite=options.overwrite, story=story)
    kept.remove()
    print(counts.table(options.output))
    return 0


def _read(manifest: Path, instruction: str) -> Iterator[_Asked]:
    from speechllm_tools.manifest.written import Request

    for row in read_rows(manifest, required=("id", "audio")):
        def wrong(name: str, expected: str, row: Row = row) -> UserError:
            return UserError(row.wrong(name, expected))

        fields = {name: row.get(name) for name in COLUMNS}
        asks = read_row_prompt({**fields, "instruction": fields["instruction"] or instruction}, wrong)
        if any(not turn.transcript for turn in asks.heard):
            raise wrong("history", "a transcript of each turn in speech, which the LLM reads in its place")
        text = transcript_of(row)
        yield _Asked(row, Request(text, *languages_of(row), asks) if text.strip() else None)


def _choice(options: argparse.Namespace) -> tuple[LlmChoice, dict[str, Any]]:
    """The LLM, and how it decodes.

    :raises UserError: a key is unknown, or a value is wrong.
    """
    from speechllm_plugin.llms.decoding import DecodingConfig
    from speechllm_tools.manifest.written import LlmChoice

    decoding = DecodingConfig(tokens_per_second=0.0, extra_tokens=options.max_tokens)
    changes = dict(parse_assignment(item, "--decoding") for item in options.decoding)
    if wrong := [name for name in changes if name in _OF_SOUND]:
        raise UserError(f"--decoding: found {wrong[0]}, expected keys that need no sound (--max-tokens limits answers)")
    values = asdict(decoding.changed(changes))
    config = dict(parse_assignment(item, "--llm-config") for item in options.llm_config)
    # An absolute path, since the processes of a cluster have another current folder.
    llm = str(Path(options.llm).resolve()) if Path(options.llm).is_dir() else options.llm
    choice = LlmChoice(llm, json.dumps(config), options.device, options.system, json.dumps(values))
    return choice, values


def _answer(
    choice: LlmChoice, requests: Mapping[str, Request], kept: KeptResults, machines: Machines, batch_size: int
) -> None:
    """Answers the requests without a known answer, each once.

    :param requests: requests by their keys.
    """
    from speechllm_tools.manifest.written import answer_batch, batches_of

    missing = [request for key, request in requests.items() if key not in kept.found]
    total, done = len(requests), len(requests) - len(missing)
    if done:
        print(f"going on after {done:,} answers, which an earlier run wrote", flush=True)
    with ProgressLine("answering") as line:
        line.update(f"{done:,}/{total:,} requests", done / total)
        tasks = ((choice, batch) for batch in batches_of(missing, batch_size))
        for (_, batch), answers in map_shards(answer_batch, tasks, machines):
            kept.add({key: asdict(written) for key, written in answers.items()})
            done += len(batch)
            line.update(f"{done:,}/{total:,} requests", done / total)


class _Counts:
    """Counts of the rows by their outcome."""

    def __init__(self) -> None:
        self.read = self.kept = self.cut = 0
        self.dropped: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.figures: dict[str, Any] = {}

    def rows(
        self, asked: list[_Asked], answers: Mapping[str, Any], options: argparse.Namespace
    ) -> Iterator[dict[str, str]]:
        root = folder_of(options.manifest, options.audio_root)
        for one in asked:
            self.read += 1
            found = None if one.request is None else answers[one.request.key]
            text = "" if found is None else unbroken(str(found["text"])).strip()
            self.cut += found is not None and found["cut"]
            reason = NO_TRANSCRIPT if found is None else EMPTY if not text else None
            if found is not None and reason is None and found["cut"] and not options.keep_cut:
                reason = CUT
            if reason is not None or one.request is None or found is None:
                reason = reason or NO_TRANSCRIPT
                self.dropped[reason] += 1
                self.first.setdefault(reason, one.where)
                continue
            self.kept += 1
            self.changed[_SPACED] += text != found["text"]
            yield placed(one.row, root, options.output, options.audio_root) | {
                "tgt_text": text, "src_text": one.request.text, "task": "answer",
                "instruction": one.row.get("instruction") or options.instruction,
            }  # fmt: skip
        self.figures |= {
            "read": self.read, "kept": self.kept, "dropped": dict(self.dropped), "first_dropped": self.first,
            "cut": self.cut, "changed": dict(self.changed),
        }  # fmt: skip
        if not self.kept:
            raise UserError(f"{options.manifest}: found no usable answer for {self.read:,} rows ("
                            f"{', '.join(f'{count:,} {reason}' for reason, count in self.dropped.items())})")

    def table(self, output: Path) -> str:
        lines = [f"{output}: {self.kept:,} of {self.read:,} rows"]
        lines += [f"  {count:,} left out, {reason}; first: {self.first[reason]}" for reason, count in
                  self.dropped.most_common()]
        lines += [f"  {count:,} {change}" for change, count in self.changed.items() if count]
        return "\n".join(lines)
