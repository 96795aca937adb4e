"""Runs commands in forks of one process that has imported everything: seconds of imports are paid once, and each
command is still a process of its own, with its own exit status, streams and environment.
`--without-fairseq2` is for a machine that fairseq2 is not built for.

It reads one JSON object a line and answers with the exit status on a line of its own, -N for signal N:

    module, argv     what to run: `module.main(argv)`
    cwd, env         where, and what to add to the environment; what PYTHONPATH holds can be imported
    stdout, stderr   files for the streams
    processes        how many run it together, each with the variables that torchrun sets
    kill_when        a file, or a pattern of files, and a text: the processes get a signal as soon as one holds it
    kill_by          its number
    killed           which process gets it, by its place; null = all
"""

from __future__ import annotations

import faulthandler
import gc
import glob
import json
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import suppress
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NoReturn

import psutil

# Before any import of fairseq2: it loads libsndfile.
import speechllm_plugin  # noqa: F401

CORE = (
    "jiwer",
    "sacrebleu",
    "speechllm_plugin.scoring.report",
    "speechllm_tools.cli",
    "speechllm_tools.ask",
    "speechllm_tools.transcribe",
    "transformers.models.llama.modeling_llama",
)
PARTS = ("speechllm_plugin.adapters", "speechllm_plugin.encoders", "speechllm_plugin.llms")
"""Packages of which every module is imported."""
LONGEST = 600.0
"""Seconds that a command may take; it is then ended by SIGABRT, and says where it stood."""
TRAINING = (
    "fairseq2.composition",
    "fairseq2.models.hg",
    "fairseq2.recipe.cli",
    "fairseq2.recipe.composition",
    "s3fs",  # by fairseq2, when it begins
    "speechllm_plugin.extension",
    "speechllm_recipes.cli",
    "speechllm_recipes.config_errors",
    "speechllm_recipes.speech_llm.evaluate",
    "speechllm_recipes.speech_llm.generate",
    "speechllm_recipes.speech_llm.train",
    "torch.utils.tensorboard",
)


def main() -> None:
    import_module("tests.offline").ask_no_name_server()
    if without_fairseq2 := sys.argv[1:] == ["--without-fairseq2"]:
        import_module("tests.without_fairseq2").hide()
    parts = [f"{name}.{module.name}" for name in PARTS for module in iter_modules(import_module(name).__path__)]
    for module in (*CORE, *parts, *(() if without_fairseq2 else TRAINING)):
        import_module(module)
    # A collection in a fork would write to, and so copy, every page of what is imported here.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        children = [fork(request, {})] if request["processes"] == 1 else fork_group(request)
        print(wait(children, request["kill_when"], request["kill_by"], request["killed"]), flush=True)


def fork_group(request: dict[str, Any]) -> list[int]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    size = str(request["processes"])
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    return [fork(request, {**shared, "RANK": rank, "LOCAL_RANK": rank}) for rank in map(str, range(int(size)))]


def fork(request: dict[str, Any], environment: dict[str, str]) -> int:
    child = os.fork()
    if child == 0:
        run(request, environment)
    return child


def wait(children: list[int], kill_when: tuple[str, str] | None, kill_by: int, killed: int | None) -> int:
    """The exit status: the first that is not 0. Like torchrun it ends the other processes when one fails."""
    status = 0
    alive = set(children)
    deadline = time.monotonic() + LONGEST
    while alive:
        for child in sorted(alive):
            ended, code = os.waitpid(child, os.WNOHANG)
            if ended:
                alive.remove(child)
                status = status or os.waitstatus_to_exitcode(code)
        if kill_when is not None and holds(*kill_when):
            for child in alive if killed is None else [children[killed]]:
                os.kill(child, kill_by)
            kill_when = None
        if time.monotonic() > deadline:
            tell_and_end(alive)
            deadline = float("inf")
        # A process that a signal lets finish leaves the others the time to do so, too.
        if status and status != -signal.SIGTERM:
            for child in alive:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return status


def tell_and_end(processes: set[int]) -> None:
    """Each process, and each that it has begun, writes where its threads stand."""
    everyone = [psutil.Process(process) for process in processes]
    for process in [*(child for one in everyone for child in one.children(recursive=True)), *everyone]:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGABRT)


def holds(file: str, text: str) -> bool:
    for name in glob.glob(file):
        with open(name, encoding="utf-8", errors="replace") as stream:
            if text in stream.read():
                return True
    return False


def run(request: dict[str, Any], environment: dict[str, str]) -> NoReturn:
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    faulthandler.enable()
    os.chdir(request["cwd"])
    os.environ.update(request["env"] | environment)
    sys.path[:0] = filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
    status: object = 1
    try:
        status = import_module(request["module"]).main(request["argv"])
    except SystemExit as exit_:
        status = exit_.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
