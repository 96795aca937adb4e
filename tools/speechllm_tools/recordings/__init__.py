"""What `speechllm transcribe` reads and writes."""
