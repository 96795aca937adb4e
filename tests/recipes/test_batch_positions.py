"""`dataset.max_batch_positions`: what the LLM really gets is within it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from speechllm_recipes.speech_llm.batch_positions import ModelPositions

from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from tests.commands import Commands, System

SIZES = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.0}


@pytest.mark.parametrize("adapter", ["mlp", "wlq_former", "cif", "ctc"])
def test_no_batch_has_more(tiny_config: SpeechLlmConfig, tiny_manifest: Path, adapter: str) -> None:
    """Of a fixed rate as many as are counted to one vector of a clip; of others at most as many."""
    if adapter != "mlp":
        tiny_config.adapter = PartSection(name=adapter, config=SIZES)
        tiny_config.ctc = CtcConfig(weight=0.1)
    model = create_speech_llm(tiny_config).train()
    rows = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(tiny_manifest / "train.tsv")})).read("all")
    count = ModelPositions(model)
    most = 3 * int(count(*count.of_texts(rows), np.full(len(rows), 2.1)).max())
    options = ReadOptions(limits=BatchLimits(100, None, most), shuffle_seed=1, max_seconds=30.0, positions=count)
    reader = SpeechTextReader(rows, options)
    batches = [batch for step in reader for batch in step]
    assert sum(map(len, batches)) == len(rows) > len(batches) > 1
    for batch in batches:
        targets = [model.prompts.encode_target(text) for text in batch.texts]
        lengths = model.adapt(batch, [target[:-1] for target in targets]).lengths.tolist()
        prompts = [model.prompts.render(clip.source_lang, clip.target_lang, clip.task) for clip in batch]
        used = [
            len(prompt.before) + len(prompt.after) + length + len(target)
            for prompt, length, target in zip(prompts, lengths, targets, strict=True)
        ]
        assert max(used) * len(used) <= most
        seconds = np.array([clip.seconds for clip in batch])
        counted = count(*count.of_texts([rows[clip.row] for clip in batch]), seconds).tolist()
        slack = [most - real for most, real in zip(counted, used, strict=True)]
        assert min(slack) >= 0
        if adapter in ("mlp", "wlq_former"):
            # A clip is rounded up to a tenth of a second: five frames of Whisper.
            assert max(slack) <= 6


def test_the_recipe(commands: Commands, system: System, tmp_path: Path) -> None:
    config = system.write(tmp_path / "config.yaml", dataset__batch_size=100, regime__num_steps=4)
    limit, memory = "dataset.max_batch_positions={}", "trainer.activation_checkpointing.memory_gb=10.0"
    log = commands.recipe(
        "train", tmp_path / "run", "--config-file", config, "--config", limit.format(300), memory
    ).ok()
    assert "Split train: 12 clips" in log.output
    found = re.search(r"clips of 2\.1 s and (\d+) tokens: (\d+) clips take", " ".join(log.output.split()))
    assert found is not None, log.output
    tokens, together = map(int, found.groups())
    # Of the longest clip half of the 105 frames, with a prompt as the estimate assumes it.
    assert together == 300 // (32 + 53 + tokens) > 1
    resumed = ["--config-file", config, "--config", limit.format(200), "regime.num_steps=6"]
    assert "max_batch_positions" in commands.recipe("train", tmp_path / "run", *resumed).user_error()
    line = commands.recipe("train", tmp_path / "new", "--config-file", config, "--config", limit.format(0)).user_error()
    assert "max_batch_positions: found 0, expected at least 1" in line
