"""What one training step costs: an estimate of its floating-point operations and of its memory.

Encoder, adapter and LLM run on fake tensors, once, with one clip; an adapter whose shapes depend on what it computes
runs on random ones. The matrix products of their own code are counted, and the bytes that autograd keeps for the
backward pass:

    FLOPs of a sample = encoder forward + 3 x (adapter and CTC head forward) + LLM forward and backward

where a product of (m, k) and (k, n) is 2mkn, and attention is 4 x T_query x T_key x width in a layer (a causal mask
halves nothing). Backward is twice the forward, one product for each factor's gradient, but once where a factor is a
frozen weight: through the LLM's linear layers the gradient only passes. The encoder, unless it is tuned, has no
backward pass.

    memory of a GPU = frozen weights + 16 x trained parameters + samples x (features + kept by adapter and LLM) + CTC

where 16 bytes are a trained parameter, its gradient and Adam's two moments in float32, and CTC's logits are taken in
pieces where they are many. With activation checkpointing the LLM and the adapter keep the input of each layer, and all
of one layer. Nothing is sharded. The estimate leaves out the libraries, the memory that an operation needs while it
runs (the encoder's layers, the gradients on their way back), and what the allocator cannot use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.utils.flop_counter import FlopCounterMode

from speechllm_plugin.adapters.api import ADAPTERS, Adapter
from speechllm_plugin.cost.autograd_memory import Kept
from speechllm_plugin.cost.skeleton import Skeleton, frozen_bytes
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.causal_llm import CausalLlm
from speechllm_plugin.llms.encoder_decoder import EncoderDecoderLlm
from speechllm_plugin.models.speech_llm.ctc_head import CtcHead, LinearCtcHead, LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.pretrained.part import PretrainedPart
from speechllm_plugin.tensors.logits import LOGITS_AT_A_TIME
from speechllm_plugin.tensors.parameters import count_parameters

ResultT = TypeVar("ResultT")

_CONTENT_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException)
"""Errors that a part raises on fake tensors if its control flow depends on values."""
PROMPT_TOKENS = 32
"""Tokens of instruction and chat template around the speech, 15 to 45 for most LLMs. Tokens before the speech are
counted like the others, although autograd keeps nothing for them: a few percent too much for short clips."""
TEXT_VOCABULARY = 8192
"""Tokens that occur in a training text: the labels of a CTC head that is restricted to them."""


LOGITS_BYTES = 3 * 4 * LOGITS_AT_A_TIME
"""Memory of one piece of CTC's logits, in float32: the logits, a copy without the target labels, and their gradient."""


@dataclass(frozen=True)
class Work:
    """The work for one training sample."""

    flops: float
    """Forward and backward."""
    kept_bytes: int
    """Held from the forward to the backward pass."""
    recomputed_bytes: int
    """The same with activation checkpointing."""

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.kept_bytes + other.kept_bytes,
            self.recomputed_bytes + other.recomputed_bytes,
        )


@dataclass(frozen=True)
class Adapted:
    """What the adapter makes from one clip."""

    vectors: int
    """Vectors of its output."""
    scored: int
    """Frames and vectors that it has the CTC head score."""
    work: Work


@dataclass(frozen=True)
class Cost:
    encoder: Work
    adapter: Work
    ctc: Work
    llm: Work
    """Includes the same LLM as a teacher."""
    frozen_bytes: int
    """Weights of encoder and LLM in their own precision."""
    trained_bytes: int
    """Trained parameters with gradients and the optimizer's state."""

    @property
    def flops(self) -> float:
        """Floating-point operations for one sample."""
        return self.encoder.flops + self.adapter.flops + self.ctc.flops + self.llm.flops

    @property
    def sample_bytes(self) -> int:
        """Memory that one sample takes."""
        return self._batch_bytes(1, recompute=False)

    def gpu_bytes(self, batch_size: int, *, recompute: bool = False) -> int:
        """:param recompute: with activation checkpointing."""
        return self.frozen_bytes + self.trained_bytes + self._batch_bytes(batch_size, recompute=recompute)

    def _batch_bytes(self, size: int, *, recompute: bool) -> int:
        works = (self.encoder, self.adapter, self.llm)
        kept = sum(work.recomputed_bytes if recompute else work.kept_bytes for work in works)
        return size * kept + min(size * self.ctc.kept_bytes, LOGITS_BYTES)


def stacked(skeleton: Skeleton, frames: int) -> int:
    """Input vectors of the adapter for this number of encoder frames."""
    return -(-frames // skeleton.config.frame_stack)


class CostModel:
    """Estimates costs, and remembers what it has run."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Any] = {}

    def frames(self, skeleton: Skeleton, seconds: float) -> int:
        """Feature vectors of one clip."""
        return self._encode(skeleton, seconds)[0]

    def vectors(self, skeleton: Skeleton, frames: int) -> int:
        """Output vectors of an adapter with a fixed rate, for this number of input vectors."""
        return self._adapt(skeleton, frames, 1).vectors

    def most_vectors(self, skeleton: Skeleton, frames: int, target_tokens: int) -> int:
        """The most output vectors that the adapter can make from a clip in training.

        :param frames: its input vectors.
        """
        if skeleton.adapter.vector_per_token:
            return min(target_tokens, frames)
        return self.fixed_vectors(skeleton, frames) or frames

    def fixed_vectors(self, skeleton: Skeleton, frames: int) -> int | None:
        """`vectors` for an adapter that does not tell whether its rate is fixed; None where the rate is not fixed."""
        def run() -> int | None:
            try:
                with skeleton.mode:
                    return _run_adapter(skeleton, frames, None).vectors
            except _CONTENT_DEPENDENT:
                return None

        return self._once(("fixed", str(skeleton.config.adapter), skeleton.shape, frames), run)

    def estimate(self, skeleton: Skeleton, seconds: float, vectors: int, target_tokens: int) -> Cost:
        """
        :param seconds: length of the clip.
        :param vectors: number of vectors that the adapter makes from the clip.
        :param target_tokens: tokens of the answer.
        """
        frames, encoder = self._encode(skeleton, seconds)
        frames = stacked(skeleton, frames)
        adapted = self._adapt(skeleton, frames, vectors)
        llm = self._once(("llm", skeleton.llm, vectors, target_tokens),
                         lambda: _llm_work(skeleton, vectors, target_tokens))  # fmt: skip
        if skeleton.config.distillation.weight > 0:
            llm += self._once(("teacher", skeleton.llm, target_tokens), lambda: _teacher_work(skeleton, target_tokens))
        return Cost(
            encoder=encoder,
            adapter=adapted.work,
            ctc=_ctc_work(skeleton.ctc, adapted.scored),
            llm=llm,
            frozen_bytes=frozen_bytes(skeleton),
            trained_bytes=16 * skeleton.trained,
        )

    def _encode(self, skeleton: Skeleton, seconds: float) -> tuple[int, Work]:
        return self._once(("encoder", skeleton.encoder, seconds), lambda: _encoder_work(skeleton, seconds))

    def _adapt(self, skeleton: Skeleton, frames: int, vectors: int) -> Adapted:
        key = ("adapter", str(skeleton.config.adapter), skeleton.shape, skeleton.ctc is None, frames, vectors)
        return self._once(key, lambda: _adapt(skeleton, frames, vectors))

    def _once(self, key: tuple[object, ...], run: Callable[[], ResultT]) -> ResultT:
        if key not in self._known:
            self._known[key] = run()
        result: ResultT = self._known[key]
        return result


def _encoder_work(skeleton: Skeleton, seconds: float) -> tuple[int, Work]:
    """Also gives the number of feature vectors."""
    samples, encoder = round(seconds * SAMPLE_RATE), skeleton.encoder
    kept = Kept(encoder, _layers(encoder))
    with skeleton.mode, torch.set_grad_enabled(encoder.tuned), _precision(encoder), FlopCounter() as counter, kept:
        features, lengths = encoder.encode(torch.empty(1, samples), torch.tensor([samples]))
    flops = counter.with_backward(skeleton.config.encoder_tuning) if encoder.tuned else counter.forward()
    # The adapter gets the features in float32.
    given = 4 * features.numel()
    return int(lengths), Work(flops, given + kept.total, given + kept.recomputed)


def _adapt(skeleton: Skeleton, frames: int, vectors: int) -> Adapted:
    try:
        with skeleton.mode:
            return _run_adapter(skeleton, frames, vectors)
    except _CONTENT_DEPENDENT:
        pass  # what it does next depends on what it has computed, which fake tensors do not know
    needed, memory = 4 * count_parameters(skeleton.adapter), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise UserError(
            f"adapter: found {needed / 1e9:.1f} GB of parameters, expected no more than this machine's memory, "
            f"{memory / 1e9:.1f} GB: the cost of the adapter {skeleton.config.adapter.name!r} is known by running it"
        )
    return _run_adapter(skeleton, frames, vectors)


def _run_adapter(skeleton: Skeleton, frames: int, vectors: int | None) -> Adapted:
    """
    Runs in float32 and without dropout, which PyTorch fuses into the attention on a GPU and not on a CPU.

    :param vectors: number of output vectors, where it depends on the content; None = the adapter is not told.
    """
    config: Any = skeleton.config.adapter.config
    if "dropout" in {field.name for field in fields(config)}:
        config = replace(config, dropout=0.0)
    generator = torch.get_rng_state()
    adapter = ADAPTERS.get(skeleton.config.adapter.name).build(config, skeleton.shape).train()
    seqs = torch.randn(1, frames, skeleton.shape.encoder_dim)
    torch.set_rng_state(generator)

    scored_sizes: list[int] = []

    def classify(scored: Tensor, _: Callable[[Tensor], Tensor]) -> Tensor:
        scored_sizes.append(scored.size(1))
        # There are as many runs of equal labels as there should be vectors. The head itself is counted elsewhere.
        steps = torch.arange(scored.size(1))
        run = torch.div(steps * (vectors or 1), scored.size(1), rounding_mode="floor")
        return nn.functional.one_hot(run % 2, 2).to(scored.dtype).unsqueeze(0)

    target_lengths = None if vectors is None else torch.tensor([vectors])
    kept = Kept(adapter, _layers(adapter))
    with FlopCounter() as counter, kept:
        output = adapter(seqs, torch.tensor([frames]), target_lengths, classify if skeleton.ctc else None)
    work = Work(3 * counter.forward(), kept.total, kept.recomputed)
    return Adapted(output.seqs.size(1), sum(scored_sizes), work)


def _ctc_work(head: CtcHead | None, frames: int) -> Work:
    """The work for the logits and their log-softmax, in float32.

    :param frames: number of vectors that the head scores; output vectors count where they are trained on their tokens.
    """
    if head is None:
        return Work(0, 0, 0)
    if isinstance(head, LlmEmbeddingCtcHead):
        labels, dim, passes = 1 + TEXT_VOCABULARY, head.blank.numel(), 2  # the table is frozen
    else:
        assert isinstance(head, LinearCtcHead)
        labels, dim, passes = head.classifier.out_features, head.classifier.in_features, 3
    kept = 2 * frames * labels * 4
    return Work(passes * 2 * frames * dim * labels, kept, kept)


def _llm_work(skeleton: Skeleton, vectors: int, target_tokens: int) -> Work:
    kept = Kept(skeleton.llm, _layers(skeleton.llm))
    with skeleton.mode, _precision(skeleton.llm), FlopCounter() as counter, kept:
        _llm_logits(skeleton.llm, vectors + PROMPT_TOKENS, target_tokens).float().log_softmax(-1)
    return Work(counter.with_backward(skeleton.config.llm_tuning), kept.total, kept.recomputed)


def _teacher_work(skeleton: Skeleton, target_tokens: int) -> Work:
    """The work of the teacher, the LLM given a transcript that is assumed as long as the answer, and of the
    divergence."""
    with skeleton.mode, torch.no_grad(), _precision(skeleton.llm), FlopCounter() as counter:
        logits = _llm_logits(skeleton.llm, target_tokens + PROMPT_TOKENS, target_tokens)
    again = 2 * 2 * logits.numel() * skeleton.llm.dim  # the student's logits, and their gradient
    # The log-probabilities of both, in float32; long texts are taken in pieces.
    kept = 2 * 4 * min(logits.numel(), LOGITS_AT_A_TIME)
    return Work(counter.forward() + again, kept, kept)


def _layers(part: Adapter | PretrainedPart) -> list[nn.Module]:
    return [layer for layers in part.layer_lists() for layer in layers]


def _llm_logits(llm: Llm, inputs: int, target_tokens: int) -> Tensor:
    table = llm.embedding_table
    if isinstance(llm, CausalLlm):
        rows = torch.empty(1, inputs + target_tokens, llm.dim, dtype=table.dtype, requires_grad=True)
        hidden = llm.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state[:, -target_tokens:]
        logits: Tensor = llm.head(hidden)
        return logits
    assert isinstance(llm, EncoderDecoderLlm)
    model: Any = llm.model
    rows = torch.empty(1, inputs, llm.dim, dtype=table.dtype, requires_grad=True)
    ids = torch.zeros(1, target_tokens, dtype=torch.long)
    logits = model(inputs_embeds=rows, decoder_input_ids=ids, use_cache=False).logits
    return logits


_ATEN = torch.ops.aten
_LINEAR = (_ATEN.mm, _ATEN.addmm, _ATEN.convolution)
"""Operators that multiply by a weight; attention multiplies two activations by others."""


@contextmanager
def _precision(part: PretrainedPart) -> Iterator[None]:
    """Sets the precision that the part computes in where training is in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16), part.precision("cpu"):
        yield


class FlopCounter(FlopCounterMode):
    """Counts matrix products, including those of fused attention on a CPU."""

    def __init__(self) -> None:
        fused = _ATEN._scaled_dot_product_flash_attention_for_cpu
        super().__init__(display=False, custom_mapping={fused: _attention_flops})

    def forward(self) -> int:
        return self.get_total_flops()

    def with_backward(self, tuning: TuningConfig) -> int:
        """Adds the backward pass. Low-rank updates are too small to count; if any weight is trained, all count as
        trained."""
        linear = 3 if tuning.unfreeze else 2
        counts = self.get_flop_counts()["Global"]
        return sum((linear if operation in _LINEAR else 3) * flops for operation, flops in counts.items())


def _attention_flops(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    """:param query: shape of the queries, `[B, heads, T, width]`; `key` has fewer heads where queries share them."""
    return 4 * math.prod(query) * key[2]
