"""Scores with COMET: a program that only needs the packages of COMET's folder and PyTorch.

    python worker.py REQUEST.json ANSWER.json

REQUEST: `packages` (folder put before all others, or null), `checkpoint`, `encoder` (folder of its tokenizer and
configuration, or null), `precision`, `batch_size`, `progress`, `segments` [{src, mt, ref}]. ANSWER: `scores`, `cut`
(segments of which a text was longer than the encoder reads), `device`, or `error`.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if request["packages"] is not None:
        sys.path.insert(0, request["packages"])
    # Set before the imports, since a hub that does not answer costs minutes.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    try:
        answer = _score(request)
    except _Refused as error:
        answer = {"error": str(error)}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


class _Refused(Exception):
    """A fault in the request, in one line."""


def _score(request: dict[str, Any]) -> dict[str, Any]:
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    model = _load(request)
    # Lightning logs devices and advertisements at every prediction.
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if request["precision"] == "float16":
        model.half()
    segments = request["segments"]
    if not model.requires_references():
        segments = [{"src": each["src"], "mt": each["mt"]} for each in segments]
    gpus = int(torch.cuda.is_available())
    output = model.predict(
        segments, batch_size=request["batch_size"], gpus=gpus, num_workers=2 * gpus, progress_bar=request["progress"]
    )
    return {
        "scores": [float(score) for score in output.scores],
        "cut": _cut(model, segments),
        "device": torch.cuda.get_device_name() if gpus else "cpu",
    }


def _load(request: dict[str, Any]) -> Any:
    import yaml  # type: ignore[import-untyped]
    from comet.models import str2model

    checkpoint = Path(request["checkpoint"])
    hparams = checkpoint.parents[1] / "hparams.yaml"
    if not hparams.is_file():
        raise _Refused(f"{checkpoint}: found no hparams.yaml in the folder above its own, expected a COMET model")
    values = yaml.safe_load(hparams.read_text(encoding="utf-8"))
    identifier = values.get("class_identifier") if isinstance(values, dict) else None
    if identifier not in str2model:
        raise _Refused(f"{hparams}, class_identifier: found {identifier!r}, expected one of {', '.join(str2model)}")
    options: dict[str, Any] = {"map_location": "cpu", "load_pretrained_weights": False, "local_files_only": True}
    if request["encoder"] is not None:
        options["pretrained_model"] = request["encoder"]
    if values.get("layer_transformation") == "sparsemax_patch":
        options["layer_transformation"] = "softmax"  # as COMET's own loader since 2.2.4
    try:
        # Missing weights keep random values here, as in COMET's own loader, so the names are compared below. A strict
        # load
            # would refuse the buffers of old checkpoints.
        model = str2model[identifier].load_from_checkpoint(checkpoint, strict=False, **options)
    except (OSError, AttributeError, TypeError, ValueError) as error:
        encoder = request["encoder"] or values.get("pretrained_model")
        raise _Refused(
            f"{checkpoint}: its encoder {encoder!r} cannot be loaded offline ({' '.join(str(error).split()):.200}), "
            "expected --encoder FOLDER with its config.json and tokenizer"
        ) from error
    _check_weights(model, checkpoint)
    return model.eval()


def _check_weights(model: Any, checkpoint: Path) -> None:
    import torch

    found = set(torch.load(checkpoint, map_location="meta", weights_only=False)["state_dict"])
    expected = set(model.state_dict())
    # Older versions of transformers saved these buffers.
    surplus = {name for name in found - expected if not name.endswith("position_ids")}
    missing = {name for name in expected - found if not name.endswith("position_ids")}
    for names, what in ((missing, "lacks"), (surplus, "has weights that its class does not know:")):
        if names:
            raise _Refused(f"{checkpoint}: it {what} {min(names)} ({len(names)} in all), expected a whole checkpoint")


def _cut(model: Any, segments: list[dict[str, str]]) -> list[int]:
    longest = model.encoder.max_positions - 2
    texts = [text for segment in segments for text in segment.values()]
    lengths = [len(ids) for ids in model.encoder.tokenizer(texts)["input_ids"]] if texts else []
    parts = len(segments[0]) if segments else 1
    return [place for place in range(len(segments)) if max(lengths[place * parts : (place + 1) * parts]) > longest]


if __name__ == "__main__":
    main()
