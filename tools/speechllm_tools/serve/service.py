"""What is served, and what its paths share while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from speechllm_plugin.recordings.cutting import CutConfig
from speechllm_tools.serve.counters import Metrics
from speechllm_tools.serve.engine import Batch, Engine
from speechllm_tools.serve.refusals import Refusal


@dataclass(frozen=True, kw_only=True)
class System:
    """A trained system, under the names that clients call it by."""

    begin: Callable[[], Batch]
    """Of pieces in a way of `Transcribing`, which give a `TimedText` or a text, and questions in one of `Asking`, which
    give an `Answer`."""
    check_languages: Callable[[str, str | None], None]
    """Raises `UserError` for a language that the system's prompt cannot name."""
    tells_times: bool
    """Whether words have times."""
    names: tuple[str, ...]
    """Clients may use any; the first is its own."""
    whole: float
    """Seconds up to which a recording is one piece."""
    window: float
    """Seconds of speech that a question may have: the encoder's window."""
    cut: CutConfig
    source_lang: str = "en"


@dataclass(frozen=True, kw_only=True)
class Service:
    """What is served, and its limits."""

    systems: tuple[System, ...]
    """The first is the one that the page shows, others stand beside it."""
    batch_size: int = 16
    most_bytes: int = 100_000_000
    most_seconds: float = 4 * 3600.0
    most_requests: int = 64
    """That are worked on or wait; more are refused."""
    api_key: str | None = None
    started: float = field(default_factory=time.time)

    def system(self, name: str) -> System:
        """
        :param name: that a client calls it by.
        :raises Refusal: none is called so.
        """
        for system in self.systems:
            if name in system.names:
                return system
        names = [name for system in self.systems for name in system.names]
        raise Refusal(
            404,
            f"model: found {name[:80]!r}, expected {' or '.join(names)}",
            param="model",
            code="model_not_found",
        )


class Running:
    """A service, with its engine."""

    def __init__(self, service: Service) -> None:
        self.service, self.metrics = service, Metrics()
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "requests come behind `start`"
        return self._engine

    def start(self) -> None:
        engine = self._engine = Engine(self.service.batch_size, self.metrics.batches.observe)
        self.metrics.waiting.set_function(lambda: engine.waiting)

    def end(self) -> None:
        """Returns when all that waits has been decoded."""
        self.engine.end()
