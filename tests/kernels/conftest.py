"""Where there is no GPU, Triton's kernels are tested in its interpreter, which must be chosen before Triton loads."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
