"""Wraps a `SpeechLlm` for FSDP: trained weights are sharded, frozen parts are whole on every process."""

from __future__ import annotations

from fairseq2.nn.fsdp import FSDPWrapper
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.export import register_dataclass

from speechllm_plugin.adapters.api import AdapterOutput
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.ctc_head import CtcLoss
from speechllm_plugin.models.speech_llm.model import SpeechLlm, SpeechLlmLoss
from speechllm_plugin.tensors.logits import LinearLogits

# FSDP2 finds the tensors of an output through PyTorch's trees, and gathers the parameters again when a gradient reaches
# one of these tensors. A dataclass is a leaf of such a tree unless it is registered.
register_dataclass(LinearLogits)
register_dataclass(AdapterOutput)
register_dataclass(CtcLoss)
register_dataclass(SpeechLlmLoss)


def apply_fsdp_to_speech_llm(model: SpeechLlm, granularity: str, wrapper: FSDPWrapper) -> nn.Module:
    """Wraps the adapter as one unit at every granularity, since it is smaller than one layer of an LLM.

    :raises UserError: parts of the encoder or of the LLM are trained: a shard would replace a weight that the part
        computes with.
    """
    if kinds := [f"{kind}_tuning" for kind in model.tuned]:
        raise UserError(f"trainer.data_parallelism: found 'fsdp' with {' and '.join(kinds)}, expected 'ddp'")
    # It stays gathered after a pass: in a validation some processes pass it more often than others.
    model.register_module("adapter", wrapper(model.adapter, reshard_after_forward=False))
    wrapped = wrapper(model, reshard_after_forward=False)
    # Validation calls these methods instead of `forward`.
    for method in ("generate", "swapped_loss"):
        register_fsdp_forward_method(wrapped, method)
    return wrapped
