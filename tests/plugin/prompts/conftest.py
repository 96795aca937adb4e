"""A tokenizer and a renderer."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from speechllm_plugin.prompts import PromptConfig, PromptRenderer


@pytest.fixture
def tokenizer(tiny_llm: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_llm)


@pytest.fixture
def renderer(tokenizer: PreTrainedTokenizerFast) -> PromptRenderer:
    return PromptRenderer(tokenizer, PromptConfig())
