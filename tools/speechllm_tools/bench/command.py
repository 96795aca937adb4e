"""`speechllm bench`: measures the kernels, or the options of an encoder, on the device at hand."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from speechllm_plugin.errors import UserError
from speechllm_tools.bench import plot, report
from speechllm_tools.bench.framework import DTYPES, REGISTRY, Benchmark, Case, load_benchmark, run_benchmark
from speechllm_tools.bench.timing import Timer

_KERNEL = "times a kernel against its peers, each timing gated on correctness"
_KERNEL_EPILOG = """\
Each implementation is first compared with a float64 reference: one that is wrong prints FAILED, is not timed, and
makes the exit status 1. Peers (baselines) are timed even where they differ, and the difference is printed; a peer
that is not installed is listed as absent.

examples:
  speechllm bench cif
  speechllm bench cif --shape 16,1500,768,375 --dtype fp32 --threads 2
  speechllm bench ctc-collapse --device cuda --json out.json --plot out.png
"""
_ROBUSTNESS = "WER of a trained system with silence, noise, another level or a telephone line"
_BATCH_SIZE = "whether texts depend on the batch, in bfloat16 and float32, and what a batch saves"
_STEP = "a training step beside transformers' Voxtral, Qwen2-Audio and Granite Speech of equal widths"
_DECODE = "decoding beside the same classes"
_AUDIO = "how fast sound is read, and in how much memory, beside soundfile and PyAV alone"
_DATA = "the reader's speed, its padding, and the first batch of a large manifest, beside a plain loop and lhotse"
_WHISPER_PADDING = "vectors, time and WER with and without Whisper's padding, on the demo's clips"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    benchmarks = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    for name in sorted(REGISTRY):
        kernel = benchmarks.add_parser(
            name,
            help=_KERNEL,
            description=_KERNEL,
            epilog=_KERNEL_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_kernel_arguments(kernel)
        kernel.set_defaults(measure=_run_kernel)
    padding = benchmarks.add_parser("whisper-padding", help=_WHISPER_PADDING, description=_WHISPER_PADDING)
    _add_whisper_padding_arguments(padding)
    padding.set_defaults(measure=_run_whisper_padding)
    robustness = benchmarks.add_parser("robustness", help=_ROBUSTNESS, description=_ROBUSTNESS)
    _add_robustness_arguments(robustness)
    robustness.set_defaults(measure=_run_robustness)
    batch_size = benchmarks.add_parser("batch-size", help=_BATCH_SIZE, description=_BATCH_SIZE)
    _add_batch_size_arguments(batch_size)
    batch_size.set_defaults(measure=_run_batch_size)
    audio = benchmarks.add_parser("audio", help=_AUDIO, description=_AUDIO)
    audio.add_argument("--seconds", type=float, default=60.0, metavar="N", help="length of the clips (default: 60)")
    audio.add_argument("--repeats", type=int, default=5, metavar="N", help="the fastest of N counts (default: 5)")
    audio.add_argument("--minutes", type=int, default=60, metavar="N", help="length of the streams (default: 60)")
    audio.add_argument("--only", nargs="+", metavar="FILE", help="only these rows of the table, e.g. wav mp3")
    audio.add_argument("--output", type=Path, metavar="FILE", help="write the page here, too")
    audio.set_defaults(measure=_run_audio)
    data = benchmarks.add_parser("data", help=_DATA, description=_DATA)
    data.add_argument("--rows", type=int, default=1_000_000, metavar="N", help="of the large manifest (default: 10^6)")
    data.add_argument("--clips", type=int, default=300, metavar="N", help="that are read (default: 300)")
    data.add_argument("--repeats", type=int, default=3, metavar="N", help="the fastest of N counts (default: 3)")
    data.add_argument("--only", nargs="+", choices=("speechllm", "plain loop", "lhotse"), help="only these readers")
    data.add_argument("--root", type=Path, metavar="DIR", help="for files: one a row (default: the system's)")
    data.add_argument("--output", type=Path, metavar="FILE", help="write the page here, too")
    data.set_defaults(measure=_run_data)
    for name, summary in (("step", _STEP), ("decode", _DECODE)):
        speed = benchmarks.add_parser(name, help=summary, description=summary)
        _add_step_arguments(speed)
        speed.set_defaults(measure=_run_beside_others)
    benchmarks.choices["decode"].add_argument(
        "--batches", nargs="+", type=int, default=[1, 16], metavar="N", help="clips decoded together (default: 1 16)"
    )
    benchmarks.choices["step"].add_argument(
        "--batches", nargs="+", type=int, metavar="N", help="clips in a step, those of --clips in turn (default: each "
        "of them once)",
    )
    for subparser in benchmarks.choices.values():
        _add_common_arguments(subparser)


def _add_kernel_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        nargs="+",
        metavar="B,T,C[,X]",
        help="batch, frames, width, and for cif the output length U, for ctc-collapse the vocabulary V; "
        "default: a list that suits the device",
    )
    parser.add_argument(
        "--dtype", nargs="+", choices=sorted(DTYPES), help="default: the dtype of each default shape, else fp32"
    )
    parser.add_argument(
        "--variant",
        nargs="+",
        metavar="NAME",
        help="kind of data, e.g. full, ragged; default: that of each default shape, else full",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run only these implementations")
    parser.add_argument(
        "--seconds", type=float, help="how long to measure each figure (default: 1 on a CPU, 0.2 on CUDA)"
    )
    parser.add_argument(
        "--no-gate-matrix", action="store_true", help="skip the small awkward cases; timed cases stay gated"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="F.png", help="draw the share of the copy bandwidth (needs matplotlib)"
    )


def _add_whisper_padding_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of the demo (default: demo)")
    parser.add_argument(
        "--clips", type=int, default=100, metavar="N", help="at most so many of the dev split (default: 100)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table here, with what made it")


def _add_robustness_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", metavar="DIR", required=True, type=Path, help="output directory of a run")
    parser.add_argument("--manifest", metavar="TSV", required=True, type=Path, help="clips with their transcripts")
    parser.add_argument("--clips", metavar="N", type=int, help="only the first N rows (default: all)")
    parser.add_argument("--batch-size", metavar="N", type=int, default=25, help="clips decoded together (default: 25)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table here, with what made it")


def _add_batch_size_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="a trained system")
    parser.add_argument("--manifest", type=Path, required=True, metavar="TSV", help="clips to decode")
    parser.add_argument("--clips", type=int, default=60, metavar="N", help="at most so many of them (default: 60)")
    parser.add_argument("--batch-size", type=int, default=20, metavar="N", help="clips in a batch (default: 20)")
    parser.add_argument("--beam-size", type=int, default=1, metavar="N", help="default: 1, greedy")
    parser.add_argument(
        "--no-hard-clips", action="store_true",
        help="leave out noise, hum, silence, and the first clips twice, late and before a silence",
    )


def _add_step_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clips", nargs="+", type=float, default=[2.0, 4.0, 6.0, 10.0], metavar="SECONDS",
                        help="lengths of the batch's clips (default: 2 4 6 10)")
    parser.add_argument("--tokens", type=int, default=24, metavar="N", help="of each text (default: 24)")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="after one to warm up (default: 2)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="systems whose names hold one of these words")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"),
                        help="precisions, all in one run (default: bfloat16 on a GPU, float32 on a CPU)")
    parser.add_argument("--widths", choices=("tiny", "small", "large"), default="small",
                        help="of two layers, only to try the command; of Whisper tiny and SmolLM2-135M; or of Whisper "
                        "large and Llama 3.1 8B (default: small)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the page here, too")


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one, else cpu")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: PyTorch's choice")
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures, machine, versions and commit here")


def run(options: argparse.Namespace) -> int:
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device: cuda was asked for, but PyTorch sees no CUDA device")
    for name in ("json", "plot", "output"):
        path = getattr(options, name, None)
        if path is not None and not path.resolve().parent.is_dir():
            raise UserError(f"--{name}: the folder of {path} does not exist")
    if options.threads is not None:
        if options.threads < 1:
            raise UserError(f"--threads: {options.threads} found, at least 1 expected")
        torch.set_num_threads(options.threads)
    return int(options.measure(options, device))


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _run_whisper_padding(options: argparse.Namespace, device: str) -> int:
    # Imported here, since importing transformers takes seconds and the kernels do not need it.
    from speechllm_tools.bench.whisper_padding import run as run_whisper_padding

    return run_whisper_padding(options, device, report=_report)


def _run_robustness(options: argparse.Namespace, device: str) -> int:
    from speechllm_tools.bench.robustness import run as run_robustness

    return run_robustness(options, device, report=_report)


def _run_batch_size(options: argparse.Namespace, device: str) -> int:
    from speechllm_tools.bench.batch_size import run as run_batch_size

    return run_batch_size(options, device, report=_report)


def _run_audio(options: argparse.Namespace, device: str) -> int:
    from speechllm_tools.bench.audio import run as run_audio

    return run_audio(options, report=_report)


def _run_data(options: argparse.Namespace, device: str) -> int:
    from speechllm_tools.bench.data import run as run_data

    return run_data(options, report=_report)


def _run_beside_others(options: argparse.Namespace, device: str) -> int:
    from speechllm_tools.bench import decode, step

    return (decode if options.benchmark == "decode" else step).run(options, device, report=_report)


def _run_kernel(options: argparse.Namespace, device: str) -> int:
    if options.plot is not None and (reason := plot.why_not()) is not None:
        raise UserError(f"--plot: {reason}")
    benchmark = load_benchmark(options.benchmark)
    names = {implementation.name for operation in benchmark.operations for implementation in operation.implementations}
    for name in options.only or ():
        if name not in names:
            raise UserError(f"--only: {name!r} found, one of {', '.join(sorted(names))} expected")
    cases = _cases(benchmark, device, options.shape, options.dtype, options.variant)
    gate_cases = [] if options.no_gate_matrix else benchmark.gate_cases(device)

    timer = Timer(device, seconds=options.seconds or (0.2 if device == "cuda" else 1.0))
    results = run_benchmark(
        benchmark,
        cases,
        timer,
        defaults=options.shape is None,
        only=options.only,
        gate_cases=gate_cases,
        report=_report,
    )
    print(report.table(benchmark.dimensions, results, timer))
    if options.json is not None:
        document = report.as_json(options.benchmark, benchmark.dimensions, results, timer)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        machine = report.describe_run(timer)["machine"]
        plot.save_plot(f"{options.benchmark} on {machine['gpu'] or machine['cpu']}", results, options.plot)
    return 1 if any(result.status == "FAILED" and not result.baseline for result in results) else 0


def _cases(
    benchmark: Benchmark,
    device: str,
    shapes: Sequence[str] | None,
    dtypes: Sequence[str] | None,
    variants: Sequence[str] | None,
) -> list[Case]:
    for variant in variants or ():
        if variant not in benchmark.variants:
            raise UserError(f"--variant: {variant!r} found, one of {', '.join(benchmark.variants)} expected")
    if shapes is None:
        bases = list(benchmark.cases(device))
    else:
        bases = [Case(shape=_shape(benchmark, text), dtype=torch.float32, device=device) for text in shapes]
    cases = [
        Case(shape=base.shape, dtype=dtype, device=device, variant=variant)
        for base in bases
        for dtype in ([DTYPES[name] for name in dtypes] if dtypes else [base.dtype])
        for variant in (variants or [base.variant])
    ]
    return list(dict.fromkeys(cases))


def _shape(benchmark: Benchmark, text: str) -> tuple[int, ...]:
    expected = ",".join(benchmark.dimensions)
    try:
        shape = tuple(int(number) for number in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) == len(benchmark.dimensions) - 1:
        shape = (*shape, benchmark.last_dimension(shape))
    if len(shape) != len(benchmark.dimensions) or min(shape) < 1:
        raise UserError(
            f"--shape: {text!r} found, whole numbers of at least 1 as {expected} expected (the last may be left out)"
        )
    return shape
