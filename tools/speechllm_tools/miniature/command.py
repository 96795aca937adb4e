"""`speechllm miniature`: two encoders, a small LLM, and speech in five languages with its translations, made here.

Models come from PyPI, speech from espeak-ng. Files that exist are used again.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_tools.miniature.config import MiniatureConfig

_SWEEP = "recipes/speechllm_recipes/configs/sweeps/embedded.yaml"
_FIELDS = {
    "train": "sentences to train on, each in five languages",
    "dev": "sentences to watch a training with",
    "test": "sentences to test with",
    "seed": "of all that is random",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("--root", type=Path, default=Path("demo"), help="folder of everything (default: demo)")
    parser.add_argument("--wheels", metavar="FOLDER", type=Path,
                        help="holds the wheels of the models already: nothing is downloaded")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="that speak at once (default: 2)")
    for field in dataclasses.fields(MiniatureConfig):
        parser.add_argument(f"--{field.name}", type=int, default=field.default, metavar="N",
                            help=f"{_FIELDS[field.name]} (default: {field.default})")


def run(options: argparse.Namespace) -> int:
    for name in ("processes", "train", "dev", "test"):
        if (value := getattr(options, name)) < 1:
            raise UserError(f"--{name}: found {value}, expected at least 1")
    # Imported here, so that `--help` answers at once without soundfile and espeak-ng.
    from speechllm_tools.demo.prepare import prepare_models, prepare_whisper_base
    from speechllm_tools.miniature.data import summarise_data, write_data

    start = time.monotonic()
    config = MiniatureConfig(**{name: getattr(options, name) for name in _FIELDS})
    prepare_models(options.root, options.wheels)
    prepare_whisper_base(options.root, options.wheels)
    folder = options.root / "miniature"
    write_data(folder, config, num_processes=options.processes)
    for name, (rows, hours, voices) in summarise_data(folder).items():
        print(f"  {folder / name}.tsv: {rows:,} rows, {hours:.2f} h, {voices} voices")
    print(f"  prepared in {time.monotonic() - start:.0f} s\n\nnow, for instance:\n"
          f"  fairseq2 recipe run speech_llm sweep {options.root}/sweep --config-file {_SWEEP} \\\n"
          f"      --launcher torchrun --processes 2\n  speechllm report {options.root}/sweep", flush=True)
    return 0
