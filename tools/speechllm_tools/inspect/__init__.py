"""`speechllm inspect`: the parts and costs of a system, without its weights."""
