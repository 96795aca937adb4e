"""The `speechllm` command: transcribe, inspect, manifest, bench, demo, miniature, seeds."""
