"""`speechllm vllm`: installs vLLM in an environment of its own, and serves a system's LLM with it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from speechllm_plugin.errors import UserError
from speechllm_plugin.files.yaml_text import parse_assignment
from speechllm_tools.system_options import CHECKPOINT, add_choice, check_system, checkpoint_in
from speechllm_tools.vllm import inside
from speechllm_tools.vllm.packages import CPU, VARIABLE, find_python, folder, install, package

EPILOG = f"""\
The environment lies in ${VARIABLE}, or beside our own packages. What stands behind -- goes to vLLM's server as it is.

examples:
  speechllm vllm install
  speechllm vllm serve --checkpoint RUN
  speechllm vllm serve --checkpoint RUN --dtype float32 -- --max-num-seqs 32 --gpu-memory-utilization 0.5
  speechllm transcribe --checkpoint RUN --engine vllm --batch-size 32 talks/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("install", help="download vLLM for this machine's GPU, or for its CPU (3 to 7 GB, minutes)")
    actions.add_parser("where", help="tell which interpreter has it")
    serve = actions.add_parser("serve", help="start vLLM's server with the LLM of a trained system, for --engine vllm")
    serve.add_argument("--checkpoint", metavar="DIR", required=True, type=Path, help=CHECKPOINT)
    add_choice(serve)
    serve.add_argument("--port", type=int, default=8001, help="on this machine's own address (default: 8001)")
    serve.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="precision of the LLM (default: "
                       "that of transcribe here; with float32 there and --set llm.config.dtype=float32 here, "
                       "greedy texts on a CPU are those of transcribe)")
    serve.add_argument("--max-model-len", type=int, metavar="N", help="rows of a prompt and tokens of its text "
                       "together (default: 4096, or all that the LLM has)")
    serve.add_argument("--kv-gigabytes", type=int, metavar="N", help="on a CPU: memory for what the LLM keeps "
                       "of running requests (default: $VLLM_CPU_KVCACHE_SPACE, or 4)")
    serve.add_argument("more", nargs="*", metavar="-- OPTION", help="options of vLLM's server")


def run(options: argparse.Namespace) -> int:
    """`serve` becomes vLLM's server: its signals and its exit status are the server's own."""
    if options.action == "serve":
        return _serve(options)
    if options.action == "install":
        print(f"installing {package()} into {folder()}", flush=True)
        install()
    print(f"vLLM: {find_python()}")
    return 0


def _serve(options: argparse.Namespace) -> int:
    for name in ("port", "max_model_len", "kv_gigabytes"):
        if (found := getattr(options, name)) is not None and found < 1:
            raise UserError(f"--{name.replace('_', '-')}: found {found}, expected at least 1")
    for option in ("--logits-processors", "--served-model-name", "--model"):
        if any(given.partition("=")[0].replace("_", "-") == option for given in options.more):
            raise UserError(f"--: found {option}, expected none: this command gives it")
    python = find_python()
    overrides = dict(parse_assignment(item, "--set") for item in options.set)
    checkpoint = checkpoint_in(options.checkpoint, options.step)
    check_system(checkpoint, overrides)

    from speechllm_tools.vllm.serving import find_llm

    llm = find_llm(checkpoint, overrides)
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", llm.place, "--served-model-name", *llm.names,
        "--host", "127.0.0.1", "--port", str(options.port),
        "--enable-prompt-embeds", "--logits-processors", "speechllm_repetition:Repetition",
        "--dtype", options.dtype or llm.dtype,
        "--max-model-len", str(options.max_model_len or llm.positions),
    ]  # fmt: skip
    if package() == CPU:
        # Compiling takes minutes and a C++ compiler.
        command.append("--enforce-eager")
    command += options.more
    variables = {
        "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "4",
        **os.environ, "PYTHONPATH": str(Path(inside.__file__).parent),
    }  # fmt: skip
    if options.kv_gigabytes is not None:
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(options.kv_gigabytes)
    print(f"speechllm vllm: {' '.join(command)}", file=sys.stderr, flush=True)
    os.execve(python, command, variables)
