"""Every family of encoders and LLMs and every adapter from its real format through the recipe: trained, checkpointed,
and decoded by other processes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from speechllm_plugin import load_speech_llm
from speechllm_plugin.scoring.report import read_hypotheses
from tests.commands import Commands, metrics
from tests.plugin.encoder_families import save_encoder
from tests.plugin.llm_families import FAMILIES, save_family

STEPS = 5
_BERT = {"dim": 16, "num_heads": 2, "ffn_dim": 32}
ADAPTERS: dict[str, dict[str, Any]] = {
    "base": {**_BERT, "num_layers": 1},
    "cif": {**_BERT, "layers_before": 1, "layers_after": 1},
    "conv": {**_BERT, "layers_before": 1, "layers_after": 1},
    "ctc": {**_BERT, "layers_before": 1, "layers_after": 1},
    "mlp": {"hidden_dim": 16},
    "subsample": {**_BERT, "num_layers": 1},
    "wlq_former": {**_BERT, "num_layers": 1, "cross_attention_every": 1, "num_queries": 2},
}


@dataclass(frozen=True)
class Pair:
    encoder: str
    """A family of `encoder_families`."""
    llm: str
    """A family of `llm_families`."""
    arch: str
    """The published system whose configuration is changed. Its adapter is the one that is trained."""
    sharded: bool
    dtype: str = "float32"
    """Of the frozen parts."""

    @property
    def adapter(self) -> str:
        return self.arch.rpartition(".")[2]


# Each encoder and each LLM once, every adapter, half of the checkpoints in shards, some in the published precision.
PAIRS = [
    Pair("whisper", "mistral", "whisper_large_v3.mistral_7b.base", sharded=True),
    Pair("seamless_m4t_v2", "llama", "seamless_m4t_v2.llama31_8b.conv", sharded=False),
    Pair("w2v_bert", "llama_tied", "w2v_bert.llama32_1b.cif", sharded=True, dtype="bfloat16"),
    Pair("wav2vec2", "qwen2", "w2v_bert.qwen25_7b.ctc", sharded=False),
    Pair("hubert", "gemma2", "w2v_bert.gemma2_9b.wlq_former", sharded=True),
    Pair("wavlm", "gemma3", "w2v_bert.gemma3_1b.mlp", sharded=False, dtype="bfloat16"),
    Pair("seamless_m4t_v2", "mt5", "seamless_m4t_v2.mt0_xxl_mt.subsample", sharded=True),
    Pair("w2v_bert", "qwen3", "w2v_bert.qwen3_8b.base", sharded=False),
]
# Untrained, Gemma's tied table would repeat the line end of its template for ever.
DECODING = {"extra_tokens": 3, "tokens_per_second": 4.0, "no_repeat_ngram_size": 1}
WAV2VEC2 = ("wav2vec2", "hubert", "wavlm")


def test_the_pairs_cover_everything() -> None:
    assert {pair.adapter for pair in PAIRS} == ADAPTERS.keys()
    # SmolLM2 is Llama's layers with Qwen's tokenizer, T5 1.0 is no system of the papers.
    assert {pair.llm for pair in PAIRS} == FAMILIES.keys() - {"smollm2", "t5_tied"}


@dataclass(frozen=True)
class Trained:
    pair: Pair
    run: Path
    scores: Path
    """The output directory of an evaluation of its last checkpoint."""


def overrides(pair: Pair, folder: Path) -> dict[str, Any]:
    """The system's own keys, but for where the checkpoints are: far smaller ones than it is published with."""
    encoder = {"path": str(save_encoder(pair.encoder, folder / "encoder", sharded=pair.sharded)), "dtype": pair.dtype}
    llm = {"path": str(save_family(pair.llm, folder / "llm", sharded=pair.sharded)), "dtype": pair.dtype}
    return {
        "encoder": {"arch": None, "config": encoder, **({"name": "wav2vec2"} if pair.encoder in WAV2VEC2 else {})},
        "adapter": {"config": ADAPTERS[pair.adapter]},
        "llm": {"arch": None, "config": llm},
    }


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair.encoder}-{pair.llm}-{pair.adapter}")
def trained(
    request: pytest.FixtureRequest, commands: Commands, tiny_manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    pair: Pair = request.param
    folder = tmp_path_factory.mktemp("families")
    config = {
        "model": {"arch": pair.arch, "config_overrides": overrides(pair, folder)},
        "dataset": {
            "batch_size": 4,
            "config_overrides": {"manifests": {name: str(tiny_manifest / f"{name}.tsv") for name in ("train", "dev")}},
        },
        "trainer": {"grad_accumulation": {"num_batches": 1}, "mixed_precision": {"mode": "off"}},
        # Decay would move a weight without a gradient, too.
        "optimizer": {"config": {"lr": 0.01, "weight_decay": 0.0}},
        "lr_scheduler": {"config": {"num_warmup_steps": 1}},
        "decoding": DECODING,
        "regime": {
            "num_steps": STEPS, "validate_every_n_steps": STEPS, "checkpoint_every_n_steps": 1,
            "keep_last_n_checkpoints": None, "keep_best_n_checkpoints": None, "publish_metrics_every_n_steps": 1,
        },
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    commands.recipe("train", folder / "run", "--config-file", file).ok()
    keys = {f"dataset.config_overrides.manifests.{name}": tiny_manifest / f"{name}.tsv" for name in ("dev", "test")}
    commands.recipe(
        "evaluate", folder / "scores", "--checkpoint", folder / "run", "--step", "last",
        "--config", "dataset.splits=[dev,test]", "dataset.batch_size=4", *map("{0[0]}={0[1]}".format, keys.items()),
    ).ok()
    return Trained(pair, folder / "run", folder / "scores")


def weights(trained: Trained, step: int) -> dict[str, torch.Tensor]:
    (file,) = (trained.run / f"checkpoints/step_{step}/model").rglob("*.pt")
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=True)
    return state


def test_five_steps_move_the_adapter_and_save_it_alone(trained: Trained) -> None:
    lines = metrics(trained.run, "train")
    assert [line["Step"] for line in lines] == [1, 2, 3, 4, 5]
    for line in lines:
        assert line["NLL Loss"] > 0 and line["Gradient Norm"] > 0
        assert ("CTC Loss" in line) == (trained.pair.adapter in ("cif", "ctc"))
        assert all(math.isfinite(value) for value in line.values())
    first, last = weights(trained, 1), weights(trained, STEPS)
    assert {name.partition(".")[0] for name in last} - {"ctc"} == {"adapter"}
    assert first.keys() == last.keys()
    same = [name for name in first if first[name].is_floating_point() and torch.equal(first[name], last[name])]
    assert not same


def test_from_disk_comes_the_system_that_was_validated(trained: Trained) -> None:
    (validated,) = metrics(trained.run, "valid/dev")
    content = json.loads((trained.scores / "dev/scores.json").read_text())
    scores = content["scores"]
    assert validated["Step"] == STEPS
    # What was trained in bfloat16 is scored in float32 on a machine that does not multiply it, and says so.
    precision = content["provenance"]["precision"]
    computed = {part: precision[part] for part in ("encoder", "llm")}
    rel = 1e-6 if precision.get("trained", computed) == computed else 1e-3
    assert scores["nll_loss"] == pytest.approx(validated["NLL Loss"], rel=rel)
    assert scores["other_audio_loss"] == pytest.approx(validated["NLL Loss with another clip's audio"], rel=rel)
    assert 100 * scores["asr"]["wer"] == pytest.approx(validated["Word Error Rate (WER)"], rel=1e-6)
    # What the system listens to is in there, too.
    assert scores["other_audio_loss"] != scores["nll_loss"]


def test_another_process_decodes_the_same(trained: Trained, tiny_manifest: Path) -> None:
    system = load_speech_llm(trained.run, "last", device="cpu")
    assert {f"adapter.{name}" for name, _ in system.model.adapter.named_parameters()} <= weights(trained, STEPS).keys()
    written = []
    batches = [("dev", "en", slice(4)), ("test", "de", slice(4, 6))]
    # In bfloat16 rounding follows the other rows of a batch: of these splits, the first alone is one batch both times.
    for split, target, rows in batches if trained.pair.dtype == "float32" else batches[:1]:
        listed = read_hypotheses(trained.scores / split / "hypotheses.tsv")[rows]
        found = system.transcribe([tiny_manifest / row.source for row in listed], target_lang=target)
        # The TSV has spaces where a tiny LLM writes tabs and line ends.
        assert [row.hypothesis.split() for row in listed] == [text.split() for text in found]
        written += found
    assert len(set(written)) > 1


def test_another_model_than_the_published_is_refused(commands: Commands, tiny_manifest: Path, tmp_path: Path) -> None:
    """Each checkpoint is checked while nothing but its config.json was read."""
    pair = Pair("whisper", "mistral", "whisper_large_v3.mistral_7b.base", sharded=False)
    paths = overrides(pair, tmp_path)
    keys = [f"model.config_overrides.{part}.config.path={paths[part]['config']['path']}" for part in ("encoder", "llm")]
    keys.append(f"dataset.config_overrides.manifests.train={tiny_manifest / 'train.tsv'}")
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"")
    command = ("train", tmp_path / "run", "--config", f"model.arch={pair.arch}", "dataset.valid_splits=[]", *keys)
    line = commands.recipe(*command).user_error()
    assert "encoder.config.path" in line and "d_model = 32, expected 1280 as encoder.arch is whisper_large_v3" in line
    line = commands.recipe(*command, "model.config_overrides.encoder.arch=null").user_error()
    assert "llm.config.path" in line and "expected 32768 as llm.arch is mistral_7b; set llm.arch to null" in line
