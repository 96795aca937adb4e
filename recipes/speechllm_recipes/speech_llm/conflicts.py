"""Keys whose values do not go together. Imports neither torch nor fairseq2."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from speechllm_recipes.speech_llm.step_numbers import NUM_STEPS, WARM_UP

SCORED_BY = {
    "wer": "wer",
    "bleu": "translation",
    "chrf2": "translation",
    "answer_exact": "answers",
    "answer_f1": "answers",
}
"""Metrics of decoded texts that may choose the best checkpoint -> the tasks that have them (`Task.scored_by`)."""

DEFAULTS = {
    "lr_scheduler.name": "cosine_annealing",
    "lr_scheduler.config.cycle_len": None,
    "lr_scheduler.config.num_warmup_steps": WARM_UP,
    "regime.num_steps": NUM_STEPS,
    "regime.score_metric": "wer",
    "dataset.valid_splits": ["dev"],
    "dataset.valid_decode": True,
    "trainer.data_parallelism": "ddp",
    "trainer.fsdp.version": "v2",
    "trainer.fsdp.granularity": "layer",
}
"""Defaults of the keys that are compared here."""


def value_at(config: object, key: str) -> Any:
    """The value of a dotted key in a configuration that may hold mappings in the place of sections."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else getattr(config, name)
    return config


def conflicts(value: Callable[[str], Any]) -> Iterator[tuple[str, object, str]]:
    """
    :param value: gives the value of a dotted key of the training recipe.
    :returns: keys, each with the value found and the value expected.
    """
    yield from _schedule(value)
    yield from _score_metric(value)
    yield from _fsdp(value)


def _schedule(value: Callable[[str], Any]) -> Iterator[tuple[str, object, str]]:
    if value("lr_scheduler.name") != "cosine_annealing" or value("lr_scheduler.config.cycle_len") is not None:
        return
    steps, warm_up = value("regime.num_steps"), value("lr_scheduler.config.num_warmup_steps")
    # The cosine needs at least one step after the warm-up.
    if isinstance(steps, int) and isinstance(warm_up, int) and warm_up >= steps:
        yield "lr_scheduler.config.num_warmup_steps", warm_up, f"less than `regime.num_steps` ({steps})"


def _score_metric(value: Callable[[str], Any]) -> Iterator[tuple[str, object, str]]:
    # A missing metric would end the run only at its first validation.
    metric = value("regime.score_metric")
    if not value("dataset.valid_splits") or metric in (None, "nll_loss"):
        return
    if metric not in SCORED_BY:
        yield "regime.score_metric", repr(metric), f"one of {', '.join(map(repr, [*SCORED_BY, 'nll_loss']))} or null"
    elif not value("dataset.valid_decode"):
        yield "regime.score_metric", repr(metric), "'nll_loss' or null where `dataset.valid_decode` is false"


def _fsdp(value: Callable[[str], Any]) -> Iterator[tuple[str, object, str]]:
    if value("trainer.data_parallelism") != "fsdp":
        return
    # With other values fairseq2 ignores or breaks `apply_fsdp_to_speech_llm`.
    if (version := value("trainer.fsdp.version")) != "v2":
        yield "trainer.fsdp.version", repr(version), "'v2'"
    if (granularity := value("trainer.fsdp.granularity")) == "model":
        yield "trainer.fsdp.granularity", repr(granularity), "'layer' or 'stack'"
