"""Asks a vision-language model: requests, strict replies, a cache on disk, and their cost.

A *backend* turns a request into text: ``openai_backend.Endpoint`` asks a server, ``Local`` a
model that is loaded here. ``Client`` holds every reply to one JSON object of the asked-for form,
asks again where it is not, caches valid replies on disk by content, and runs several requests at
once. A request that fails has a verdict too (``Verdict.reason``): nothing is guessed from a bad
reply.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from fourd4d.core.errors import InputError
from fourd4d.core.files import replacing
from fourd4d.processing.media import image_size

_VERSION: Final = 1  # Of the cache; part of every key.
_FENCE = re.compile(r"```(?:json)?\s*\n(.*)\n```", re.DOTALL)
_MARKUP = re.compile(r"</?[A-Za-z!|][^<>]*>?|<\||```|\*\*|__|\[[^\]]*\]\(|https?://|[\x00-\x1f\x7f]")
_PIXELS_PER_TOKEN: Final = 28 * 28  # Of an image, as vision-language models count.


@dataclasses.dataclass(frozen=True)
class Request:
    """One question to the model.

    Attributes:
      kind: what it is about, for counts: ``name``, ``consistency``, …
      text: the prompt; it asks for a JSON object.
      fields: exactly the fields of that object: name → ``str`` or ``bool``.
      images: JPEG or PNG files.
      expected: a reply of typical length, for estimates.
      check: returns what is wrong with a reply of the right form, or ''.
      max_tokens: maximum number of tokens of the reply.
      marks: strings that look like markup but belong in a reply.
    """

    kind: str
    text: str
    fields: Mapping[str, type]
    images: tuple[bytes, ...] = ()
    expected: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    check: Callable[[Mapping[str, Any]], str] = lambda value: ""
    max_tokens: int = 300
    marks: tuple[str, ...] = ()

    def key(self, backend: str) -> str:
        """Return the request's cache key: a hash of its content and the backend's name."""
        content = [_VERSION, backend, self.kind, self.text, self.max_tokens,
                   {name: kind.__name__ for name, kind in sorted(self.fields.items())},
                   [hashlib.sha256(image).hexdigest() for image in self.images]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def tokens(self) -> tuple[int, int]:
        """Return estimated numbers of tokens of the request and of its reply."""
        pixels = sum(math.prod(image_size(image)) for image in self.images)
        return (math.ceil(len(self.text) / 4) + math.ceil(pixels / _PIXELS_PER_TOKEN),
                math.ceil(len(json.dumps(dict(self.expected))) / 3))


@dataclasses.dataclass(frozen=True)
class Completion:
    """A backend's reply, and the tokens it counted (0 where it counts none)."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class RequestFailed(Exception):
    """This request failed; others may succeed. The message is short and one of few."""

class EndpointUnreachable(InputError):
    """No request would be answered: the run must stop, and can be resumed."""


@runtime_checkable
class Backend(Protocol):
    """Turns a request into text. ``name`` distinguishes models in the cache."""

    @property
    def name(self) -> str: ...

    def __call__(self, request: Request) -> Completion:
        """Raises RequestFailed, or EndpointUnreachable."""
        ...


@dataclasses.dataclass(frozen=True)
class Local:
    """A model loaded here: ``say(text, images, max_tokens)`` returns its response."""

    name: str
    say: Callable[[str, Sequence[bytes], int], str]

    def __call__(self, request: Request) -> Completion:
        return Completion(self.say(request.text, request.images, request.max_tokens))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A valid reply, or the reason why there is none."""

    value: Mapping[str, Any] | None
    reason: str = ""


def parse(text: str, request: Request) -> Verdict:
    """Parse a reply, which must have the requested form.

    The whole reply must be one JSON object (a code fence around it is removed) with exactly the
    requested fields, each of exactly its type; texts must not be empty or hold markup.
    """
    text = text.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, object_pairs_hook=_once,
                           parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # Half a surrogate pair is no text.
    except (ValueError, RecursionError):
        return Verdict(None, "the reply is not a JSON object")
    if not isinstance(value, dict):
        return Verdict(None, "the reply is not a JSON object")
    if set(value) != set(request.fields):
        return Verdict(None, "the reply has other fields")
    for name, kind in request.fields.items():
        if type(value[name]) is not kind:
            return Verdict(None, f"{name} is not {'text' if kind is str else 'a ' + kind.__name__}")
        if kind is str:
            value[name] = value[name].strip()
            plain = value[name]
            for mark in request.marks:
                plain = plain.replace(mark, "")
            if not value[name]:
                return Verdict(None, f"{name} is empty")
            if _MARKUP.search(plain):
                return Verdict(None, f"{name} holds markup")
    wrong = request.check(value)
    return Verdict(None, wrong) if wrong else Verdict(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a field occurs twice")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


@dataclasses.dataclass(frozen=True)
class Prices:
    """Prices of a million tokens, in any currency."""

    input: float = 0.0
    output: float = 0.0


class Client:
    """Sends requests to a backend, several at once, each answered only once.

    Args:
      backend: to send requests to.
      cache: folder of cached replies; None caches none.
      concurrency: maximum number of requests in flight.
      tries: how often a request with an invalid reply is sent.
      give_up: failed requests in a row after which the run stops.
      dry: send nothing; count what would be sent, and return ``expected``.

    Attributes:
      counts: calls, cached replies, refused replies and failures, by kind.
    """

    def __init__(self, backend: Backend, cache: str | os.PathLike[str] | None = None, *,
                 concurrency: int = 4, tries: int = 2, give_up: int = 8, dry: bool = False):
        if concurrency < 1 or tries < 1 or give_up < 1:
            raise InputError("vlm", f"concurrency {concurrency}, tries {tries}, give_up {give_up}",
                             "Each must be 1 or more")
        self.backend, self.dry = backend, dry
        self.concurrency = concurrency
        self._cache = None if cache is None else Path(cache)
        self._tries, self._give_up = tries, give_up
        self._silent = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="vlm")
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self.input_tokens = self.output_tokens = 0

    def ask(self, requests: Sequence[Request]) -> list[Verdict]:
        """Return one verdict a request, in order. Raises EndpointUnreachable to stop the run."""
        return list(self._pool.map(self._one, requests))

    def _one(self, request: Request) -> Verdict:
        path = self._path(request)
        kept = self._read(path, request)
        if kept is not None:
            self._count(request, "cached")
            return kept
        if self.dry:
            self._count(request, "calls", *request.tokens())
            return Verdict(dict(request.expected))
        put, verdict = request, Verdict(None, "no reply")
        for _ in range(self._tries):
            try:
                said = self.backend(put)
            except RequestFailed as error:
                self._count(request, "calls")
                self._count(request, "failed")
                self._heard(False, str(error))
                return Verdict(None, str(error))
            self._heard(True)
            self._count(request, "calls", said.input_tokens, said.output_tokens)
            verdict = parse(said.text, request)
            if verdict.value is not None:
                self._keep(path, request, verdict.value)
                return verdict
            self._count(request, "refused")
            put = dataclasses.replace(request, text=f"{request.text}\n\nA first reply was refused: "
                                      f"{verdict.reason}. Reply with the JSON object alone.")
        return verdict

    def _heard(self, answered: bool, reason: str = "") -> None:
        with self._lock:
            self._silent = 0 if answered else self._silent + 1
            if self._silent >= self._give_up:
                raise EndpointUnreachable(self.backend.name,
                                          f"{self._silent} requests in a row came to "
                                          f"nothing, the last: {reason}",
                                          "Fix the endpoint and give the same command again")

    def _count(self, request: Request, what: str, tokens_in: int = 0, tokens_out: int = 0) -> None:
        with self._lock:
            self.counts[request.kind, what] += 1
            self.input_tokens += tokens_in
            self.output_tokens += tokens_out

    def _path(self, request: Request) -> Path | None:
        if self._cache is None:
            return None
        key = request.key(self.backend.name)
        return self._cache / key[:2] / f"{key}.json"

    def _read(self, path: Path | None, request: Request) -> Verdict | None:
        """Return the cached reply; None where it is missing or no longer valid."""
        if path is None or not path.is_file():
            return None
        try:
            value = json.loads(path.read_text(encoding="utf-8"))["value"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        verdict = parse(json.dumps(value), request)
        return verdict if verdict.value is not None else None

    def _keep(self, path: Path | None, request: Request, value: Mapping[str, Any]) -> None:
        if path is None:
            return
        kept = {"backend": self.backend.name, "kind": request.kind, "text": request.text,
                "images": [hashlib.sha256(image).hexdigest() for image in request.images],
                "value": dict(value)}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")

    def total(self, what: str) -> int:
        """Return the sum of a count over all kinds."""
        return sum(n for (_, name), n in self.counts.items() if name == what)

    def account(self, prices: Prices | None = None) -> str:
        """Return a line for people: what was asked, or would be, and its cost."""
        kinds = sorted({kind for kind, _ in self.counts})
        of = ", ".join(f"{self.counts[kind, 'calls']} {kind}" for kind in kinds)
        parts = [f"{self.total('calls')} calls" + (f" ({of})" if of else ""),
                 f"{self.total('cached')} replies from the cache",
                 f"about {self.input_tokens:,} tokens in and {self.output_tokens:,} out"]
        if not self.dry:
            parts.append(f"{self.total('refused')} replies refused, {self.total('failed')} "
                         "requests without a reply")
        if prices is not None:
            cost = (self.input_tokens * prices.input + self.output_tokens * prices.output) / 1e6
            parts.append(f"cost {cost:.2f} at {prices.input:g} and {prices.output:g} a million")
        return "; ".join(parts)

    def close(self) -> None:
        """End the threads; wait for requests in flight."""
        self._pool.shutdown()
