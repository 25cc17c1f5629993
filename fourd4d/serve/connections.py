"""Connections that do not say what they want are closed; uvicorn itself would keep them."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def impatient(seconds: float) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol, which waits only so long for the headers of a request.

    The time runs from the connection, and on one that is kept from the first byte of the next
    request, however many bytes follow one by one. What follows the headers is the application's to
    time.
    """

    uvicorns: Any = AutoHTTPProtocol  # Of one parser or another; no common class has its fields.

    class Impatient(uvicorns):
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._timer = self.loop.call_later(seconds, transport.close)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()  # The headers are here: something answers them.
            elif self._timer is None and not self.transport.is_closing():
                self._timer = self.loop.call_later(seconds, self.transport.close)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _stop(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Impatient
