"""The formats, one file each, which holds a class `FORMAT` after the contract in `speechllm_tools.export.api`."""
