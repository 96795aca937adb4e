"""Length adapters' kernels: CIF and CTC collapse, forward and backward, for CPU and GPU.

Imports torch and triton only. `speechllm_kernels.cif` and `speechllm_kernels.ctc_collapse` hold the functions.
"""
