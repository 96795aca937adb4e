"""The layers of a frozen LLM that is too large for one GPU, shared out among processes (FSDP2): each keeps a part of
every layer, and all gather a layer's weights when it is computed.

Processes that gather must compute the same layers in the same order. In training they do: a step is one pass. Without
gradients they do not, as one decodes longer than another. There each pass of the decoder is a turn that all take:
whoever has nothing to compute passes one position, which nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

_MESH: ContextVar[DeviceMesh | None] = ContextVar("mesh", default=None)


@contextmanager
def sharing_layers(mesh: DeviceMesh | None) -> Iterator[None]:
    """LLMs that are loaded inside share their layers out, where they can.

    :param mesh: the processes, in one dimension; None = each has all layers.
    """
    token = _MESH.set(mesh)
    try:
        # Layers that are gathered in inference mode, under which fairseq2 loads what is only to decode, stay in it.
        with nullcontext() if mesh is None else torch.inference_mode(False):
            yield
    finally:
        _MESH.reset(token)


def processes() -> DeviceMesh | None:
    """Those that the LLMs being loaded share their layers with."""
    return _MESH.get()


def share_layers(
    decoder: nn.Module, layers: Sequence[nn.Module], rest: nn.Module, mesh: DeviceMesh, device: torch.device
) -> None:
    """
    :param layers: of `decoder`, on the host: all of an LLM may have no room on a GPU.
    :param rest: all of the LLM. What is in no layer, such as the embeddings, is whole on every process.
    """
    shared = {weight for layer in layers for weight in layer.parameters()}
    whole = [weight for weight in rest.parameters() if weight not in shared]
    for weight in whole:
        weight.data = weight.data.to(device)
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(decoder, mesh=mesh, ignored_params=set(whole))


def bytes_elsewhere(llm: nn.Module) -> int:
    """Bytes of its weights that other processes keep."""
    shared = (weight for weight in llm.parameters() if isinstance(weight, DTensor))
    return sum((weight.numel() - weight.to_local().numel()) * weight.element_size() for weight in shared)


class Turns:
    """See the top of this file."""

    def __init__(self, decoder: nn.Module, embeddings: Tensor, mesh: DeviceMesh) -> None:
        """:param embeddings: of the decoder's input, `[V, C]`."""
        self._decoder, self._embeddings, self._group = decoder, embeddings, mesh.get_group()
        self._idles = False
        # Before FSDP's own, which gather.
        decoder.register_forward_pre_hook(self._take, prepend=True)

    def _take(self, *_: Any) -> None:
        if not torch.is_grad_enabled() and not self._idles:
            self._is_any_busy(True)

    def wait_for_others(self) -> None:
        """Takes part in the turns of the other processes until all wait here."""
        position = torch.zeros_like(self._embeddings[:1]).unsqueeze(0)
        self._idles = True
        try:
            with torch.no_grad():
                while self._is_any_busy(False):
                    self._decoder(inputs_embeds=position, use_cache=False)
        finally:
            self._idles = False

    def _is_any_busy(self, is_busy: bool) -> bool:
        busy = torch.tensor([is_busy], dtype=torch.int32, device=self._embeddings.device)
        dist.all_reduce(busy, group=self._group)
        return bool(busy)
