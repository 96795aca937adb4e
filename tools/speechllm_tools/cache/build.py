"""`speechllm cache build`: encodes, before a training run, the clips that its first epoch would encode."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from speechllm_recipes.speech_llm.common import length_policy, sampled, tuned_features
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig
from speechllm_recipes.speech_llm.read_config import dataset_of, model_config_of, read_training_config

from speechllm_plugin.datasets.augmentation import AugmentationConfig
from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.utterances import Clips, Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.preflight import outline_encoder
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_tools.cache.encoding import Encoded, EncodeTask, Encoding, encode_clips
from speechllm_tools.progress import ProgressLine
from speechllm_tools.shards.api import Machines, count_cores, machines_of, map_shards
from speechllm_tools.shards.processes import visible_gpus

_CLIPS = 64
"""Clips in a task: few enough that a cluster's nodes end at about the same time."""
_BATCH = 8
"""Clips that are read ahead at a time; each is encoded alone."""


@dataclass(frozen=True)
class _Part:
    """Clips that are read in the same way: those to train on, or those of a validation split."""

    name: str
    options: ReadOptions
    epochs: int
    clips: Clips


def build(options: argparse.Namespace, shard: tuple[int, int]) -> int:
    """
    :param shard: number of the part to encode, counted from 1, and number of parts.
    :raises UserError: the configuration is wrong, a clip cannot be used, or the cache is full.
    """
    if options.workers is None:
        options.workers = len(visible_gpus()) or count_cores()
    machines = machines_of(options, gpus=True)
    config = read_training_config(options.config_file, options.config)
    encoding, window = _encoding(config, machines)
    parts = [part for part in _parts(config, window, shard) if part.clips]
    todo = sum(float(part.clips.seconds.sum()) * part.epochs for part in parts)
    number = sum(len(part.clips) * part.epochs for part in parts)
    print(f"{encoding.folder}: {number:,} clips, {todo / 3600:.2f} h, of {', '.join(part.name for part in parts)}",
          flush=True)  # fmt: skip
    total = Encoded()
    with ProgressLine("encoding") as progress:
        for _, encoded in map_shards(encode_clips, _tasks(parts, encoding), machines):
            total.add(encoded)
            done = total.clips + total.there + total.left_out
            if encoded.full:
                raise UserError(
                    f"dataset.feature_cache: found {encoding.folder} full after {done:,} of {number:,} clips, expected "
                    "room for all (dataset.feature_cache_gb, or the disk)"
                )
            # Clips that the cache had before take no time.
            rest = todo - total.seconds_there
            progress.update(f"{done:,}/{number:,} clips", min(1.0, total.seconds / rest) if rest > 0 else 1.0)
    print(f"{encoding.folder}: {total.clips:,} clips, {total.seconds / 3600:.2f} h, {total.size / 1e9:.2f} GB encoded "
          f"by {total.made_by}; {total.there:,} were there, {total.left_out:,} left out")  # fmt: skip
    return 0


def _encoding(config: SpeechLlmTrainConfig, machines: Machines) -> tuple[Encoding, float | None]:
    """
    :returns: also the longest clip that the encoder takes, in seconds.
    :raises UserError: there is no cache or no such encoder, or the encoder is trained.
    """
    section = config.dataset
    if section.feature_cache is None:
        raise UserError("dataset.feature_cache: found null, expected the folder to fill")
    model = model_config_of(config)
    model.resolve()
    if model.encoder_tuning != TuningConfig():
        raise UserError(tuned_features(section))
    encoder = outline_encoder(model.encoder)
    encoding = Encoding(
        encoder=model.encoder.name, config=json.dumps(asdict(model.encoder.config)),  # type: ignore[call-overload]
        folder=str(Path(section.feature_cache).absolute()), limit_gb=section.feature_cache_gb,
        threads=1 if machines.ray is not None else max(1, count_cores() // machines.workers),
    )  # fmt: skip
    return encoding, None if encoder is None else encoder.max_seconds


def _parts(config: SpeechLlmTrainConfig, window: float | None, shard: tuple[int, int]) -> Iterator[_Part]:
    """
    :param window: the longest clip that the encoder takes, in seconds.
    :raises UserError: a manifest is wrong, or a clip is too long.
    """
    section, dataset = config.dataset, dataset_of(config)
    section.mixture.check_splits(section.train_split)
    training = dataset.read_together(section.train_split)
    yield _part(config, " + ".join(section.train_split), training, window, shard, section.augmentation)
    for split in section.valid_splits:
        yield _part(config, split, sampled(dataset.read(split), split, section.valid_clips), window, shard)


def _part(
    config: SpeechLlmTrainConfig, name: str, utterances: Utterances, window: float | None,
    shard: tuple[int, int], augmentation: AugmentationConfig | None = None,
) -> _Part:  # fmt: skip
    """This machine's share of the clips, measured, without those that the run leaves out."""
    section, number = config.dataset, shard[0] - 1
    changed = augmentation is not None and augmentation.changes_length
    options = ReadOptions(
        limits=BatchLimits(_BATCH, None),
        # A reader changes only clips of training, which has a seed.
        shuffle_seed=config.common.seed if changed else None,
        max_seconds=window,
        lengths=length_policy(section),
        on_error=section.on_error,
        num_threads=section.num_threads,
        augmentation=augmentation or AugmentationConfig(),
    )
    own = utterances[number :: shard[1]]
    clips = SpeechTextReader(own, options).clips if own else Clips(own, np.empty(0))
    return _Part(name, options, options.augmentation.variants if changed else 1, clips)


def _tasks(parts: Sequence[_Part], encoding: Encoding) -> Iterator[EncodeTask]:
    for part in parts:
        for start in range(0, len(part.clips), _CLIPS):
            utterances = part.clips.utterances[start : start + _CLIPS].alone()
            # The lengths of the whole split have been compared already.
            options = replace(part.options, checks_lengths=False)
            yield EncodeTask(encoding, options, part.epochs, utterances)
