"""`speechllm cache`: encoder features ahead of training."""
