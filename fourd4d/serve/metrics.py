"""What a server counts, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import prometheus_client as prometheus

_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """Counters of one server.

    Args:
      load: (jobs waiting, jobs being decoded).
      tokens: decoded so far.
    """

    content_type = prometheus.CONTENT_TYPE_LATEST

    def __init__(self, load: Callable[[], tuple[int, int]], tokens: Callable[[], int]):
        self._registry = own = prometheus.CollectorRegistry()
        self.requests = prometheus.Counter(
            "fourd4d_requests", "Chat completions by the status they ended with; 499: client left.",
            ["status"], registry=own)
        self.seconds = prometheus.Histogram(
            "fourd4d_request_seconds", "From a request's arrival to the end of its response.",
            buckets=_SECONDS, registry=own)
        self.first = prometheus.Histogram(
            "fourd4d_first_token_seconds", "From a request's arrival to its first token.",
            buckets=_SECONDS, registry=own)
        self.prompt = prometheus.Counter(
            "fourd4d_prompt_tokens", "Tokens of prompts that were answered.", registry=own)
        waiting = prometheus.Gauge("fourd4d_waiting", "Responses that wait for a slot.",
                                   registry=own)
        running = prometheus.Gauge("fourd4d_running", "Responses being decoded.", registry=own)
        generated = prometheus.Gauge("fourd4d_generated_tokens_total",
                                     "Tokens decoded, latents included.", registry=own)
        waiting.set_function(lambda: load()[0])
        running.set_function(lambda: load()[1])
        generated.set_function(tokens)

    def text(self) -> bytes:
        """Return all of them."""
        return prometheus.generate_latest(self._registry)
