"""Parts by name, and their configurations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import LLMS
from speechllm_plugin.models.speech_llm.config import (
    CtcConfig,
    PartSection,
    SpeechLlmConfig,
    arch_config,
    arch_names,
)
from speechllm_plugin.registry import Registry


@dataclass(kw_only=True)
class Inner:
    depth: int = 1


@dataclass(kw_only=True)
class Outer:
    count: int = 0
    rate: float = 0.0
    flag: bool = False
    text: str | None = None
    mode: Literal["a", "b"] = "a"
    limit: float | None = None
    inner: Inner = field(default_factory=Inner)
    names: list[str] = field(default_factory=list)
    sizes: list[float] | None = None


def error_of(values: object) -> str:
    with pytest.raises(UserError) as caught:
        structure(Outer, values, "part.config")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_become_the_fields_types() -> None:
    found = structure(
        Outer,
        {"count": 3, "rate": "1e-4", "flag": True, "text": "x", "mode": "b", "limit": 2, "inner": {"depth": 4},
         "names": ["a", "b"], "sizes": [1, "2e-1"]},
        "part.config",
    )
    assert found == Outer(
        count=3, rate=1e-4, flag=True, text="x", mode="b", limit=2.0, inner=Inner(depth=4), names=["a", "b"],
        sizes=[1.0, 0.2],
    )
    # YAML reads 1e-4 (no dot) as a string, and 2 as an integer.
    assert isinstance(found.rate, float) and isinstance(found.limit, float)


def test_defaults_and_instances() -> None:
    assert structure(Outer, None, "part.config") == Outer()
    assert structure(Outer, {"text": None, "limit": None, "sizes": None}, "part.config") == Outer()
    instance = Outer(count=7)
    assert structure(Outer, instance, "part.config") is instance


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cuont": 1}, "part.config.cuont: found an unknown key, expected one of count, flag, inner, limit, mode, "
         "names, rate, sizes, text"),
        ({"inner": {"width": 1}}, "part.config.inner.width: found an unknown key, expected one of depth"),
        ({"count": "3"}, "part.config.count: found '3', expected int"),
        ({"count": 1.5}, "part.config.count: found 1.5, expected int"),
        ({"count": True}, "part.config.count: found True, expected int"),
        ({"count": None}, "part.config.count: found None, expected int"),
        ({"rate": "fast"}, "part.config.rate: found 'fast', expected float"),
        ({"rate": True}, "part.config.rate: found True, expected float"),
        ({"flag": 1}, "part.config.flag: found 1, expected bool"),
        ({"flag": "false"}, "part.config.flag: found 'false', expected bool"),
        ({"text": 1}, "part.config.text: found 1, expected str or NoneType"),
        ({"mode": "c"}, "part.config.mode: found 'c', expected one of 'a', 'b'"),
        ({"names": "a"}, "part.config.names: found 'a', expected a list"),
        ({"names": ["a", 1]}, "part.config.names[1]: found 1, expected str"),
        ({"sizes": 1.0}, "part.config.sizes: found 1.0, expected list or NoneType"),
        ({"inner": 3}, "part.config.inner: found 3, expected a mapping of Inner's fields"),
        ([1], "part.config: found [1], expected a mapping of Outer's fields"),
    ],
    ids=str,
)
def test_a_wrong_value_is_one_line(values: object, expected: str) -> None:
    assert error_of(values) == expected


def test_an_unknown_part_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"^adapter\.name: found 'mpl', expected one of .*base.*mlp"):
        ADAPTERS.get("mpl")
    expected = "attention, dtype, packed, path, quantization"
    with pytest.raises(UserError, match=rf"^llm\.config\.pth: found an unknown key, expected one of {expected}$"):
        LLMS.config("causal", {"pth": "x"})


def test_a_name_is_taken_once() -> None:
    registry: Registry[object] = Registry("thing")
    registry.register("one", Outer, Outer)
    registry.register("one", Outer, Outer)  # the same part again, as a reloaded module does
    with pytest.raises(ValueError, match="thing 'one' is registered twice"):
        registry.register("one", Outer, Inner)


def test_every_arch_resolves() -> None:
    assert len(set(arch_names())) == len(arch_names()) >= 6
    for name in arch_names():
        config = arch_config(name)
        config.resolve()
        assert isinstance(config.adapter.config, ADAPTERS.get(config.adapter.name).config_kls)
        # Two architectures never share what one of them could change.
        assert arch_config(name).encoder is not arch_config(name).encoder


def test_local_paths_become_absolute(
    tiny_config: SpeechLlmConfig, monkeypatch: pytest.MonkeyPatch, tiny_llm: Path
) -> None:
    monkeypatch.chdir(tiny_llm.parent)
    tiny_config.llm = PartSection(name="causal", config={"path": "llm"})
    tiny_config.resolve()
    assert tiny_config.llm.config.path == str(tiny_llm.resolve())  # type: ignore[attr-defined]


def test_ctc_settings_are_checked() -> None:
    assert not list(CtcConfig(weight=0.5, align_steps=10).problems())
    for wrong in (
        CtcConfig(weight=-1.0),
        CtcConfig(weight=float("nan")),
        CtcConfig(align_steps=-1),
        # Settings of a CTC that is switched off would be ignored in silence.
        CtcConfig(weight=0.0, align_steps=5),
        CtcConfig(weight=0.0, classifier="llm_embedding"),
        CtcConfig(weight=0.0, classifier="sentencepiece", vocabulary="x.model"),
    ):
        assert list(wrong.problems())
