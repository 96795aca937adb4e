"""The inputs and outputs of `speechllm transcribe`."""
