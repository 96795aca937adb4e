"""Reads batches of clips: in threads ahead of the trainer, exactly resumable, on every number of processes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
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
from speechllm_plugin.datasets.lengths import LeftOut, LengthPolicy
from speechllm_plugin.datasets.measured import measure
from speechllm_plugin.datasets.mixture import Draws, MixtureConfig, draw_epoch
from speechllm_plugin.datasets.plan import Batching, BatchLimits, Sizes, evaluation_steps, padding, training_steps
from speechllm_plugin.datasets.position_counter import PositionCounter
from speechllm_plugin.datasets.row_checks import check_n_frames
from speechllm_plugin.datasets.same_rows import are_new_rows, row_digests, same_step, without_rows
from speechllm_plugin.datasets.steps import Steps
from speechllm_plugin.datasets.utterances import Clips, Utterance, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.columns.fields import Places
from speechllm_plugin.log import is_told, log
from speechllm_plugin.tasks.api import Task, task_of_row


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    limits: BatchLimits
    shuffle_seed: int | None
    """None = evaluation: every clip once, nothing shuffled."""
    max_seconds: float | None
    """Longest clip that the encoder takes."""
    lengths: LengthPolicy = field(default_factory=LengthPolicy)
    """Which clips are too short or too long beside that."""
    batching: Batching = "bucketed"
    """Of training clips."""
    checks_lengths: bool = True
    """Whether the lengths that rows state are compared with some of the files first; see `check_n_frames`."""
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
    """Of training clips."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Of training clips."""
    positions: PositionCounter | None = None
    """Counts the positions of the LLM that a clip takes; for `limits.max_positions`."""
    task_of: Callable[[str, str, str], Task] = task_of_row
    """What is asked of a clip, by its languages and by what its row states."""


class TrainerBatch(SpeechTextBatch, SupportsDeviceTransfer):
    """A batch of the class that fairseq2's trainer asks for."""


class SpeechTextReader(DataReader[TrainerBatch]):
    """
    In evaluation a process that has run out of clips repeats one with `counted=False`, so that all make the same
    number of steps. In training a broken clip (`on_error="skip"`) leaves its batch; a batch that loses all its clips
    is replaced by the next one in the plan.
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
        """:param find_features: gives the encoder features of a clip by its key, and its audio is not read."""
        self._options = options
        self._policy = replace(options.lengths, window=options.max_seconds)
        self._rank = rank
        self._world_size = world_size
        self._find_features = find_features
        self.skipped: dict[str, str] = {}
        """Clips left out: id, or split/id where there are several splits -> reason."""
        self._one_split = len(utterances.by_split) == 1
        self.left_out: Counter[str] = Counter()
        """How many of them are too `short`, and how many too `long`."""
        if options.checks_lengths:
            check_n_frames(utterances)
        self._utterances, self._seconds = measure(utterances, self._policy, self._refuse, options.on_error)
        self._tell_left_out()
        if not self._utterances:
            raise UserError(f"found no usable clip among {len(utterances)}, for instance {self._first_skipped()}")
        self._changes: Changes | None = None
        if options.shuffle_seed is not None:
            self._changes = Changes(options.augmentation, options.max_seconds, self._utterances, self._seconds)
        self._quotas = options.mixture.quotas({split: len(own) for split, own in self._by_split.items()})
        self._epoch = 0
        self._position = 0
        self._draws = Draws(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
        self._steps = Steps()
        """Of places among the draws of the epoch."""
        self._pending: deque[Future[list[TrainerBatch]]] = deque()
        self._executor = ThreadPoolExecutor(options.num_threads, thread_name_prefix="audio")
        self._plan_epoch()

    @property
    def num_steps(self) -> int:
        """Steps in an epoch."""
        return len(self._steps)

    @property
    def num_clips(self) -> int:
        return len(self._utterances)

    @property
    def clips(self) -> Clips:
        """What is read, with its seconds, in the order of the split."""
        return Clips(self._utterances, self._seconds)

    @property
    def hours(self) -> float:
        return self._all_seconds / 3600

    @property
    def _all_seconds(self) -> float:
        return float(sum(memoryview(self._seconds)))  # type: ignore[arg-type]

    @property
    def padding(self) -> float:
        """The share of an epoch's audio that is padding."""
        return padding(self._steps, self._sizes())

    @property
    def tasks(self) -> list[str]:
        """The names of those that the clips have."""
        return sorted({self._options.task_of(*one).name for one in self._utterances.counts})

    @property
    def shares(self) -> dict[str, tuple[int, int]]:
        """Split -> how many clips it has, and how many of them are in an epoch."""
        return {split: (len(own), self._quotas[split]) for split, own in self._by_split.items()}

    def longest(self) -> TrainerBatch | None:
        """The longest clip, alone; None where it cannot be read."""
        clip = self._load(int(self._seconds.argmax()), turn=0)
        return None if clip is None else TrainerBatch([clip], counted=False)

    @override
    def __iter__(self) -> Self:
        return self

    @override
    def __next__(self) -> list[TrainerBatch]:
        ahead = max(1, self._options.prefetch // self._options.num_accumulate)
        while len(self._pending) < ahead and self._position + len(self._pending) < len(self._steps):
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
            self._plan_epoch()

    @override
    def state_dict(self) -> dict[str, object]:
        return {"epoch": self._epoch, "position": self._position, "plan": self._fingerprint()}

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        found, now = state_dict.get("plan"), self._fingerprint()
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
        self._plan_epoch()

    @property
    @override
    def num_accumulate(self) -> int:
        return self._options.num_accumulate

    def _tell_left_out(self) -> None:
        policy = self._policy
        if self.left_out:
            log.warning(
                "{:,} clips are left out: {:,} shorter than {:g} s (dataset.min_seconds), {:,} longer than {} s "
                "(dataset.too_long=skip).", self.left_out.total(), self.left_out["short"], policy.min_seconds,
                self.left_out["long"], policy.longest,
            )  # fmt: skip

    def _plan_epoch(self) -> None:
        options = self._options
        per_step = options.num_accumulate * self._world_size
        if options.shuffle_seed is None:
            self._draws = self._all_once()
            self._steps = evaluation_steps(self._sizes(), options.limits, per_step)
            return
        self._draws = self._draw()
        self._steps, repeated = training_steps(
            self._sizes(), options.limits, per_step, options.shuffle_seed, self._epoch, options.batching
        )
        if repeated and self._epoch == 0:
            log.info("{} batch(es) are seen twice an epoch to fill its last step.", repeated)

    def _sizes(self) -> Sizes:
        """Of the epoch's draws."""
        draws, count = self._draws, self._options.positions
        seconds = self._seconds[draws.indices] if self._changes is None else self._changes.seconds(draws)
        if count is None:
            return Sizes(seconds)
        prompts, targets = self._text_positions[:, draws.indices]
        return Sizes(seconds, count(prompts, targets, seconds))

    @cached_property
    def _text_positions(self) -> Places:
        """Of all clips, `[2, clips]`: of prompt and target."""
        count = self._options.positions
        assert count is not None
        return count.of_texts(self._utterances)

    def _draw(self) -> Draws:
        seed = self._options.shuffle_seed
        if self._options.mixture.by == "size" or seed is None:
            return self._all_once()
        return draw_epoch(self._by_split, self._quotas, seed, self._epoch)

    def _all_once(self) -> Draws:
        return Draws(np.arange(self.num_clips), np.full(self.num_clips, self._epoch))

    @cached_property
    def _by_split(self) -> dict[str, Places]:
        return self._utterances.by_split

    def _fingerprint(self) -> dict[str, object]:
        limits, augmentation, mixture = self._options.limits, self._options.augmentation, self._options.mixture
        return {
            "clips": len(self._utterances),
            "seconds": round(self._all_seconds, 1),
            "batch_size": limits.batch_size,
            "max_batch_seconds": limits.max_seconds,
            "seed": self._options.shuffle_seed,
            "batches_per_step": self._options.num_accumulate * self._world_size,
            # What earlier versions did has no key, so that their checkpoints are resumed.
            **({"batching": self._options.batching} if self._options.batching != "bucketed_steps" else {}),
            **({"augmentation": augmentation.named()} if augmentation.named() else {}),
            **({"max_batch_positions": limits.max_positions} if limits.max_positions is not None else {}),
            **({"mixture": asdict(mixture)} if mixture.by != "size" else {}),
            "rows": self._row_digests,
        }

    @cached_property
    def _row_digests(self) -> dict[str, str]:
        return row_digests(self._utterances, self._seconds, of_splits=self._options.mixture.by != "size")

    def _drop_pending(self) -> None:
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def _load_step(self, position: int) -> list[TrainerBatch]:
        step = self._steps[position]
        batches = []
        for i in range(self._options.num_accumulate):
            place = i * self._world_size + self._rank
            # Past the last batch of an evaluation: keep in step with the other processes.
            batch = self._load_batch(position, min(place, len(step) - 1))
            batch.counted = batch.counted and place < len(step)
            batches.append(batch)
        return batches

    def _load_batch(self, position: int, place: int) -> TrainerBatch:
        training = self._options.shuffle_seed is not None
        for number, places in enumerate(self._from(position, place)):
            clips = [clip for place in places if (clip := self._load_drawn(place)) is not None]
            if clips:
                # A stand-in for a batch that lost all its clips has its own turn in an evaluation.
                batch = TrainerBatch(clips, counted=training or number == 0)
                if self._options.pinned:
                    batch.pin()
                return batch
        raise UserError(f"all clips are broken, for instance {self._first_skipped()}")

    def _from(self, position: int, place: int) -> Iterator[list[int]]:
        """The planned batch, then those that follow it, round to the one before it."""
        yield self._steps[position][place]
        yield from self._steps[position][place + 1 :]
        for other in [*range(position + 1, len(self._steps)), *range(position)]:
            yield from self._steps[other]

    def _load_drawn(self, place: int) -> Clip | None:
        return self._load(int(self._draws.indices[place]), int(self._draws.turns[place]))

    def _load(self, index: int, turn: int) -> Clip | None:
        """:param turn: how often it has been read before, which its augmentation follows from."""
        utterance = self._utterances[index]
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
            # Again: what a container states may be an estimate.
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
            self.skipped[self._key(utterance)] = str(error)
            self.left_out[error.reason] += 1
            return
        column = "history" if isinstance(error, EarlierError) else "audio"
        if self._options.on_error == "raise":
            raise UserError(f"{utterance.name}, column {column!r}: {error}") from error
        self.skipped[self._key(utterance)] = str(error)
        if is_told(number := len(self.skipped) - self.left_out.total()):
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
        """:param seconds: of the audio as it is in its file."""
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
