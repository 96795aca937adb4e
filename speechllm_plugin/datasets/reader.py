"""Reads batches of clips: in threads ahead of the trainer, exactly resumable, on every number of processes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Literal

import torch
from fairseq2.datasets import DataReader
from fairseq2.device import SupportsDeviceTransfer
from torch import Tensor
from typing_extensions import Self, override

from speechllm_plugin.datasets.audio import SAMPLE_RATE, AudioError, audio_key, duration, read_audio
from speechllm_plugin.datasets.augmentation import Augmentation, AugmentationConfig, augment
from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.datasets.changes import Changes
from speechllm_plugin.datasets.earlier import EarlierError, read_earlier
from speechllm_plugin.datasets.epochs import Epochs
from speechllm_plugin.datasets.lengths import LeftOut, LengthPolicy
from speechllm_plugin.datasets.measured import measure
from speechllm_plugin.datasets.mixture import MixtureConfig
from speechllm_plugin.datasets.plan import Batching, BatchLimits
from speechllm_plugin.datasets.position_counter import PositionCounter
from speechllm_plugin.datasets.row_checks import check_n_frames
from speechllm_plugin.datasets.same_rows import are_new_rows, same_step, without_rows
from speechllm_plugin.datasets.utterances import Clips, Utterance, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.log import is_told, log
from speechllm_plugin.tasks.api import Task, task_of_row


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    limits: BatchLimits
    shuffle_seed: int | None = None
    """None = evaluation: every clip once, nothing shuffled."""
    max_seconds: float | None
    """Longest clip that the encoder takes, in seconds; None = any."""
    lengths: LengthPolicy = field(default_factory=LengthPolicy)
    """Further limits on the length of clips."""
    batching: Batching = "bucketed"
    """How training clips share steps and batches."""
    checks_lengths: bool = True
    """Whether the lengths in the manifest are first compared with some of the files; see `check_n_frames`."""
    on_error: Literal["raise", "skip"] = "raise"
    accept_new_rows: bool = False
    """Whether a checkpoint that was written over other rows may be resumed: it then begins a new epoch."""
    num_accumulate: int = 1
    num_threads: int = 2
    prefetch: int = 4
    """Batches read ahead."""
    pinned: bool = False
    """Whether batches wait in pinned memory, for a CUDA device."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """How training clips are changed."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Shares of several training splits."""
    positions: PositionCounter | None = None
    """Counts the positions of the LLM that a clip takes; for `limits.max_positions`."""
    task_of: Callable[[str, str, str], Task] = task_of_row
    """Gives a clip's task by its languages and the task that its row states."""


class TrainerBatch(SpeechTextBatch, SupportsDeviceTransfer):
    """A batch of the class that fairseq2's trainer expects."""


class SpeechTextReader(DataReader[TrainerBatch]):
    """
    In evaluation a process that has run out of clips repeats one with `counted=False`, so that all processes make the
    same number of steps. In training a broken clip (`on_error="skip"`) is left out of its batch; a batch that loses all
    its clips is replaced by the next one in the plan.
    """

    def __init__(
        self,
        utterances: Utterances,
        options: ReadOptions,
        *,
        rank: int = 0,
        world_size: int = 1,
        find_features: Callable[[str], Tensor | None] = lambda key: None,
    ) -> None:
        """:param find_features: gives cached encoder features of a clip by its key; the clip's audio is then not
        read."""
        self._options = options
        self._policy = replace(options.lengths, window=options.max_seconds)
        self._rank = rank
        self._world_size = world_size
        self._find_features = find_features
        self._counting = Lock()
        self.skipped: dict[str, str] = {}
        """Clips left out: id, or split/id where there are several splits -> reason."""
        self._one_split = len(utterances.by_split) == 1
        self.left_out: Counter[str] = Counter()
        """How many of the skipped clips are too `short`, and how many too `long`."""
        if options.checks_lengths:
            check_n_frames(utterances)
        found, seconds, earlier = measure(utterances, self._policy, self._refuse, options.on_error)
        self.clips = Clips(found, seconds)
        """The clips that are read, with their seconds, in the order of the split."""
        self._policy.tell(self.left_out)
        if not self.clips:
            raise UserError(f"found no usable clip among {len(utterances)}, for instance {self._first_skipped()}")
        self._changes: Changes | None = None
        if options.shuffle_seed is not None:
            self._changes = Changes(options.augmentation, options.max_seconds, found, seconds)
        self._epochs = Epochs(self.clips, earlier, self._changes, options, options.num_accumulate * world_size)
        self._epoch = 0
        self._position = 0
        self._pending: deque[Future[list[TrainerBatch]]] = deque()
        self._executor = ThreadPoolExecutor(options.num_threads, thread_name_prefix="audio")
        self._epochs.plan(self._epoch)

    @property
    def num_steps(self) -> int:
        """Steps in an epoch."""
        return len(self._epochs.steps)

    @property
    def num_clips(self) -> int:
        return len(self.clips)

    @property
    def hours(self) -> float:
        return self._epochs.seconds / 3600

    @property
    def padding(self) -> float:
        """The share of an epoch's audio that is padding."""
        return self._epochs.padding

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that the clips have."""
        return sorted({self._options.task_of(*one).name for one in self.clips.utterances.counts})

    @property
    def shares(self) -> dict[str, tuple[int, int]]:
        """Split -> how many clips it has, and how many of them are in an epoch."""
        return self._epochs.shares

    def longest(self) -> TrainerBatch | None:
        """The longest clip, alone; None where it cannot be read."""
        clip = self._load(int(self.clips.seconds.argmax()), turn=0)
        return None if clip is None else TrainerBatch([clip], counted=False)

    @override
    def __iter__(self) -> Self:
        return self

    @override
    def __next__(self) -> list[TrainerBatch]:
        ahead = max(1, self._options.prefetch // self._options.num_accumulate)
        while len(self._pending) < ahead and self._position + len(self._pending) < len(self._epochs.steps):
            self._pending.append(self._executor.submit(self._load_step, self._position + len(self._pending)))
        if not self._pending:
            raise StopIteration
        batches = self._pending.popleft().result()
        self._position += 1
        return batches

    @override
    def reset(self) -> None:
        self._drop_pending()
        self._epoch += 1
        self._position = 0
        if self._options.shuffle_seed is not None:
            self._epochs.plan(self._epoch)

    @override
    def state_dict(self) -> dict[str, object]:
        return {"epoch": self._epoch, "position": self._position, "plan": self._epochs.fingerprint()}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        found, now = state_dict.get("plan"), self._epochs.fingerprint()
        if not isinstance(found, Mapping) or without_rows(found) != without_rows(now):
            raise UserError(
                f"resume: the checkpoint was written while reading {without_rows(found)}, found {without_rows(now)}; "
                "expected the same manifests, batch settings, seed and batches per step (processes x accumulation)"
                f"{same_step(found, self._world_size, now)}"
            )
        self._drop_pending()
        self._epoch, self._position = int(str(state_dict["epoch"])), int(str(state_dict["position"]))
        if are_new_rows(found, now, accept=self._options.accept_new_rows):
            self._epoch, self._position = self._epoch + 1, 0
        self._epochs.plan(self._epoch)

    @property
    @override
    def num_accumulate(self) -> int:
        return self._options.num_accumulate


    def _drop_pending(self) -> None:
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def _load_step(self, position: int) -> list[TrainerBatch]:
        step = self._epochs.steps[position]
        batches = []
        for i in range(self._options.num_accumulate):
            place = i * self._world_size + self._rank
            # Past the last batch of an evaluation, the last batch is repeated to keep in step with the other processes.
            batch = self._load_batch(position, min(place, len(step) - 1))
            batch.counted = batch.counted and place < len(step)
            batches.append(batch)
        return batches

    def _load_batch(self, position: int, place: int) -> TrainerBatch:
        training = self._options.shuffle_seed is not None
        for number, places in enumerate(self._from(position, place)):
            clips = [clip for place in places if (clip := self._load_drawn(place)) is not None]
            if clips:
                # In an evaluation a batch that stands in for a lost one is counted only at its own place in the plan.
                batch = TrainerBatch(clips, counted=training or number == 0)
                if self._options.pinned:
                    batch.pin()
                return batch
        raise UserError(f"all clips are broken, for instance {self._first_skipped()}")

    def _from(self, position: int, place: int) -> Iterator[list[int]]:
        """The planned batch, then all batches that follow it, back to the one before it."""
        yield self._epochs.steps[position][place]
        yield from self._epochs.steps[position][place + 1 :]
        for other in [*range(position + 1, len(self._epochs.steps)), *range(position)]:
            yield from self._epochs.steps[other]

    def _load_drawn(self, place: int) -> Clip | None:
        draws = self._epochs.draws
        return self._load(int(draws.indices[place]), int(draws.turns[place]))

    def _load(self, index: int, turn: int) -> Clip | None:
        """:param turn: how often the clip has been read before; it decides the augmentation."""
        utterance, _ = self.clips[index]
        if self._key(utterance) in self.skipped:
            return None
        try:
            source = utterance.source()
            changes = None if self._changes is None else self._changes.of(utterance, index, turn)
            policy = self._policy
            cut = policy.samples(duration(source)) if policy.too_long == "cut" else None
            changed = [f"cut {cut}"] if cut is not None else []
            key = " ".join([audio_key(source), *changed, *([] if changes is None else [changes.key])])
            if (features := self._find_features(key)) is not None:
                seconds = policy.used(duration(source))
                return self._clip(utterance, index, turn, changes, key, seconds, features=features)
            samples = read_audio(source, check=policy.used)
            # The length is checked again: a container may only estimate it.
            samples = samples[: policy.samples(len(samples) / SAMPLE_RATE)]
            seconds = len(samples) / SAMPLE_RATE
            if changes is not None:
                samples = augment(samples, changes)
            return self._clip(utterance, index, turn, changes, key, seconds, waveform=torch.from_numpy(samples))
        except AudioError as error:
            self._refuse(utterance, error)
            return None

    def _refuse(self, utterance: Utterance, error: UserError) -> None:
        if isinstance(error, LeftOut):
            with self._counting:
                self.skipped[self._key(utterance)] = str(error)
                self.left_out[error.reason] += 1
            return
        column = "history" if isinstance(error, EarlierError) else "audio"
        if self._options.on_error == "raise":
            raise UserError(f"{utterance.name}, column {column!r}: {error}") from error
        key = self._key(utterance)
        with self._counting:
            is_new = key not in self.skipped  # a clip may stand in for others, too, and be read twice
            self.skipped[key] = str(error)
            number = len(self.skipped) - self.left_out.total()
            if is_new and is_told(number):  # under the lock, so that the lines come in the order of their numbers
                log.warning("Clip left out (number {:,}): {}, column {!r}: {}", number, utterance.name, column, error)

    def _key(self, utterance: Utterance) -> str:
        return utterance.row.id if self._one_split else f"{utterance.split}/{utterance.row.id}"

    def _first_skipped(self) -> str:
        return "{}: {}".format(*next(iter(self.skipped.items())))

    def _clip(
        self,
        utterance: Utterance,
        index: int,
        turn: int,
        changes: Augmentation | None,
        key: str,
        seconds: float,
        *,
        waveform: Tensor | None = None,
        features: Tensor | None = None,
    ) -> Clip:
        """:param seconds: length of the audio as it is in its file."""
        row, source_lang, target_lang = utterance.row, utterance.source_lang, utterance.target_lang
        masks = None if self._changes is None else self._changes.masks(row.id, turn)
        clip = Clip(
            id=row.id,
            row=index,
            task=self._options.task_of(source_lang, target_lang, row.task),
            source_lang=source_lang,
            target_lang=target_lang,
            text=row.tgt_text,
            transcript=row.src_text,
            references=row.references,
            asks=row.asks,
            draw=row.id,
            audio=row.audio,
            audio_key=key,
            seconds=seconds if changes is None else changes.seconds(seconds),
            waveform=waveform,
            features=features,
            masks=masks,
        )
        clip.earlier = read_earlier(
            clip, utterance.root, self._policy.window,
            scales_floats=utterance.scales_floats, find_features=self._find_features,
        )  # fmt: skip
        return clip
