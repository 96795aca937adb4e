"""Values that fairseq2's sections would take without a word: each is one line that names key, value and range."""

from __future__ import annotations

from fractions import Fraction

import pytest
from fairseq2.recipe.config import (
    AdafactorConfig,
    AdamWConfig,
    AdamWGroupConfig,
    MyleLRConfig,
    NoamLRConfig,
    PolynomialDecayLRConfig,
    TriStageLRConfig,
)
from fairseq2.utils.structured import StandardValueConverter, StructureError
from fairseq2.utils.validation import StandardObjectValidator, ValidationError
from speechllm_recipes.config_errors import config_error, structure_error
from speechllm_recipes.speech_llm.config import (
    CascadeConfig,
    SpeechLlmEvaluateConfig,
    SpeechLlmGenerateConfig,
    SpeechLlmTrainConfig,
)
from speechllm_recipes.speech_llm.ranges import RULES

from speechllm_plugin.workarounds.strict_numbers import refuse_numbers_of_another_kind

NAN, INF = float("nan"), float("inf")


def config_with(key: str, value: object, kls: type = SpeechLlmTrainConfig, **parts: object) -> object:
    config = kls()
    for section, part in parts.items():
        getattr(config, section).config = part
    *parents, last = key.split(".")
    holder = config
    for name in parents:
        holder = holder[int(name)] if isinstance(holder, list) else getattr(holder, name)
    setattr(holder, last, value)
    return config


def line_about(config: object) -> str:
    with pytest.raises(ValidationError) as caught:
        StandardObjectValidator().validate(config)
    line = config_error(caught.value)
    assert line is not None and "\n" not in line
    return line


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("optimizer.config.lr", -1.0, "above 0 and finite"),
        ("optimizer.config.lr", 0.0, "above 0 and finite"),
        ("optimizer.config.lr", NAN, "above 0 and finite"),
        ("optimizer.config.lr", INF, "above 0 and finite"),
        ("optimizer.config.eps", -1e-9, "at least 0 and finite"),
        ("optimizer.config.weight_decay", NAN, "at least 0 and finite"),
        ("lr_scheduler.config.num_warmup_steps", -1, "at least 0 and finite"),
        ("lr_scheduler.config.cycle_len", 0, "at least 1 and finite"),
        ("lr_scheduler.config.cycle_mul", 0.5, "at least 1 and finite"),
        ("lr_scheduler.config.final_lr", NAN, "at least 0 and finite"),
        ("lr_scheduler.config.start_lr", -1.0, "at least 0 and finite"),
        ("regime.num_steps", 0, "at least 1 and finite"),
        ("regime.validate_after_n_steps", -5, "at least 0 and finite"),
        ("regime.publish_metrics_every_n_steps", 0, "at least 1 and finite"),
        ("regime.keep_last_n_checkpoints", 0, "at least 1 and finite"),
        ("trainer.max_grad_norm", NAN, "above 0 and finite"),
        ("trainer.grad_accumulation.num_batches", 0, "at least 1 and finite"),
        ("gang.tensor_parallel_size", 2, "1"),
        ("common.seed", -1, "at least 0 and at most 9.22337e+18"),
        ("common.torch.num_threads", 0, "at least 1 and finite"),
        ("dataset.max_batch_seconds", NAN, "above 0 and finite"),
    ],
)
def test_a_number_out_of_its_range(key: str, value: float, expected: str) -> None:
    assert line_about(config_with(key, value)) == f"{key}: found {value!r}, expected {expected}"


def test_items_of_lists_and_groups_are_named() -> None:
    betas = config_with("optimizer.config.betas", (0.9, 1.0))
    assert line_about(betas) == "optimizer.config.betas[1]: found 1.0, expected at least 0 and below 1"
    groups = [AdamWGroupConfig(params="ctc.*"), AdamWGroupConfig(params="(", lr=NAN)]
    line = line_about(config_with("optimizer.config", AdamWConfig(groups=groups)))
    assert line.startswith("optimizer.config.groups[1].params: found '(', expected a regular expression (")
    assert line.endswith("; optimizer.config.groups[1].lr: found nan, expected above 0 and finite")


@pytest.mark.parametrize(
    ("section", "part", "key"),
    [
        ("optimizer", AdafactorConfig(d=0.5), "optimizer.config.d"),
        ("optimizer", AdafactorConfig(beta2_decay=0.1), "optimizer.config.beta2_decay"),
        ("optimizer", AdafactorConfig(eps=(None, -1.0)), "optimizer.config.eps[1]"),
        ("lr_scheduler", MyleLRConfig(start_lr=-1.0), "lr_scheduler.config.start_lr"),
        ("lr_scheduler", NoamLRConfig(num_warmup_steps=-1), "lr_scheduler.config.num_warmup_steps"),
        ("lr_scheduler", PolynomialDecayLRConfig(power=NAN), "lr_scheduler.config.power"),
        ("lr_scheduler", TriStageLRConfig(stage_ratio=(-0.5, 0.5, 1.0)), "lr_scheduler.config.stage_ratio[0]"),
        ("lr_scheduler", TriStageLRConfig(final_lr_scale=-0.1), "lr_scheduler.config.final_lr_scale"),
    ],
)
def test_the_other_optimizers_and_schedulers(section: str, part: object, key: str) -> None:
    assert line_about(config_with("regime.num_steps", 3000, **{section: part})).startswith(f"{key}: found ")


@pytest.mark.parametrize("kls", [SpeechLlmEvaluateConfig, SpeechLlmGenerateConfig, CascadeConfig])
def test_the_other_actions(kls: type) -> None:
    assert line_about(config_with("gang.timeout", 0, kls)) == "gang.timeout: found 0, expected at least 1 and finite"
    if kls is not CascadeConfig:  # which has no run whose decoding a mapping would change
        return
    line = line_about(config_with("decoding.beam_size", 0, kls))
    assert line == "decoding.beam_size: found 0, expected at least 1 and at most 1000"


def test_the_defaults_are_right() -> None:
    for kls in (SpeechLlmTrainConfig, SpeechLlmEvaluateConfig, SpeechLlmGenerateConfig, CascadeConfig):
        StandardObjectValidator().validate(kls())


def test_every_rule_is_about_a_key_that_exists() -> None:
    """A misspelt rule would never be asked."""
    parts = (AdamWConfig(groups=[AdamWGroupConfig()]), AdafactorConfig(), MyleLRConfig(), NoamLRConfig(),
             PolynomialDecayLRConfig(), TriStageLRConfig())
    for key in RULES:
        names = key.removesuffix("[]").replace("[]", ".0").split(".")
        if names[1:2] == ["config"]:
            last = names[-1]
            assert any(hasattr(part, last) for part in (*parts, SpeechLlmTrainConfig().lr_scheduler.config)), key
            continue
        holder: object = SpeechLlmTrainConfig()
        for name in names:
            assert hasattr(holder, name), key
            holder = getattr(holder, name)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"regime": {"num_steps": 3.7}}, "regime.num_steps: found 3.7, expected an integer"),
        ({"regime": {"num_steps": INF}}, "regime.num_steps: found inf, expected an integer"),
        ({"regime": {"num_steps": True}}, "regime.num_steps: found True, expected an integer"),
        ({"regime": {"num_steps": "many"}}, "regime.num_steps: found 'many', expected an integer"),
        ({"regime": {"num_steps": [3]}}, "regime.num_steps: found [3], expected an integer"),
        ({"trainer": {"max_grad_norm": False}}, "trainer.max_grad_norm: found False, expected a number"),
    ],
)
def test_numbers_of_another_kind(monkeypatch: pytest.MonkeyPatch, values: object, line: str) -> None:
    monkeypatch.setattr(StandardValueConverter, "_structure_primitive", StandardValueConverter._structure_primitive)
    refuse_numbers_of_another_kind()
    with pytest.raises(StructureError) as caught:
        StandardValueConverter().structure(values, SpeechLlmTrainConfig)
    assert structure_error(caught.value) == line


def test_numbers_that_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandardValueConverter, "_structure_primitive", StandardValueConverter._structure_primitive)
    refuse_numbers_of_another_kind()
    values = {"regime": {"num_steps": 1e3}, "trainer": {"max_grad_norm": "1e-1"}}
    config = StandardValueConverter().structure(values, SpeechLlmTrainConfig)
    assert config.regime.num_steps == 1000 and isinstance(config.regime.num_steps, int)
    assert Fraction(config.trainer.max_grad_norm) == Fraction(0.1)
