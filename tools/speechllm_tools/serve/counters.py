"""Counters for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.requests = Counter("speechllm_requests", "Requests for a text, by status", ["status"], registry=registry)
        self.audio = Counter("speechllm_audio_seconds", "Audio that was transcribed", registry=registry)
        self.under_way = Gauge("speechllm_requests_under_way", "Requests that are worked on or wait", registry=registry)
        self.waiting = Gauge("speechllm_pieces_waiting", "Pieces of audio that no batch has yet", registry=registry)
        self.batches = Histogram(
            "speechllm_batch_size",
            "Pieces decoded together, at each step",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.seconds = Histogram(
            "speechllm_request_seconds",
            "From a request to the end of its answer",
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
            registry=registry,
        )
