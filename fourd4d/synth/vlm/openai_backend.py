"""Any OpenAI-compatible server as a backend: POST ``<url>/chat/completions``.

The key comes from the environment. It is sent only to the host named in ``url`` (redirects are not
followed), and is removed from what a server replies: no message, log or file holds it.
"""

from __future__ import annotations

import base64
import dataclasses
import email.utils
import http.client
import json
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any, Final

from fourd4d.core.errors import InputError
from fourd4d.synth.vlm.client import Completion, EndpointUnreachable, Request, RequestFailed

_LARGEST: Final = 8 << 20  # Bytes of a reply that are read.
_AGAIN: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_NEVER: Final = frozenset({301, 302, 303, 307, 308, 401, 403, 404, 405})


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the key must not be sent elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A model behind a server.

    Attributes:
      url: base address, e.g. ``https://host/v1`` or ``http://localhost:8000/v1``.
      model: the server's name for it.
      key_env: environment variable that holds the key, where the server needs one.
      timeout: seconds to wait for a reply.
      retries: how often a request is sent again after a time-out, 429, 500 and the like.
      wait, longest_wait: seconds before the first and at most before any later retry; they double,
        with jitter, and a server's Retry-After is obeyed up to ``longest_wait``.
      json_mode: ask the server for JSON (``response_format``), where it has that.
      temperature: of sampling.
      sleep: waits for a number of seconds.
    """

    url: str
    model: str
    key_env: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 5
    wait: float = 1.0
    longest_wait: float = 60.0
    json_mode: bool = False
    temperature: float = 0.0
    sleep: Callable[[float], None] = dataclasses.field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("vlm.url", f"{self.url!r} is not a web address", "Give http(s)://HOST/v1")
        if parts.username or parts.password or parts.query:
            raise InputError("vlm.url", "it holds a user, password or query",
                             f"Put the key into the environment variable {self.key_env}")
        if not self.model:
            raise InputError("vlm.model", "no model named", "Give the server's name for it")
        if self.retries < 0 or not self.timeout > 0 or self.wait < 0:
            raise InputError("vlm", f"retries {self.retries}, timeout {self.timeout}, wait "
                             f"{self.wait}", "timeout must be positive, the others 0 or more")

    @property
    def name(self) -> str:
        return f"{self.model} at {self.url}"

    def __call__(self, request: Request) -> Completion:
        """Return the server's reply.

        Raises RequestFailed after the last try, EndpointUnreachable where the server refuses.
        """
        data = json.dumps(self._body(request)).encode()
        reason = ""
        for number in range(self.retries + 1):
            pause = None
            try:
                return _completion(self._post(data))
            except urllib.error.HTTPError as error:
                with error:
                    message = self._clean(error.read(2000).decode("utf-8", "replace"))
                reason = f"HTTP {error.code}"
                if error.code in _NEVER:
                    raise EndpointUnreachable(self.url, f"{reason}: {message}",
                                              self._remedy(error.code)
                                              ) from None
                if error.code not in _AGAIN:
                    raise RequestFailed(reason) from None
                pause = _asked_pause(error.headers.get("Retry-After"))
            except (TimeoutError, OSError, http.client.HTTPException) as error:
                reason = _what_failed(error)
            except _NoReply as error:
                reason = str(error)
            if number < self.retries:
                self.sleep(self._pause(number, pause))
        raise RequestFailed(reason)

    def _pause(self, number: int, asked: float | None) -> float:
        doubling = self.wait * 2**number * random.uniform(1.0, 1.5)
        return min(max(asked or 0.0, doubling), self.longest_wait)

    def _body(self, request: Request) -> dict[str, Any]:
        images = [{"type": "image_url", "image_url": {"url": _data_url(image)}}
                  for image in request.images]
        body = {
            "model": self.model, "temperature": self.temperature, "max_tokens": request.max_tokens,
            "messages": [{"role": "user",
                          "content": [*images, {"type": "text", "text": request.text}]}],
        }
        return body | ({"response_format": {"type": "json_object"}} if self.json_mode else {})

    def _post(self, data: bytes) -> bytes:
        key = os.environ.get(self.key_env, "")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        post = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", data, headers)
        opener = urllib.request.build_opener(_Stay)
        with opener.open(post, timeout=self.timeout) as response:
            return response.read(_LARGEST)

    def _clean(self, text: str) -> str:
        """Return one line of the server's message, without the key."""
        key = os.environ.get(self.key_env, "")
        text = text.replace(key, "***") if key else text
        return " ".join(text.split())[:200] or "no reason given"

    def _remedy(self, code: int) -> str:
        if code in (401, 403):
            return f"Put a valid key into the environment variable {self.key_env}"
        return "Check vlm.url and vlm.model"


class _NoReply(Exception):
    """The server answered, but not with a completion."""

def _completion(data: bytes) -> Completion:
    try:
        value = json.loads(data)
        content = value["choices"][0]["message"]["content"]
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        if not isinstance(content, str):
            raise TypeError("no text")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _NoReply("the server sends no completion") from error
    usage = value.get("usage")
    usage = usage if isinstance(usage, dict) else {}

    def count(name: str) -> int:
        return usage[name] if isinstance(usage.get(name), int) else 0

    return Completion(content, count("prompt_tokens"), count("completion_tokens"))


def _what_failed(error: BaseException) -> str:
    cause = getattr(error, "reason", error)
    return "no reply in time" if isinstance(cause, TimeoutError) else "no connection"


def _asked_pause(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _data_url(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
