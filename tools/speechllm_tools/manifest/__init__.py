"""`speechllm manifest`: what is made from manifests."""
