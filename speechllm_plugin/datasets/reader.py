"""Reads batches of clips: in threads ahead of the trainer, exactly resumable, on every number of processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch
from fairseq2.datasets import DataReader
from fairseq2.logging import log
from torch import Tensor
from typing_extensions import Self, override

from speechllm_plugin.datasets.audio import SAMPLE_RATE, AudioError, audio_key, duration, read_audio
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.plan import BatchLimits, evaluation_steps, training_steps
from speechllm_plugin.datasets.speech_text import Utterance
from speechllm_plugin.encoders.api import too_long
from speechllm_plugin.encoders.cache import FeatureCache
from speechllm_plugin.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    limits: BatchLimits
    shuffle_seed: int | None
    """None = evaluation: every clip once, nothing shuffled."""
    max_seconds: float | None
    """Longest clip that the encoder takes."""
    on_error: Literal["raise", "skip"] = "raise"
    num_accumulate: int = 1
    num_threads: int = 2
    prefetch: int = 4
    """Batches read ahead."""


@dataclass(frozen=True)
class _Clip:
    index: int
    key: str
    seconds: float
    waveform: Tensor | None
    features: Tensor | None


class SpeechTextReader(DataReader[SpeechTextBatch]):
    """
    In evaluation a process that has run out of clips repeats one with `counted=False`, so that all make the same
    number of steps. In training a broken clip (`on_error="skip"`) leaves its batch; a batch that loses all its clips
    is replaced by the next one in the plan.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        options: ReadOptions,
        *,
        rank: int = 0,
        world_size: int = 1,
        feature_cache: FeatureCache | None = None,
    ) -> None:
        self._options = options
        self._rank = rank
        self._world_size = world_size
        self._cache = feature_cache
        self.skipped: dict[str, str] = {}
        """Clips left out: id -> reason."""
        self._utterances, self._seconds = self._measure(utterances)
        self._epoch = 0
        self._position = 0
        self._steps: list[list[list[int]]] = []
        self._pending: deque[Future[list[SpeechTextBatch]]] = deque()
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
    def clips(self) -> list[tuple[Utterance, float]]:
        """What is read, with its seconds, in the order of the split."""
        return list(zip(self._utterances, self._seconds, strict=True))

    @property
    def hours(self) -> float:
        return sum(self._seconds) / 3600

    @override
    def __iter__(self) -> Self:
        return self

    @override
    def __next__(self) -> list[SpeechTextBatch]:
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
        if state_dict.get("plan") != self._fingerprint():
            raise UserError(
                f"resume: the checkpoint was written while reading {state_dict.get('plan')}, found "
                f"{self._fingerprint()}; expected the same manifests, batch settings, seed and batches per step "
                "(processes x accumulation)"
            )
        self._drop_pending()
        self._epoch, self._position = int(str(state_dict["epoch"])), int(str(state_dict["position"]))
        self._plan_epoch()

    @property
    @override
    def num_accumulate(self) -> int:
        return self._options.num_accumulate

    def _measure(self, utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[float]]:
        """Durations, without the clips that cannot be used."""
        kept, seconds = [], []
        for utterance in utterances:
            try:
                length = utterance.seconds()
                self._check_length(utterance, length)
            except UserError as error:
                self._refuse(utterance, error)
                continue
            kept.append(utterance)
            seconds.append(length)
        if not kept:
            raise UserError(f"found no usable clip among {len(utterances)}, for instance {self._first_skipped()}")
        return kept, seconds

    def _plan_epoch(self) -> None:
        options = self._options
        per_step = options.num_accumulate * self._world_size
        if options.shuffle_seed is None:
            self._steps = evaluation_steps(self._seconds, options.limits, per_step)
            return
        self._steps, repeated = training_steps(
            self._seconds, options.limits, per_step, options.shuffle_seed, self._epoch
        )
        if repeated and self._epoch == 0:
            log.info("{} batch(es) are seen twice an epoch to fill its last step.", repeated)

    def _fingerprint(self) -> dict[str, object]:
        limits = self._options.limits
        return {
            "clips": len(self._utterances),
            "seconds": round(sum(self._seconds), 1),
            "batch_size": limits.batch_size,
            "max_batch_seconds": limits.max_seconds,
            "seed": self._options.shuffle_seed,
            "batches_per_step": self._options.num_accumulate * self._world_size,
        }

    def _drop_pending(self) -> None:
        for future in self._pending:
            future.cancel()
        self._pending.clear()

    def _load_step(self, position: int) -> list[SpeechTextBatch]:
        step = self._steps[position]
        batches = []
        for i in range(self._options.num_accumulate):
            place = i * self._world_size + self._rank
            # Past the last batch of an evaluation: keep in step with the other processes.
            batch = self._load_batch(position, min(place, len(step) - 1))
            batch.counted = batch.counted and place < len(step)
            batches.append(batch)
        return batches

    def _load_batch(self, position: int, place: int) -> SpeechTextBatch:
        training = self._options.shuffle_seed is not None
        for number, indices in enumerate(self._from(position, place)):
            clips = [clip for index in indices if (clip := self._load(index)) is not None]
            if clips:
                # A stand-in for a batch that lost all its clips has its own turn in an evaluation.
                return self._collate(clips, counted=training or number == 0)
        raise UserError(f"all clips are broken, for instance {self._first_skipped()}")

    def _from(self, position: int, place: int) -> Iterator[list[int]]:
        """The planned batch, then those that follow it, round to the one before it."""
        yield self._steps[position][place]
        yield from self._steps[position][place + 1 :]
        for step in [*self._steps[position + 1 :], *self._steps[:position]]:
            yield from step

    def _load(self, index: int) -> _Clip | None:
        utterance = self._utterances[index]
        if utterance.row.id in self.skipped:
            return None
        try:
            source = utterance.source()
            key = audio_key(source)
            features = self._cache.get(key) if self._cache is not None else None
            if features is not None:
                return _Clip(index, key, duration(source), None, features)
            waveform = torch.from_numpy(read_audio(source))
            seconds = len(waveform) / SAMPLE_RATE
            self._check_length(utterance, seconds)
            return _Clip(index, key, seconds, waveform, None)
        except AudioError as error:
            self._refuse(utterance, error)
            return None

    def _check_length(self, utterance: Utterance, seconds: float) -> None:
        longest = self._options.max_seconds
        if longest is not None and seconds > longest:
            raise AudioError(too_long(seconds, longest))

    def _refuse(self, utterance: Utterance, error: UserError) -> None:
        if self._options.on_error == "raise":
            raise UserError(f"{utterance.name}: {error}") from error
        self.skipped[utterance.row.id] = str(error)
        log.warning("Clip left out (number {}): {}: {}", len(self.skipped), utterance.name, error)

    def _first_skipped(self) -> str:
        return "{}: {}".format(*next(iter(self.skipped.items())))

    def _collate(self, clips: Sequence[_Clip], *, counted: bool) -> SpeechTextBatch:
        utterances = [self._utterances[clip.index] for clip in clips]
        return SpeechTextBatch(
            ids=[utterance.row.id for utterance in utterances],
            rows=[clip.index for clip in clips],
            audio=[utterance.row.audio for utterance in utterances],
            audio_keys=[clip.key for clip in clips],
            seconds=[clip.seconds for clip in clips],
            texts=[utterance.row.tgt_text for utterance in utterances],
            transcripts=[utterance.transcript for utterance in utterances],
            source_langs=[utterance.source_lang for utterance in utterances],
            target_langs=[utterance.target_lang for utterance in utterances],
            waveforms=[clip.waveform for clip in clips],
            features=[clip.features for clip in clips],
            counted=counted,
        )
