"""A service, and the state that its paths share while it runs."""

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
    """A trained system with the names that clients use for it."""

    begin: Callable[[], Batch]
    """Of pieces in a way of `Transcribing`, which give a `TimedText` or a text, and questions in one of `Asking`, which
    give an `Answer`."""
    check_languages: Callable[[str, str | None], None]
    """Raises `UserError` for a language that the system's prompt cannot name."""
    tells_times: bool
    """Whether the system gives times of words."""
    names: tuple[str, ...]
    """Clients may use any of the names; the first is the system's own."""
    whole: float
    """A recording of at most this many seconds is one piece."""
    window: float
    """A question may have at most this many seconds of speech: the encoder's window."""
    cut: CutConfig
    source_lang: str = "en"


@dataclass(frozen=True, kw_only=True)
class Service:
    """The systems that are served, and the limits of the service."""

    systems: tuple[System, ...]
    """The page shows the first system, with the others beside it."""
    batch_size: int = 16
    most_bytes: int = 100_000_000
    most_seconds: float = 4 * 3600.0
    most_requests: int = 64
    """Requests that are worked on or wait; further requests are refused."""
    api_key: str | None = None
    started: float = field(default_factory=time.time)

    def system(self, name: str) -> System:
        """
        :param name: the name that a client uses.
        :raises Refusal: no system has that name.
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
    """A service with its engine."""

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
        """Ends the engine; returns when every waiting item has been decoded."""
        self.engine.end()
