"""Speech in earlier turns: found from the manifest's place, checked before the first step, cached like any clip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
import torch
from torch import Tensor

from speechllm_plugin.datasets.earlier import earlier_seconds
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError


def write(folder: Path, *audio: str) -> Path:
    """Two rows: one that asks nothing, one with these files in its earlier turns."""
    turns = [turn for name in audio for turn in ({"role": "user", "audio": name},
                                                 {"role": "assistant", "content": "yes"})]  # fmt: skip
    rows = ["a\ta.wav\tone\t", f"b\ta.wav\ttwo\t{json.dumps(turns)}"]
    (folder / "m.tsv").write_text("\n".join(["id\taudio\ttgt_text\thistory", *rows]) + "\n")
    return folder / "m.tsv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "before").mkdir()
    soundfile.write(tmp_path / "a.wav", 0.1 * torch.ones(8000).numpy(), 16000)
    soundfile.write(tmp_path / "before/b.wav", 0.2 * torch.ones(32000).numpy(), 16000)
    return tmp_path


def read(manifest: Path, find: dict[str, Tensor] | None = None, **options: object) -> SpeechTextReader:
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    values = {"limits": BatchLimits(4, None), "shuffle_seed": None, "max_seconds": 5.0, **options}
    return SpeechTextReader(utterances, ReadOptions(**values), find_features=(find or {}).get)


def test_they_are_read_from_the_manifests_place(folder: Path) -> None:
    ((batch,),) = read(write(folder, "before/b.wav", "before/b.wav:1600:8000"))
    first, second = sorted(batch, key=lambda clip: clip.id)
    assert not first.earlier and [one.seconds for one in second.earlier] == [2.0, 0.5]
    assert [one.audio for one in second.earlier] == ["before/b.wav", "before/b.wav:1600:8000"]
    waveform = second.earlier[0].waveform
    assert waveform is not None and float(waveform.max()) == pytest.approx(0.2, 0.01)
    assert sorted(batch.all_seconds) == [0.5, 3.0]
    # What the cache has is not read.
    known = {second.earlier[0].audio_key: torch.ones(3, 2)}
    ((again,),) = read(folder / "m.tsv", known)
    cached = next(clip for clip in again if clip.earlier).earlier[0]
    assert cached.waveform is None and cached.features is known[cached.audio_key] and cached.seconds == 2.0


def test_they_count_as_audio_of_their_batch(folder: Path) -> None:
    """Of three sounds of up to 2 s, six seconds with their padding."""
    manifest = write(folder, "before/b.wav", "before/b.wav:1600:8000")
    for limit, batches in ((6.0, 2), (8.0, 1)):
        reader = read(manifest, limits=BatchLimits(4, limit))
        assert sum(len(step) for step in reader) == batches
    assert reader.padding == pytest.approx(1 - (0.5 + 0.5 + 2.0 + 0.5) / 8.0)
    # Other files under their names are other rows to a run that goes on.
    state = reader.state_dict()
    soundfile.write(folder / "before/b.wav", 0.2 * torch.ones(16000).numpy(), 16000)
    with pytest.raises(UserError, match="expected the same manifests"):
        read(manifest, limits=BatchLimits(4, 8.0)).load_state_dict(state)


@pytest.mark.parametrize(
    ("audio", "expected"),
    [("gone.wav", "gone.wav"), ("m.tsv", "m.tsv"), ("before/b.wav:31000:8000", "31000"), ("long.wav", "6.00 s")],
)
def test_what_cannot_be_used_is_named_before_the_first_batch(folder: Path, audio: str, expected: str) -> None:
    soundfile.write(folder / "long.wav", torch.zeros(96000).numpy(), 16000)
    manifest = write(folder, audio)
    with pytest.raises(UserError) as caught:
        read(manifest)
    assert str(caught.value).startswith(f"{manifest}, line 3, id b, column 'history': ")
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    reader = read(manifest, on_error="skip")
    assert list(reader.skipped) == ["b"] and reader.num_clips == 1


def test_a_damaged_one_is_named_when_its_turn_comes(folder: Path) -> None:
    manifest = write(folder, "before/c.flac")
    soundfile.write(folder / "before/c.flac", torch.rand(16000).numpy() - 0.5, 16000)
    whole = (folder / "before/c.flac").read_bytes()
    (folder / "before/c.flac").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"line 3, id b, column 'history': "):
        next(read(manifest))
    shutil.copy(folder / "a.wav", folder / "before/c.flac")
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")
    assert utterances.hearing.tolist() == [1] and earlier_seconds(utterances[1]) == [0.5]
