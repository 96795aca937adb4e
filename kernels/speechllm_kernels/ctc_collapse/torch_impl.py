"""CTC collapse in PyTorch's own operators, for CPUs and for any device without Triton."""

from __future__ import annotations

from speechllm_kernels.ctc_collapse.torch_labels import label_frames, label_frames_backward
from speechllm_kernels.ctc_collapse.torch_plan import plan
from speechllm_kernels.ctc_collapse.torch_pool import pool, pool_backward

__all__ = ["label_frames", "label_frames_backward", "plan", "pool", "pool_backward"]
