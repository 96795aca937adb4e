"""Parts and tasks of other packages, asked for in a thread while another one imports them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import environment

ASKS_WHEN_IMPORTED = """
import time
from speechllm_plugin.registry import ADAPTERS
from speechllm_plugin.tasks.api import task_names
time.sleep(0.5)
{ask}
done = True
"""

PROGRAM = """
import sys, threading, time
from speechllm_plugin.registry import ADAPTERS
from speechllm_plugin.tasks.api import task_names
importing = threading.Thread(target=__import__, args=("mine",))
importing.start()
while "mine" not in sys.modules:
    time.sleep(0.01)
{ask}
importing.join()
assert sys.modules["mine"].done
"""


@pytest.mark.parametrize(("group", "ask"), [("tasks", "task_names()"), ("adapters", "ADAPTERS.foreign_names()")])
def test_a_module_that_asks_when_it_is_imported_and_a_thread_wait_for_no_other(
    tmp_path: Path, group: str, ask: str
) -> None:
    (tmp_path / "mine.py").write_text(ASKS_WHEN_IMPORTED.format(ask=ask))
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[speechllm_plugin.{group}]\nmine = mine\n")
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ask=ask)], env=environment(PYTHONPATH=path), check=True, timeout=120
    )
