"""Passive waiting: set before torch is there, and only where the user has not chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment
from tests.waiting import LONGEST

COMMANDS = ["speechllm_tools.cli", "speechllm_recipes.cli"]


def policy_of(module: str, **changes: str) -> str:
    """What a command has set by the time that torch is imported."""
    program = (
        f"import os, sys, {module} as command\n"
        "assert 'torch' not in sys.modules\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules\n"
        "print(os.environ.get('OMP_WAIT_POLICY'))"
    )
    variables = {name: value for name, value in environment().items() if name not in ("OMP_WAIT_POLICY",)} | changes
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True,
                          timeout=LONGEST)  # fmt: skip
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_let_threads_sleep_before_torch_is_imported(module: str) -> None:
    assert policy_of(module) == "PASSIVE"


@pytest.mark.parametrize("module", COMMANDS)
def test_the_users_choice_stays(module: str) -> None:
    assert policy_of(module, OMP_WAIT_POLICY="active") == "active"
    assert policy_of(module, GOMP_SPINCOUNT="1000") == "None"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="libraries are listed under /proc on Linux alone")
def test_no_openmp_is_loaded_before_the_commands_choose() -> None:
    program = "import speechllm_tools.cli; print('gomp' in open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **environment()}, capture_output=True,
                          text=True, check=True, timeout=LONGEST)  # fmt: skip
    assert done.stdout == "False\n"
