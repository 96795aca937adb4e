"""CTC collapse in Triton: a pass over the logits, one over the labels, a gather, and back. No atomics: each output has
one writer, and sums run in a fixed order.

Kernels take the strides of features, logits and scores, so these need not be contiguous, and clamp lengths to T, so
wrong lengths cannot lead outside of memory. Row offsets are 64-bit: B x T x V passes 2^31 at real sizes. Launches name
the tensors' device, which need not be the current one.
"""

from __future__ import annotations

from speechllm_kernels.ctc_collapse.triton_labels import label_frames, label_frames_backward
from speechllm_kernels.ctc_collapse.triton_plan import plan
from speechllm_kernels.ctc_collapse.triton_pool import pool
from speechllm_kernels.ctc_collapse.triton_pool_backward import pool_backward

__all__ = ["label_frames", "label_frames_backward", "plan", "pool", "pool_backward"]
