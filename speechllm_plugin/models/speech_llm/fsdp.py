"""How FSDP wraps a `SpeechLlm` (what is trained is sharded, the frozen parts are whole on every process), and how its
shards are read."""

from __future__ import annotations

from fairseq2.nn.fsdp import FSDPWrapper
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.export import register_dataclass

from speechllm_plugin.adapters.api import AdapterOutput
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.ctc import CtcLoss
from speechllm_plugin.models.speech_llm.model import SpeechLlm, SpeechLlmLoss

# FSDP2 finds the tensors of an output through PyTorch's trees, and gathers the parameters again when the gradient
# reaches one of them. A dataclass is a leaf unless it is registered.
register_dataclass(AdapterOutput)
register_dataclass(CtcLoss)
register_dataclass(SpeechLlmLoss)


def convert_shard(state_dict: dict[str, object], config: SpeechLlmConfig) -> dict[str, object]:
    """Prepares one shard of a checkpoint for fairseq2, which joins the tensors of all shards end to end.

    That is right for parameters. A buffer stands whole in every shard: the vocabulary of the first is kept, which is
    the one that holds the only element of `log_scale`.
    """
    scale = state_dict.get("ctc.log_scale")
    if isinstance(scale, Tensor) and scale.numel() == 0:
        vocabulary = state_dict["ctc.vocabulary"]
        assert isinstance(vocabulary, Tensor)
        state_dict["ctc.vocabulary"] = vocabulary[:0]
    return state_dict


def apply_fsdp_to_speech_llm(model: SpeechLlm, granularity: str, wrapper: FSDPWrapper) -> nn.Module:
    """An adapter is one unit at every granularity: it is smaller than one layer of an LLM.

    :raises UserError: parts of the encoder or of the LLM are trained: a shard would take the place of the weight that
        the part computes with.
    """
    if kinds := [f"{kind}_tuning" for kind in model.tuned]:
        raise UserError(f"trainer.data_parallelism: found 'fsdp' with {' and '.join(kinds)}, expected 'ddp'")
    model.register_module("adapter", wrapper(model.adapter))
    wrapped = wrapper(model, reshard_after_forward=False)
    # Validation enters through these instead of `forward`.
    for method in ("generate", "swapped_loss"):
        register_fsdp_forward_method(wrapped, method)
    return wrapped
