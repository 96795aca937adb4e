"""A disk that is too small, by the real one's own figures."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from fairseq2.checkpoint import CheckpointManager
from speechllm_recipes.speech_llm.disk_space import ask_for_space_first, check_space, full_disk

from speechllm_plugin.errors import UserError


class Manager(CheckpointManager):
    """Counts what it is asked to save."""

    saved = 0

    def save_checkpoint(self, *arguments: object, **options: object) -> None:  # type: ignore[override]
        self.saved += 1


Manager.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@pytest.fixture
def trained() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = torch.nn.Linear(1000, 1000, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 1000)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize(("room", "fits"), [(2**20, True), (-(2**20), False)])
def test_room_for_a_checkpoint_is_asked_for_first(
    trained: tuple[torch.nn.Module, torch.optim.Optimizer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    room: int, fits: bool,
) -> None:
    needed = 3 * 4_000_000 + 2**20  # weights and two moments, and what is around them
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed + room))
    manager = Manager()  # type: ignore[abstract]
    directory = tmp_path / "run/checkpoints"  # which is not there yet
    ask_for_space_first(manager, directory, *trained)
    if fits:
        manager.save_checkpoint(7, None, None, None, None)
        assert manager.saved == 1
        return
    with pytest.raises(UserError) as caught:
        manager.save_checkpoint(7, None, None, None, None)
    assert str(caught.value) == (
        f"{directory}: found 12.0 MB free on its disk, expected at least 13.0 MB for the checkpoint of step 7"
    )
    assert manager.saved == 0


def test_more_than_the_disk_holds_is_refused(tmp_path: Path) -> None:
    check_space(tmp_path, 1, "a byte")
    with pytest.raises(UserError, match=r"expected at least 1,000,000,000,000\.0 MB for everything$"):
        check_space(tmp_path, 10**18, "everything")


def test_what_a_full_disk_makes_of_other_errors(tmp_path: Path) -> None:
    try:
        try:
            raise RuntimeError("[enforce fail at x.cc:664] . PytorchStreamWriter failed writing file data/2")
        except RuntimeError as error:
            raise ValueError("`optimizer` checkpoint must contain pickeable objects only.") from error
    except ValueError as error:
        line = full_disk(error, tmp_path)
    assert line is not None and str(line).startswith(f"{tmp_path}: the disk or its quota is full, found ")
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "metrics.jsonl"))
    assert str(full_disk(full, tmp_path)).startswith(f"{tmp_path / 'metrics.jsonl'}: the disk or its quota is full")
    assert full_disk(OSError(errno.EACCES, "Permission denied"), tmp_path) is None
