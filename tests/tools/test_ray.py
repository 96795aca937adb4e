"""`--ray`: the results of a cluster are those of one machine, also where it loses a node."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import PATHS, environment
from tests.tools.corpora.layouts import manifest, rows_of, tone, write_lines
from tests.waiting import LONGEST, wait_until

pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Of two nodes; a process of either finds our packages."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def test_a_node_is_lost_in_the_middle(cluster: Any, tmp_path: Path) -> None:
    names = [tone(tmp_path / f"in/c{number}.wav", 0.1, pitch=100 + number).name for number in range(2500)]
    table = write_lines(tmp_path / "in/train.tsv", ["audio\ttgt_text", *(f"{name}\ttext {name}" for name in names)])
    command = ["table", str(table), "--audio", "flac"]
    manifest(*command, "--output", tmp_path / "local").ok()
    process = subprocess.Popen(
        [sys.executable, "-m", "speechllm_tools.cli", "manifest", *command, "--output", "there/out", "--ray",
         cluster.address], cwd=tmp_path, env=environment(),
    )  # fmt: skip
    (tmp_path / "there").mkdir()
    chunk = tmp_path / "there/out/.preparing/000000.json"
    wait_until(lambda: chunk.exists() or process.poll() is not None, "the first chunk is prepared")
    assert process.poll() is None
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    assert process.wait(LONGEST) == 0
    assert sound(tmp_path / "there/out") == sound(tmp_path / "local")


def sound(output: Path) -> list[tuple[dict[str, str], bytes]]:
    """Rows with the bytes of their clips."""
    rows = rows_of(output / "train.tsv")
    return [(row | {"audio": row["audio"].partition("/")[2]}, (output / row["audio"]).read_bytes()) for row in rows]


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    tone(tmp_path / "c.wav", 0.1)
    table = write_lines(tmp_path / "train.tsv", ["audio\ttgt_text", "c.wav\ttext"])
    line = manifest("table", table, "--output", tmp_path / "out", "--ray", "127.0.0.1:1").user_error()
    assert line.startswith("--ray: found no cluster at '127.0.0.1:1' (")
