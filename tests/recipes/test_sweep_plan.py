"""Files of sweeps: how the grid is composed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import speechllm_recipes
from speechllm_recipes.given_keys import given_keys
from speechllm_recipes.sweep.cells import CellFolder
from speechllm_recipes.sweep.sweep_file import Cell, read_sweep

from speechllm_plugin.errors import UserError

SWEEPS = Path(speechllm_recipes.__file__).parent / "configs" / "sweeps"


def sweep(folder: Path, text: str) -> list[Cell]:
    file = folder / "sweep.yaml"
    file.write_text(text)
    return read_sweep(file)


def keys(cell: Cell) -> dict[str, Any]:
    assert cell.train is not None
    return dict(given_keys(cell.train))


def test_cells_are_the_product_of_the_axes(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("regime: {num_steps: 5}\noptimizer.config.lr: 0.1\n")
    (tmp_path / "small.yaml").write_text("model.config_overrides.frame_stack: 4\n")
    cells = sweep(tmp_path, """
base: base.yaml
axes:
  adapter: [base, cif]
  seed: {seed1: {common.seed: 1}, seed2: {common: {seed: 2}, optimizer.config.lr: 0.2}}
  size: {small: small.yaml}
evaluate: {dataset: {splits: [test]}}
step: best
""")
    assert " ".join(cell.name for cell in cells) == "base.seed1.small base.seed2.small cif.seed1.small cif.seed2.small"
    first, last = keys(cells[0]), keys(cells[-1])
    assert first["regime.num_steps"] == 5 and first["model.config_overrides.adapter.name"] == "base"
    assert (first["optimizer.config.lr"], last["optimizer.config.lr"]) == (0.1, 0.2)  # an axis is over the base
    assert last["model.config_overrides.ctc.weight"] == 0.1 and last["common.seed"] == 2
    assert all(cell.evaluate == {"dataset": {"splits": ["test"]}} and cell.step == "best" for cell in cells)


def test_an_evaluation_reads_the_data_of_the_training(tmp_path: Path) -> None:
    (cell,) = sweep(tmp_path, """
base: {dataset: {feature_cache: f, batch_size: 3, config_overrides: {manifests: {train: a, test: b}}}}
axes: {adapter: [mlp]}
evaluate: {dataset: {splits: test}}
""")
    assert cell.evaluate == {"dataset": {
        "feature_cache": "f", "config_overrides": {"manifests": {"train": "a", "test": "b"}}, "splits": "test"}}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("axes: {}", "axes: found {}, expected a mapping of axes to their values"),
        ("axis: {}", "axis: found an unknown key, expected base, axes, evaluate, step, cascade"),
        ("axes: {adapter: [bass]}", "axes.adapter: found 'bass', expected one of base, cif, conv, ctc, mlp, subsample, "
         "wlq_former"),
        ("axes: {adapter: [mlp, mlp]}", "axes.adapter: found mlp, mlp, expected each name once"),
        ("axes: {seed: [1, 2]}", "axes.seed: found '1', expected a mapping of names to keys: it has no files"),
        ("axes: {seed: 3}", "axes.seed: found 3, expected a list of names or a mapping of names to keys"),
        ("axes: {seed: {a/b: {}}}", "axes.seed: found 'a/b', expected a name that a directory can have"),
        ("axes: {seed: {a: 3}}", "axes.seed.a: found 3, expected a mapping of keys or the name of a file"),
        ("axes: {one: {a: {x.y: 1}}, two: {b: {x: {y: 2}}}}",
         "axes: found 'x.y' set by one and 'x.y' by two, expected each key in one axis"),
        ("axes: {one: {a: {x.y: 1}}, two: {b: {x.y.z: 2}}}",
         "axes: found 'x.y' set by one and 'x.y.z' by two, expected each key in one axis"),
        ("axes: {one: {a: {xy: 1}, b: {}}, two: {b: {x: 2}}}", ""),
    ],
)  # fmt: skip
def test_mistakes_name_file_and_key(tmp_path: Path, text: str, error: str) -> None:
    if not error:
        assert len(sweep(tmp_path, text)) == 2
        return
    with pytest.raises(UserError) as caught:
        sweep(tmp_path, text)
    assert str(caught.value) == f"{tmp_path}/sweep.yaml, {error}"


@pytest.mark.parametrize(
    ("name", "count"),
    [("verdini20", 20), ("verdini20-authors", 20), ("slm", 15), ("demo-adapters", 9), ("embedded", 14)],
)
def test_the_sweeps_that_come_with_the_recipe(name: str, count: int) -> None:
    cells = read_sweep(SWEEPS / f"{name}.yaml")
    assert len({cell.name for cell in cells}) == count
    assert all(cell.evaluate is not None for cell in cells)
    assert all(cell.train is None or len(cell.name.split(".")) >= 3 for cell in cells)


def test_the_authors_sweep_is_the_papers_with_their_settings() -> None:
    paper, authors = ({cell.name: keys(cell) for cell in read_sweep(SWEEPS / f"{name}.yaml")}
                      for name in ("verdini20", "verdini20-authors"))  # fmt: skip
    assert paper["whisper_large_v3.llama31_8b.ctc"]["model.arch"] == "whisper_large_v3.llama31_8b.ctc"
    theirs = authors["seamless_m4t_v2.mistral_7b.ctc_authors"]
    assert theirs["model.arch"] == "seamless_m4t_v2.mistral_7b.ctc_authors"
    assert theirs["optimizer.config.weight_decay"] == 0 and theirs["common.seed"] == 42
    shared = paper["seamless_m4t_v2.mistral_7b.ctc"]
    assert all(theirs[key] == value for key, value in shared.items()
               if key.startswith(("dataset.", "regime.", "lr_scheduler.")))  # fmt: skip


def test_a_cell_that_was_begun_otherwise_is_refused(tmp_path: Path) -> None:
    (cell,) = sweep(tmp_path, "axes: {seed: {a: {common.seed: 1}}}")
    (other,) = sweep(tmp_path, "axes: {seed: {a: {common.seed: 2}}}")
    CellFolder(other, tmp_path / "a").write_configuration()
    CellFolder(cell, tmp_path / "a").write_configuration()  # nothing has been trained yet
    CellFolder(cell, tmp_path / "a").log.touch()
    CellFolder(cell, tmp_path / "a").write_configuration()
    with pytest.raises(UserError, match="the cell was begun with common.seed = 1, found 2; expected the same"):
        CellFolder(other, tmp_path / "a").write_configuration()
