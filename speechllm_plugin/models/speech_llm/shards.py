"""Reads the weights of a checkpoint in fairseq2's layout, without fairseq2.

A run of one process or of DDP writes one file, `pp_00/tp_00/sdp_00.pt`. FSDP writes one file for each process; the
shards of a weight are joined along its first dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from speechllm_plugin.errors import UserError


def whole_vocabulary(state_dict: dict[str, object], config: object = None) -> dict[str, object]:
    """Prepares a shard for being joined to the others end to end, which is right for parameters.

    A buffer stands whole in every shard. The vocabulary is kept only from the first shard, which is the one with the
    only element of `log_scale`.

    :param config: the model's configuration, which fairseq2 passes; not used.
    """
    scale = state_dict.get("ctc.log_scale")
    if isinstance(scale, Tensor) and scale.numel() == 0:
        vocabulary = state_dict["ctc.vocabulary"]
        assert isinstance(vocabulary, Tensor)
        state_dict["ctc.vocabulary"] = vocabulary[:0]
    return state_dict


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], misfit: str) -> None:
    """Copies weights into a model; they must be exactly those of the model.

    :param misfit: begins the line about weights that are not those of the model.
    :raises UserError: they are not.
    """
    places = model.state_dict(keep_vars=True)
    problems = [
        f"{name} has the shape {list(weight.shape)} in the checkpoint, and {list(places[name].shape)} in the model"
        for name, weight in weights.items()
        if name in places and weight.shape != places[name].shape
    ]
    if missing := [name for name in places if name not in weights]:
        problems.append(f"the checkpoint lacks {', '.join(missing)}")
    if unknown := [name for name in weights if name not in places]:
        problems.append(f"the model lacks {', '.join(unknown)}")
    if problems:
        raise UserError(f"checkpoint: {misfit}: {'; '.join(problems)}")
    with torch.no_grad():
        for name, weight in weights.items():
            places[name].copy_(weight)


def read_shards(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint, on the CPU.

    :param folder: the `model` folder of a step.
    :raises UserError: a file is damaged.
    """
    damaged = f"checkpoint: found damaged files in {folder}, expected those that a training run has written"
    files = sorted((folder / "pp_00" / "tp_00").glob("sdp_*.pt"))
    if [file.name for file in files] != [f"sdp_{rank:02d}.pt" for rank in range(len(files))] or not files:
        raise UserError(damaged)
    try:
        shards = [whole_vocabulary(torch.load(file, map_location="cpu", weights_only=True)) for file in files]
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise UserError(damaged) from error
    weights: dict[str, Tensor] = {}
    # The last shards may have no part of a small weight.
    for name in shards[0]:
        parts = [shard[name] for shard in shards if name in shard]
        if not all(isinstance(part, Tensor) for part in parts):
            raise UserError(damaged)
        weights[name] = torch.cat(parts) if len(parts) > 1 else parts[0]  # type: ignore[arg-type,assignment]
    return weights
