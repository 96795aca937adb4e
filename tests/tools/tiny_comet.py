"""Makes a tiny COMET checkpoint with unbabel-comet's own classes, and scores with its own commands.

    python tiny_comet.py PACKAGES OUT SOURCES TRANSLATIONS REFERENCES

OUT gets the layout of a downloaded model and `expected.json`: segment scores of the Python API (float32) and of
`comet-score` (float16). The weights are those of a few steps of training; their scores mean nothing.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from comet.cli.score import score_command
from comet.models import RegressionMetric, load_from_checkpoint
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.loggers import CSVLogger
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizerFast

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def make_encoder(folder: Path, texts: list[str]) -> None:
    """XLM-RoBERTa with a vocabulary of words."""
    words = sorted({word for text in texts for word in text.split()})
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    XLMRobertaTokenizerFast(tokenizer_object=tokenizer, model_max_length=32).save_pretrained(folder)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer.get_vocab()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=34, type_vocab_size=1, initializer_range=0.5,
    )
    XLMRobertaModel(config, add_pooling_layer=False).save_pretrained(folder)


def main() -> None:
    out = Path(sys.argv[2]).resolve()
    files = sys.argv[3:6]
    torch.set_num_threads(1)
    seed_everything(1)
    columns = [Path(file).read_text(encoding="utf-8").rstrip("\n").split("\n") for file in files]
    segments = [dict(zip(("src", "mt", "ref"), row, strict=True)) for row in zip(*columns, strict=True)]
    make_encoder(out / "encoder", [text for segment in segments for text in segment.values()])
    with open(out / "train.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["src", "mt", "ref", "score"])
        writer.writeheader()
        writer.writerows({**segment, "score": place % 2} for place, segment in enumerate(segments))
    model = RegressionMetric(
        nr_frozen_epochs=0, encoder_model="XLM-RoBERTa", pretrained_model=str(out / "encoder"), layer="mix",
        layer_transformation="sparsemax", pool="avg", batch_size=4, hidden_sizes=[16], dropout=0.0,
        train_data=[str(out / "train.csv")], validation_data=[str(out / "train.csv")], local_files_only=True,
    )
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=CSVLogger(str(out), name="", version=""),
                      enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
                      enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(model)
    checkpoint = out / "checkpoints" / "model.ckpt"
    trainer.save_checkpoint(checkpoint)
    trainer.logger.save()
    whole = load_from_checkpoint(str(checkpoint), local_files_only=True)
    api = whole.predict(segments, batch_size=16, gpus=0, progress_bar=False).scores
    sys.argv = ["comet-score", "-s", files[0], "-t", files[1], "-r", files[2], "--gpus", "0", "--quiet",
                "--only_system", "--model", str(checkpoint), "--to_json", str(out / "command.json")]
    score_command()
    command = next(iter(json.loads((out / "command.json").read_text()).values()))
    found = {"float32": list(map(float, api)), "float16": [each["COMET"] for each in command]}
    (out / "expected.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
