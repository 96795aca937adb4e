"""How FSDP wraps a `SpeechLlm`: what is trained is sharded, the frozen parts are whole on every process."""

from __future__ import annotations

from fairseq2.nn.fsdp import FSDPWrapper
from torch import nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.export import register_dataclass

from speechllm_plugin.adapters.api import AdapterOutput
from speechllm_plugin.models.speech_llm.model import SpeechLlm, SpeechLlmLoss

# FSDP2 finds the tensors of an output through PyTorch's trees, and gathers the parameters again when the gradient
# reaches one of them. A dataclass is a leaf unless it is registered.
register_dataclass(AdapterOutput)
register_dataclass(SpeechLlmLoss)


def apply_fsdp_to_speech_llm(model: SpeechLlm, granularity: str, wrapper: FSDPWrapper) -> nn.Module:
    """An adapter is one unit at every granularity: it is smaller than one layer of an LLM."""
    model.register_module("adapter", wrapper(model.adapter))
    wrapped = wrapper(model, reshard_after_forward=False)
    # Validation enters through these instead of `forward`.
    for method in ("generate", "swapped_loss"):
        register_fsdp_forward_method(wrapped, method)
    return wrapped
