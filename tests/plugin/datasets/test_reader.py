"""The reader: the plan as batches of real audio, on any number of processes, resumed to the clip."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from speechllm_plugin.datasets.audio import read_audio, resolve
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.lengths import LengthPolicy
from speechllm_plugin.datasets.manifest import ManifestRow, write_manifest
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.datasets.utterances import Utterances
from speechllm_plugin.errors import UserError

SIZE = 11


def row_of(identity: str, audio: str, **values: Any) -> ManifestRow:
    fields = {"n_frames": None, "tgt_text": f"text of {identity}", "src_text": "", "speaker": "", "src_lang": "",
              "tgt_lang": "", "line": 0, **values}
    return ManifestRow(id=identity, audio=audio, **fields)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven clips whose samples say which they are."""
    root = tmp_path_factory.mktemp("reader")
    rows = []
    for i in range(SIZE):
        soundfile.write(root / f"{i}.wav", np.full(800 + 160 * ((5 * i) % 11), (i + 1) / 100), 16000)
        rows.append(row_of(str(i), f"{i}.wav"))
    write_manifest(root / "all.tsv", rows)
    return root


def utterances_of(manifest: Path) -> Utterances:
    return SpeechTextDataset(SpeechTextConfig(manifests={"all": str(manifest)})).read("all")


def options(seed: int | None = 3, **values: Any) -> ReadOptions:
    limits = BatchLimits(values.pop("batch_size", 2), values.pop("max_batch_seconds", None))
    return ReadOptions(limits=limits, shuffle_seed=seed, **{"max_seconds": 30.0, **values})


def epoch(reader: SpeechTextReader) -> list[list[SpeechTextBatch]]:
    steps = list(reader)
    reader.reset()
    return steps


def ids(steps: list[list[SpeechTextBatch]]) -> list[list[tuple[str, ...]]]:
    return [[tuple(batch.ids) for batch in step] for step in steps]


def test_a_batch_says_all_about_its_clips(tiny_manifest: Path) -> None:
    utterances = utterances_of(tiny_manifest / "test.tsv")
    batches = [batch for step in epoch(SpeechTextReader(utterances, options(None, batch_size=4))) for batch in step]
    seen = []
    for batch in batches:
        for i, row in enumerate(batch.rows):
            utterance = utterances[row]
            expected = read_audio(resolve(utterance.row.audio, tiny_manifest))
            waveform = batch.waveforms[i]
            assert waveform is not None and np.array_equal(waveform.numpy(), expected)
            assert waveform.dtype == torch.float32
            assert batch.seconds[i] == len(expected) / 16000
            assert batch.ids[i] == utterance.row.id
            assert batch.texts[i] == utterance.row.tgt_text
            assert batch.clips[i].audio == utterance.row.audio
            assert (batch.clips[i].source_lang, batch.clips[i].target_lang) == ("en", "de" if row >= 4 else "en")
            assert batch.features[i] is None
            seen.append(row)
    assert sorted(seen) == list(range(6))
    assert len({clip.audio_key for batch in batches for clip in batch}) == 6


def test_languages_of_rows_and_of_the_dataset(corpus: Path) -> None:
    def languages(**values: str) -> set[tuple[str, str]]:
        config = SpeechTextConfig(manifests={"all": str(corpus / "all.tsv")}, **values)  # type: ignore[arg-type]
        return {(utterance.source_lang, utterance.target_lang) for utterance in SpeechTextDataset(config).read("all")}

    assert languages() == {("en", "en")}
    assert languages(source_lang="fr") == {("fr", "fr")}
    assert languages(source_lang="fr", target_lang="de") == {("fr", "de")}


def test_several_manifests_are_read_as_one(tiny_manifest: Path, tmp_path: Path) -> None:
    files = [str(tiny_manifest / "train.tsv"), str(tiny_manifest / "dev.tsv")]
    dataset = SpeechTextDataset(SpeechTextConfig(manifests={"all": files, "twice": [files[0], files[0]]}))
    assert len(dataset.read("all")) == 16
    with pytest.raises(UserError, match=r"train.tsv, line 2, id train_0: repeated id, first in .*train.tsv, line 2"):
        dataset.read("twice")
    with pytest.raises(UserError, match="no manifest for split 'dev', found all, twice"):
        dataset.read("dev")


def test_an_epoch_has_every_clip_and_the_next_another_mix(corpus: Path) -> None:
    reader = SpeechTextReader(utterances_of(corpus / "all.tsv"), options())
    first, second = epoch(reader), epoch(reader)
    for steps in (first, second):
        assert len(steps) == reader.num_steps == 6
        seen = Counter(clip for step in ids(steps) for batch in step for clip in batch)
        assert seen == Counter(map(str, range(SIZE)))
    assert ids(first) != ids(second)
    again = SpeechTextReader(utterances_of(corpus / "all.tsv"), options(num_threads=1, prefetch=1))
    assert [ids(epoch(again)), ids(epoch(again))] == [ids(first), ids(second)]


@pytest.mark.parametrize("seed", [3, None], ids=["training", "evaluation"])
def test_the_batches_of_a_step_do_not_depend_on_who_reads_them(corpus: Path, seed: int | None) -> None:
    """Four batches a step: accumulated by one process, two by each of two, or one by each of four."""
    utterances = utterances_of(corpus / "all.tsv")

    def steps_of(world_size: int) -> list[list[tuple[str, ...]]]:
        each = [
            epoch(SpeechTextReader(utterances, options(seed, num_accumulate=4 // world_size), rank=rank,
                                   world_size=world_size))
            for rank in range(world_size)
        ]
        assert len({len(steps) for steps in each}) == 1
        return [
            sorted(tuple(batch.ids) for step in same for batch in step if batch.counted)
            for same in zip(*each, strict=True)
        ]

    expected = steps_of(1)
    assert steps_of(2) == steps_of(4) == expected
    assert {clip for step in expected for batch in step for clip in batch} == set(map(str, range(SIZE)))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
def test_an_evaluation_counts_every_clip_once(corpus: Path, world_size: int) -> None:
    """Six batches: for seven processes there is not even one each, and still all make the same steps."""
    utterances = utterances_of(corpus / "all.tsv")
    each = [
        epoch(SpeechTextReader(utterances, options(None), rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert {len(steps) for steps in each} == {-(-6 // world_size)}
    batches = [batch for steps in each for step in steps for batch in step]
    assert sorted(row for batch in batches if batch.counted for row in batch.rows) == list(range(SIZE))
    assert sum(not batch.counted for batch in batches) == -6 % world_size
    # An evaluation is the same every time.
    reader = SpeechTextReader(utterances, options(None))
    assert ids(epoch(reader)) == ids(epoch(reader))


@pytest.mark.parametrize("prefetch", [1, 4])
@pytest.mark.parametrize("taken", [0, 1, 4, 6, 8])
def test_resuming_goes_on_where_it_stopped(corpus: Path, prefetch: int, taken: int) -> None:
    """Through the end of an epoch too; what was read ahead is neither lost nor seen twice."""
    utterances = utterances_of(corpus / "all.tsv")

    def forever(reader: SpeechTextReader) -> Iterator[list[tuple[str, ...]]]:
        while True:
            for step in reader:
                yield [tuple(batch.ids) for batch in step]
            reader.reset()

    whole = SpeechTextReader(utterances, options(prefetch=prefetch))
    stream = forever(whole)
    for _ in range(taken):
        next(stream)
    state = whole.state_dict()
    expected = [next(stream) for _ in range(9)]

    resumed = SpeechTextReader(utterances, options(prefetch=prefetch))
    next(iter(resumed))  # a reader that has already read ahead
    resumed.load_state_dict(state)
    stream = forever(resumed)
    assert [next(stream) for _ in range(9)] == expected


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"batch_size": 3}, id="batch size"),
        pytest.param({"max_batch_seconds": 0.2}, id="batch seconds"),
        pytest.param({"seed": 4}, id="seed"),
        pytest.param({"num_accumulate": 2}, id="accumulation"),
        pytest.param({"batching": "random"}, id="batching"),
        pytest.param({"batching": "bucketed_steps"}, id="batching as in earlier versions"),
    ],
)
def test_a_changed_plan_is_not_resumed(corpus: Path, changed: dict[str, Any]) -> None:
    utterances = utterances_of(corpus / "all.tsv")
    state = SpeechTextReader(utterances, options()).state_dict()
    SpeechTextReader(utterances, options(prefetch=1, num_threads=1)).load_state_dict(state)  # changes no plan
    readers = [
        SpeechTextReader(utterances, options(**changed)),
        SpeechTextReader(utterances, options(), world_size=2),
    ]
    for reader in readers:
        with pytest.raises(UserError, match="^resume: .* expected the same manifests, batch settings, seed"):
            reader.load_state_dict(state)
    # As many processes as there were accumulated batches is no change.
    accumulated = SpeechTextReader(utterances, options(num_accumulate=2)).state_dict()
    readers[1].load_state_dict(accumulated)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_other_processes_resume_where_four_batches_a_step_are_left(corpus: Path, processes: int) -> None:
    """Two of them, in two threads, have made three steps: what others read next is what they would have read."""
    utterances = utterances_of(corpus / "all.tsv")

    def readers(number: int, **values: Any) -> list[SpeechTextReader]:
        taken = options(batch_size=1, num_accumulate=4 // number, **values)
        return [SpeechTextReader(utterances, taken, rank=rank, world_size=number) for rank in range(number)]

    def following(each: list[SpeechTextReader]) -> list[list[str]]:
        steps = []
        for _ in range(4):
            step = [batch for reader in each for batch in next(reader, [])]
            if not step:
                for reader in each:
                    reader.reset()
            steps.append(sorted(identity for batch in step for identity in batch.ids))
        return steps

    before = readers(2)
    for reader in before:
        next(reader)
    state = before[1].state_dict()
    expected = following(before)
    after = readers(processes, num_threads=1, prefetch=1)
    for reader in after:
        reader.load_state_dict(state)
    assert following(after) == expected
    other = SpeechTextReader(utterances, options(batch_size=1), rank=0, world_size=processes)
    if processes < 4:
        with pytest.raises(UserError, match=f"with {processes} processes .*num_batches={4 // processes}$"):
            other.load_state_dict(state)


BROKEN = ["missing", "text", "empty", "long", "cut"]


@pytest.fixture(scope="module")
def broken(corpus: Path) -> dict[str, ManifestRow]:
    """A row for each way that a clip can be unusable, beside the whole ones."""
    (corpus / "text.wav").write_text("no sound at all\n")
    soundfile.write(corpus / "empty.wav", np.zeros(0), 16000)
    soundfile.write(corpus / "long.wav", np.zeros(30 * 16000 + 160), 16000)
    soundfile.write(corpus / "cut.flac", np.random.default_rng(0).uniform(-0.5, 0.5, 16000), 16000)
    data = (corpus / "cut.flac").read_bytes()
    (corpus / "cut.flac").write_bytes(data[: len(data) // 2])
    return {name: row_of(name, f"{name}.{'flac' if name == 'cut' else 'wav'}") for name in BROKEN}


def with_rows(corpus: Path, whole: int, rows: list[ManifestRow], tmp_path: Path) -> Utterances:
    path = tmp_path / "mixed.tsv"
    write_manifest(path, [*[row_of(str(i), f"{i}.wav") for i in range(whole)], *rows])
    config = SpeechTextConfig(manifests={"all": str(path)}, audio_root=str(corpus))
    return SpeechTextDataset(config).read("all")


@pytest.mark.parametrize("measured", [False, True], ids=["by its header", "when it is read"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_clip_stops_the_run_or_is_left_out(
    corpus: Path, broken: dict[str, ManifestRow], name: str, measured: bool, tmp_path: Path
) -> None:
    """`n_frames` in the manifest puts the discovery off until the clip is read, but for a file that is missing."""
    row = dataclasses.replace(broken[name], n_frames=10 if measured else None)
    utterances = with_rows(corpus, 3, [row], tmp_path)
    with pytest.raises(UserError) as caught:
        reader = SpeechTextReader(utterances, options())
        assert name != "missing", "found late"
        epoch(reader)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mixed.tsv'}, line 5, id {name}, column 'audio': ")
    assert "expected" in message and "\n" not in message

    reader = SpeechTextReader(utterances, options(on_error="skip"))
    for _ in range(2):
        assert {clip for step in ids(epoch(reader)) for batch in step for clip in batch} == {"0", "1", "2"}
        assert list(reader.skipped) == [name]
    assert message.endswith(reader.skipped[name])


def test_of_many_broken_clips_the_first_are_told_and_how_many_there_are(
    corpus: Path, broken: dict[str, ManifestRow], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [dataclasses.replace(broken["text"], id=f"b{number}", n_frames=10) for number in range(25)]
    reader = SpeechTextReader(with_rows(corpus, 3, rows, tmp_path), options(on_error="skip"))
    epoch(reader)
    told = [line for line in caplog.messages if line.startswith("Clip left out (number ")]
    assert [int(line.split()[4].rstrip("):")) for line in told] == [1, 2, 3, 4, 5, 10, 20]
    assert len(reader.skipped) == 25 and "column 'audio'" in told[-1]


def test_a_batch_that_loses_all_its_clips(
    corpus: Path, broken: dict[str, ManifestRow], tmp_path: Path
) -> None:
    rows = [dataclasses.replace(broken[name], n_frames=10) for name in ("empty", "text")]
    utterances = with_rows(corpus, 3, rows, tmp_path)
    reader = SpeechTextReader(utterances, options(on_error="skip", batch_size=1))
    steps = epoch(reader)
    # Every step has its batch still, and the whole clips are all there.
    assert len(steps) == reader.num_steps == 5
    assert {clip for step in ids(steps) for batch in step for clip in batch} == {"0", "1", "2"}
    assert all(batch.counted for step in steps for batch in step)

    reader = SpeechTextReader(utterances, options(None, on_error="skip", batch_size=1))
    batches = [batch for step in epoch(reader) for batch in step]
    assert len(batches) == 5
    assert sorted(batch.ids[0] for batch in batches if batch.counted) == ["0", "1", "2"], "a stand-in was counted"
    assert sorted(reader.skipped) == ["empty", "text"]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("measured", [False, True], ids=["by its header", "when it is read"])
def test_all_clips_broken(
    corpus: Path, broken: dict[str, ManifestRow], on_error: Any, measured: bool, tmp_path: Path
) -> None:
    # A header does not show that a file is cut.
    names = BROKEN if measured else BROKEN[:-1]
    rows = [dataclasses.replace(broken[name], n_frames=10 if measured else None) for name in names]
    utterances = with_rows(corpus, 0, rows, tmp_path)
    with pytest.raises(UserError) as caught:
        epoch(SpeechTextReader(utterances, options(on_error=on_error)))
    message = str(caught.value)
    assert "\n" not in message
    if on_error == "skip":
        expected = "all clips are broken, for instance " if measured else "found no usable clip among 4, for instance "
        assert message.startswith(expected)


def lengths(reader: SpeechTextReader) -> dict[str, float]:
    return {
        identity: seconds
        for step in epoch(reader)
        for batch in step
        for identity, seconds in zip(batch.ids, batch.seconds, strict=True)
    }


@pytest.mark.parametrize("stated", [True, False], ids=["by the manifest", "by the header"])
def test_clips_that_are_too_short_or_too_long_are_left_out_by_choice(
    corpus: Path, caplog: pytest.LogCaptureFixture, stated: bool, tmp_path: Path
) -> None:
    """The clips of `corpus` last from 0.05 to 0.15 s."""
    rows = [row_of(str(i), f"{i}.wav", n_frames=4 + (5 * i) % 11 if stated else None) for i in range(SIZE)]
    utterances = with_rows(corpus, 0, rows, tmp_path)
    everything = lengths(SpeechTextReader(utterances, options()))
    assert min(everything.values()) == 0.05 and max(everything.values()) == 0.15 and len(everything) == SIZE
    policy = LengthPolicy(min_seconds=0.0749, max_seconds=0.1251, too_long="skip")
    reader = SpeechTextReader(utterances, options(lengths=policy))
    assert lengths(reader) == {name: value for name, value in everything.items() if 0.0749 < value < 0.1251}
    assert reader.left_out == {"short": 3, "long": 3} and len(reader.skipped) == 6
    if not stated:
        line = "6 clips are left out: 3 shorter than 0.0749 s (dataset.min_seconds), 3 longer than 0.1251 s"
        assert line in caplog.text


def test_a_clip_that_is_cut(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    utterances = utterances_of(corpus / "all.tsv")
    reader = SpeechTextReader(utterances, options(lengths=LengthPolicy(max_seconds=0.1, too_long="cut"), batch_size=1))
    batches = {batch.ids[0]: batch for step in epoch(reader) for batch in step}
    uncut = epoch(SpeechTextReader(utterances, options(batch_size=1)))
    whole = {batch.ids[0]: batch for step in uncut for batch in step}
    assert len(batches) == SIZE and max(seconds for _, seconds in reader.clips) == 0.1
    for identity, batch in batches.items():
        waveform, expected = batch.waveforms[0], whole[identity].waveforms[0]
        assert waveform is not None and expected is not None
        assert torch.equal(waveform, expected[:1600])
        # Features of a part are not those of the whole.
        assert (batch.clips[0].audio_key == whole[identity].clips[0].audio_key) == (len(expected) <= 1600)
    assert "5 clips are cut to 0.1 s (dataset.too_long=cut), and their texts are not." in caplog.text


def test_a_manifest_that_understates_a_clip_cuts_nothing(
    corpus: Path, broken: dict[str, ManifestRow], tmp_path: Path
) -> None:
    utterances = with_rows(corpus, 1, [dataclasses.replace(broken["long"], n_frames=10)], tmp_path)
    with pytest.raises(UserError, match=r"id long, column 'audio': the audio lasts 30\.01 s, expected at most 30 s"):
        epoch(SpeechTextReader(utterances, options(batch_size=1)))
