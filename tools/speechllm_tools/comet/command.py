"""`speechllm comet install`: the packages of COMET, in a folder of their own."""

from __future__ import annotations

import argparse

from speechllm_tools.comet.packages import PACKAGES, find_python, install, packages_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = __doc__
    parser.add_argument("action", choices=["install", "where"],
                        help="install: download the packages (170 MB on disk); where: tell which are used")


def run(options: argparse.Namespace) -> int:
    if options.action == "install":
        print(f"installing {', '.join(PACKAGES)} into {packages_folder()}", flush=True)
        install()
    python, folder = find_python()
    print(f"COMET: {python}{'' if folder is None else f', packages of {folder}'}")
    return 0
