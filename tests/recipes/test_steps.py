"""Numbers of steps that follow from one another."""

from __future__ import annotations

from itertools import product

import pytest
from fairseq2.recipe.config import CosineAnnealingLRConfig
from fairseq2.utils.validation import StandardObjectValidator
from speechllm_recipes.given_keys import given_keys, nested
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig
from speechllm_recipes.speech_llm.step_numbers import derived_steps

KEYS = ("num_steps", "validate_every_n_steps", "checkpoint_every_n_steps", "publish_metrics_every_n_steps")


@pytest.mark.parametrize("given", list(product((None, 1, 30, 28_000), (None, 7, 600), (None,), (None, 1))))
@pytest.mark.parametrize("checkpoints", [False, True])
def test_any_number_that_is_set_gives_a_configuration_that_runs(
    given: tuple[int | None, ...], checkpoints: bool
) -> None:
    values = {f"regime.{key}": value for key, value in zip(KEYS, given, strict=True) if value is not None}
    if checkpoints:
        values["regime.checkpoint_every_n_steps"] = 2 * values.get("regime.validate_every_n_steps", 20)
    config = SpeechLlmTrainConfig()
    for key, value in {**values, **derived_steps(values)}.items():
        holder = config.lr_scheduler.config if key.startswith("lr_scheduler") else config.regime
        setattr(holder, key.rpartition(".")[2], value)
    StandardObjectValidator().validate(config)


def test_the_published_numbers_stand() -> None:
    config = SpeechLlmTrainConfig()
    schedule = config.lr_scheduler.config
    assert isinstance(schedule, CosineAnnealingLRConfig)
    assert (config.regime.num_steps, schedule.num_warmup_steps) == (28_000, 840)
    assert derived_steps({"regime.num_steps": 28_000}) == {
        "lr_scheduler.config.num_warmup_steps": 840, "regime.validate_every_n_steps": 1000,
        "regime.checkpoint_every_n_steps": 1000, "regime.publish_metrics_every_n_steps": 50,
    }


def test_what_is_set_is_never_changed() -> None:
    values = {f"regime.{key}": 3 for key in KEYS}
    assert set(derived_steps({**values, "lr_scheduler.config.num_warmup_steps": 1})) == set()
    # No validation, and another schedule with keys of its own.
    open_ones = derived_steps({"regime.validate_every_n_steps": None, "lr_scheduler.name": "tri_stage"})
    assert open_ones == {"regime.checkpoint_every_n_steps": 1000, "regime.publish_metrics_every_n_steps": 50}


def test_keys_that_a_file_sets() -> None:
    values = {"a": {"b": 1, "_set_": {"c": {"d": 2}}, "_del_": ["e"]}, "f": None}
    assert dict(given_keys(values)) == {"a.b": 1, "a.c.d": 2, "a.c": {"d": 2}, "f": None}
    assert nested({"a.b": 1, "a.c": 2, "d": 3}) == {"a": {"b": 1, "c": 2}, "d": 3}
    assert dict(given_keys(["no mapping"])) == {}
