"""The formats, one in each file, with a class `FORMAT` that follows `speechllm_tools.export.api`."""
