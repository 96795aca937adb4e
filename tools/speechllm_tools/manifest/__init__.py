"""`speechllm manifest`: the commands that work on manifests."""
