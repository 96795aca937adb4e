"""`speechllm`: the commands around training. Each one is a module with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from speechllm_plugin.errors import ServiceError, UserError
from speechllm_plugin.workarounds.threads import wait_passively

# For each command its module and a line of help. A module is imported only when its command is called, so that
# `speechllm --help` answers at once.
COMMANDS = {
    "transcribe": ("speechllm_tools.transcribe", "transcribe or translate audio files with a trained system"),
    "ask": ("speechllm_tools.ask", "ask a trained system anything about audio files"),
    "serve": ("speechllm_tools.serve.command", "answer the audio API of OpenAI's clients with a trained system"),
    "export": ("speechllm_tools.export.command", "write a trained system for transformers, ONNX Runtime or Ultravox"),
    "inspect": ("speechllm_tools.inspect.command", "parameters, output rates and training cost of a system, offline"),
    "score": ("speechllm_tools.score.command", "score and compare hypotheses on disk: WER, BLEU, COMET, p-values"),
    "report": ("speechllm_tools.report.command", "tables, curves and a page of utterances from runs; published tables"),
    "comet": ("speechllm_tools.comet.command", "install COMET's packages in a folder of their own"),
    "vllm": ("speechllm_tools.vllm.command", "install vLLM, and serve a system's LLM with it, for --engine vllm"),
    "demo": ("speechllm_tools.demo.run", "train and evaluate a small real system on CPU, offline"),
    "tasks": ("speechllm_tools.experiments.tasks", "train the demo on answers, too; compare with text and a cascade"),
    "miniature": ("speechllm_tools.miniature.command", "prepare models and speech in five languages for a sweep"),
    "seeds": ("speechllm_tools.experiments.seeds", "train the demo with several seeds and precisions, into one table"),
    "manifest": ("speechllm_tools.manifest.command", "make manifests from corpora; check, filter, split, mix them"),
    "cache": ("speechllm_tools.cache.command", "encode clips ahead of training; tell what a feature cache holds"),
    "gpu": ("speechllm_tools.gpu.command", "all that only a GPU can show, on a page"),
    "bench": ("speechllm_tools.bench.command", "measure the kernels against their peers, or an encoder's options"),
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    description = "The commands around training; `fairseq2 recipe run speech_llm` trains."
    parser = argparse.ArgumentParser(prog="speechllm", description=description)
    chosen = arguments[0] if arguments else None
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if name == chosen:
            command = importlib.import_module(module)
            command.add_arguments(subparser)
            subparser.set_defaults(run=command.run)
    return parser.parse_args(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    wait_passively()
    options = parse(sys.argv[1:] if argv is None else argv)
    try:
        return int(options.run(options) or 0)
    except UserError as error:
        print(f"speechllm {options.command}: error: {error}", file=sys.stderr)
        return 2
    except ServiceError as error:
        print(f"speechllm {options.command}: error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
