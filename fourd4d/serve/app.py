"""The HTTP side: routes, admission, streams, and clients who leave."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, Final, TypeVar

import numpy as np
from absl import logging
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fourd4d.core.batch import BatchShape
from fourd4d.core.errors import InputError, one_line
from fourd4d.core.example import Example
from fourd4d.core.files import parse_json
from fourd4d.core.rollout import Rollout
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.processing import parse_answer
from fourd4d.processing.media import Image, Video
from fourd4d.sampling import texts
from fourd4d.serve import errors, requests
from fourd4d.serve.errors import ApiError
from fourd4d.serve.media import Sources
from fourd4d.serve.metrics import Metrics
from fourd4d.serve.replies import Envelope, Seen, TextStream, event, mental_images
from fourd4d.serve.requests import ChatRequest
from fourd4d.serve.shapes import fitting
from fourd4d.serve.worker import Event, Failed, Finished, Job, Said, Worker

T = TypeVar("T")

_QUIET: Final = 15.0  # Seconds after which a stream says that it is still there.
_BODIES: Final = 8  # Whole bodies held at once.
_LEFT: Final = 499  # The status of a request whose client has gone, for the metrics alone.
_PAGE: Final = {"": ("demo.html", "text/html"), "demo.js": ("demo.js", "text/javascript"),
                "demo.css": ("demo.css", "text/css")}
_POLICY: Final = ("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
                  "img-src 'self' data: blob:; media-src data: blob:; base-uri 'none'; "
                  "form-action 'none'; frame-ancestors 'none'")


class _ClientLeftError(Exception):
    """Nobody waits for the response any more."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A request ready to be decoded."""

    request: ChatRequest
    example: Example
    shape: BatchShape
    seen: Seen | None


class Service:
    """A checkpoint and what is needed to answer about it.

    Args:
      name: of the model, for clients.
      key: that clients must show; empty for none.
    """

    def __init__(self, bundle: ModelBundle, worker: Worker, sources: Sources, name: str, *,
                 key: str = ""):
        self.worker, self.name, self.spec = worker, name, worker.spec
        self._processor, self._sources, self._key = bundle.processor, sources, key
        self._positions = bundle.config.decoder.max_positions
        self._width = bundle.config.decoder.width
        self._pool = ThreadPoolExecutor(worker.spec.workers, thread_name_prefix="media")
        self._open = self._bytes = 0
        self.metrics = Metrics(lambda: worker.load, lambda: worker.tokens)
        self.started = int(time.time())

    def close(self) -> None:
        """Ends the worker once its jobs are done, and the other threads."""
        if not self.worker.close(self.spec.drain):
            logging.warning("some responses had not ended after %g s", self.spec.drain)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def check_key(self, request: Request) -> None:
        """Raises ApiError for a client without the key."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if self._key and not hmac.compare_digest(given.encode(), self._key.encode()):
            raise ApiError(401, "the key is missing or wrong", code="invalid_api_key")

    async def complete(self, request: Request) -> Response:
        """Answers a chat completion."""
        began = time.monotonic()
        self.check_key(request)
        spec = self.spec
        if self._open >= spec.slots + spec.queue:
            raise ApiError(429, f"{self._open} requests are being answered; come back later",
                           code="queue_full", retry=1)
        self._open += 1
        call = _Call(self, request, began)
        try:
            return await call.response()
        finally:
            if not call.streams:
                self._open -= 1

    def ended(self) -> None:
        """A stream is over."""
        self._open -= 1

    async def body(self, request: Request) -> bytes:
        """The request's body. Raises ApiError where it is too long."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != (
                "application/json"):
            # A web page elsewhere cannot send this type unasked.
            raise ApiError(415, "the body must be application/json")
        most = self.spec.max_body
        long = ApiError(413, f"the body is longer than {most} bytes", code="body_too_large")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise long
        data, taken = bytearray(), 0
        try:
            async for part in request.stream():
                if len(data) + len(part) > most:
                    raise long
                if self._bytes + len(part) > _BODIES * most:
                    raise ApiError(429, "too many large requests at once; come back later",
                                   code="queue_full", retry=1)
                data += part
                taken += len(part)
                self._bytes += len(part)
            return bytes(data)
        finally:
            self._bytes -= taken

    async def prepare(self, body: bytes) -> Prepared:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._prepare, body)

    def _prepare(self, body: bytes) -> Prepared:
        """On a thread of its own: decoding takes long."""
        asked = requests.read(parse_json(body, "body", "Fix it", finite=False), self.name,
                              self.spec, self._sources.reader())
        if asked.probe and not self.worker.probes:
            raise ApiError(400, "this server does not probe; start it with --probes",
                           param="fourd4d.probe", code="probes_not_allowed")
        if asked.donor is not None and asked.donor.shape[1] != self._width:
            raise InputError("fourd4d.probe.latents", f"vectors of {asked.donor.shape[1]} numbers, "
                             f"the model's have {self._width}", "Take them from its own replies")
        example = self._processor.conversation(asked.turns, suffix=asked.suffix,
                                               system=asked.system)
        shape = fitting(example, self.worker.shapes)
        last = int(example.positions.max()) + asked.max_tokens
        if last >= self._positions:
            raise ApiError(400, f"with {asked.max_tokens} tokens of response the prompt reaches "
                           f"position {last}, the model knows {self._positions}",
                           param="max_tokens", code="context_length_exceeded")
        media = [part for turn in asked.turns for part in turn.parts
                 if isinstance(part, Image | Video)]
        seen = Seen.of(media, self._processor) if asked.heat_maps and media else None
        # Only the last turn's text is needed any more.
        return Prepared(dataclasses.replace(asked, turns=()), example, shape, seen)

    def jobs(self, one: Prepared, deadline: float, tell: Callable[[int, Event], None]
             ) -> list[Job]:
        """A job for each choice."""
        asked = one.request
        seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
        return [Job(one.example, one.shape, asked.max_tokens,
                    lambda event, number=number: tell(number, event), seed=seed, number=number,
                    temperature=asked.temperature, top_p=asked.top_p, imagery=asked.imagery,
                    probe=asked.probe, donor=asked.donor, features=one.seen is not None,
                    streams=asked.stream or bool(asked.stop), deadline=deadline)
                for number in range(asked.n)]

    def text_stream(self, asked: ChatRequest) -> TextStream:
        return TextStream(self._processor.tokenizer, asked.stop)

    def whole_text(self, rollout: Rollout) -> str:
        """What ``Answerer.answer`` gives as its text."""
        return texts(rollout, self._processor.tokenizer, self.worker.sampling)[0]

    async def extension(self, one: Prepared, text: str, done: Finished) -> dict[str, Any]:
        """What a choice says beyond OpenAI's fields."""
        asked = one.request

        def make() -> dict[str, Any]:
            images = mental_images(
                done.rollout, one.example, self._processor, with_latents=asked.latents,
                seen=one.seen, features=done.features, heat_maps=asked.heat_maps)
            letter = (parse_answer(text, list(asked.options), list(asked.keys))
                      if asked.options else None)
            return {"letter": letter, "mental_images": images}

        return await asyncio.get_running_loop().run_in_executor(self._pool, make)


class _Call:
    """One chat completion, from its arrival to its end.

    Attributes:
      streams: the response goes on after the endpoint has returned it.
    """

    def __init__(self, service: Service, request: Request, began: float):
        self._service, self._request, self._began = service, request, began
        self._deadline = began + service.spec.timeout
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._next: asyncio.Task[tuple[int, Event]] | None = None
        self._jobs: list[Job] = []
        self._gone: asyncio.Task[None] | None = None
        self._prompt = self._said = 0
        self.streams = False

    async def response(self) -> Response:
        status = _LEFT
        try:
            body = await self._in_time(self._service.body(self._request), 408)
            self._gone = asyncio.create_task(self._left())
            one = await self._in_time(self._service.prepare(body))
            del body
            self._begin(one)
            envelope = Envelope(f"chatcmpl-{secrets.token_hex(12)}", self._service.name)
            if one.request.stream:
                # The first event decides the status: a failure before it is a plain error.
                first = await self._event()
                assert first is not None
                if isinstance(first[1], Failed):
                    raise first[1].error
                self.streams = True
                return _Stream(self._stream(one, envelope, first), self._end_stream)
            reply = JSONResponse(await self._whole(one, envelope))
            status = 200
            return reply
        except (_ClientLeftError, ClientDisconnect):
            return Response(status_code=204)  # Nobody reads it.
        except Exception as error:
            refused = errors.of(error)
            status = refused.status
            raise refused from error
        finally:
            if not self.streams:
                self._end(status)

    def _begin(self, one: Prepared) -> None:
        loop = asyncio.get_running_loop()
        self._prompt = one.example.length

        def tell(number: int, event: Event) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, (number, event))

        jobs = self._service.jobs(one, self._deadline, tell)
        self._service.worker.submit(jobs)
        self._jobs = jobs

    async def _whole(self, one: Prepared, envelope: Envelope) -> dict[str, Any]:
        choices: dict[int, dict[str, Any]] = {}
        spoken = [self._service.text_stream(one.request) for _ in self._jobs]
        while len(choices) < len(self._jobs):
            told = await self._event()
            assert told is not None
            number, event = told
            own = spoken[number]
            self._note_first()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Said):
                if one.request.stop:
                    self._say(number, own, event)
                continue
            text = self._service.whole_text(event.rollout)
            own.rest(text)
            self._said += int(event.rollout.mask.sum())
            more = await self._in_time(self._service.extension(one, text, event))
            choices[number] = {
                "index": number, "logprobs": None, "finish_reason": _reason(event.rollout, own),
                "message": {"role": "assistant", "content": own.text, "refusal": None},
                "fourd4d": more}
        return envelope.whole([choices[i] for i in sorted(choices)], self._usage())

    def _say(self, number: int, own: TextStream, said: Said) -> str:
        """The text that is certain now; what follows one to stop at is not decoded."""
        new = own.more(said.tokens)
        if own.stopped:
            self._service.worker.finish([self._jobs[number]])
        return new

    async def _stream(self, one: Prepared, envelope: Envelope, first: tuple[int, Event]
                      ) -> AsyncIterator[bytes]:
        """Events until every choice is done, or one fails."""
        asked, left = one.request, set(range(len(self._jobs)))
        spoken = [self._service.text_stream(asked) for _ in self._jobs]

        def chunk(number: int, delta: dict[str, Any], reason: str | None = None, **more: Any
                  ) -> bytes:
            return event(envelope.chunk([{"index": number, "delta": delta, "logprobs": None,
                                          "finish_reason": reason, **more}]))

        for number in range(len(self._jobs)):
            yield chunk(number, {"role": "assistant", "content": ""})
        known = [first]
        while left:
            if known:
                number, told = known.pop()
            else:
                came = await self._event(_QUIET)
                if came is None:
                    yield b": still here\n\n"
                    continue
                number, told = came
            self._note_first()
            if isinstance(told, Failed):
                raise told.error
            own = spoken[number]
            if isinstance(told, Said):
                if new := self._say(number, own, told):
                    yield chunk(number, {"content": new})
                continue
            text = self._service.whole_text(told.rollout)
            self._said += int(told.rollout.mask.sum())
            if new := own.rest(text):
                yield chunk(number, {"content": new})
            more = await self._in_time(self._service.extension(one, text, told))
            yield chunk(number, {}, _reason(told.rollout, own), fourd4d=more)
            left.discard(number)
        if asked.usage:
            yield event(envelope.chunk([], usage=self._usage()))
        yield event("[DONE]")

    def _end_stream(self, status: int) -> None:
        self._end(status)
        self._service.ended()

    def _end(self, status: int) -> None:
        """The request is over, however it ended; what was begun for it stops."""
        self._service.worker.cancel(self._jobs)
        for task in (self._gone, self._next):
            if task is not None:
                task.cancel()
        metrics = self._service.metrics
        metrics.requests.labels(str(status)).inc()
        if status == 200:
            metrics.prompt.inc(self._prompt)
            metrics.seconds.observe(time.monotonic() - self._began)

    def _note_first(self) -> None:
        if self._began:
            self._service.metrics.first.observe(time.monotonic() - self._began)
            self._note_first = lambda: None  # type: ignore[method-assign]

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": self._prompt, "completion_tokens": self._said,
                "total_tokens": self._prompt + self._said}

    async def _left(self) -> None:
        """Returns once the client has gone."""
        while (await self._request.receive())["type"] != "http.disconnect":
            pass

    async def _event(self, seconds: float = float("inf")) -> tuple[int, Event] | None:
        """The next event; None where there is none for so long."""
        if self._next is None:  # One that came as a wait ended is not lost.
            self._next = asyncio.ensure_future(self._events.get())
        if await self._wait(self._next, seconds):
            came, self._next = self._next.result(), None
            return came
        return None

    async def _in_time(self, work: Awaitable[T], late: int = 504) -> T:
        """What is awaited; raises as ``_wait``."""
        task = asyncio.ensure_future(work)
        try:
            await self._wait(task, late=late)
            return task.result()
        finally:
            task.cancel()

    async def _wait(self, task: asyncio.Future[Any], seconds: float = float("inf"),
                    late: int = 504) -> bool:
        """Whether a task is done within so many seconds.

        Raises ApiError once the request's time is over, _ClientLeftError once its client has gone.
        """
        left = self._deadline - time.monotonic()
        waits = {task} if self._gone is None else {task, self._gone}
        await asyncio.wait(waits, timeout=max(min(left, seconds), 0.0),
                           return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return True
        if self._gone is not None and self._gone.done():
            raise _ClientLeftError
        if left <= seconds:
            raise ApiError(late, "the request took longer than the server's time limit",
                           code="timeout")
        return False


def _reason(rollout: Rollout, spoken: TextStream) -> str:
    return "length" if bool(np.asarray(rollout.truncated)[0]) and not spoken.stopped else "stop"


class _Stream(Response):
    """Server-sent events from an iterator; ``ended`` is called once, with a status."""

    def __init__(self, parts: AsyncIterator[bytes], ended: Callable[[int], None]):
        super().__init__(media_type="text/event-stream",
                         headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._parts, self._ended = parts, ended

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        status = _LEFT
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            try:
                async for part in self._parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                status = 200
            except _ClientLeftError:
                return
            except OSError:
                return
            except Exception as error:
                refused = errors.of(error)
                status = refused.status
                if status >= 500 and status != 504:
                    logging.exception("a stream failed: %s", one_line(error))
                await send({"type": "http.response.body", "body": event(refused.to_json()),
                            "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            with contextlib.suppress(Exception):
                await self._parts.aclose()  # type: ignore[attr-defined]
            self._ended(status)


def application(service: Service, *, hosts: Sequence[str] = ("*",), demo: bool = False
                ) -> Starlette:
    """Return the ASGI application.

    Args:
      hosts: names by which it may be called; a page elsewhere that lets its own name point here
        is refused.
      demo: serve the page.
    """
    model = {"id": service.name, "object": "model", "created": service.started,
             "owned_by": "fourd4d"}

    async def models(request: Request) -> Response:
        service.check_key(request)
        return JSONResponse({"object": "list", "data": [model]})

    async def one_model(request: Request) -> Response:
        service.check_key(request)
        if request.path_params["name"] != service.name:
            raise ApiError(404, "the model does not exist", code="model_not_found")
        return JSONResponse(model)

    async def health(request: Request) -> Response:
        del request
        broken = service.worker.broken
        return JSONResponse({"status": "broken", "reason": broken} if broken else
                            {"status": "ok"}, 503 if broken else 200)

    async def metrics(request: Request) -> Response:
        del request
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    async def page(request: Request) -> Response:
        name, kind = _PAGE[request.path_params.get("name", "")]
        text = (resources.files("fourd4d.serve") / "assets" / name).read_bytes()
        if name.endswith("html"):
            about = json.dumps({"model": service.name, "probes": service.worker.probes,
                                "max_tokens": service.spec.max_tokens})
            text = text.replace(b"{{ABOUT}}", about.replace("&", "&amp;").replace('"', "&quot;")
                                .encode())
        return Response(text, media_type=kind, headers={"content-security-policy": _POLICY})

    async def refuse(request: Request, error: Exception) -> Response:
        del request
        assert isinstance(error, ApiError)
        headers = {} if error.retry is None else {"retry-after": str(error.retry)}
        if error.status == 500:
            logging.error("a request failed: %s", error.message)
        return JSONResponse(error.to_json(), error.status, headers)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await refuse(request, ApiError(error.status_code, f"{request.method} "
                                              f"{request.url.path}: {error.detail}"))

    async def fallen(request: Request, error: Exception) -> Response:
        return await refuse(request, errors.of(error))

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        del app
        yield
        await asyncio.to_thread(service.close)

    routes = [
        Route("/v1/models", models), Route("/v1/models/{name:path}", one_model),
        Route("/v1/chat/completions", service.complete, methods=["POST"]),
        Route("/health", health), Route("/metrics", metrics)]
    if demo:
        routes += [Route("/", page)] + [
            Route(f"/{name}", page_of(page, name)) for name in _PAGE if name]
    return Starlette(
        routes=routes, lifespan=life,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts),
                               www_redirect=False)],
        exception_handlers={ApiError: refuse, HTTPException: unknown, Exception: fallen})


def page_of(page: Callable[[Request], Awaitable[Response]], name: str
            ) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of one of the page's files."""

    async def endpoint(request: Request) -> Response:
        request.path_params["name"] = name
        return await page(request)

    return endpoint

