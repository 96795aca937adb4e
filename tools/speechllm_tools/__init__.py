"""The `speechllm` command: transcribe, inspect, manifest, bench, demo, compare, seeds."""
