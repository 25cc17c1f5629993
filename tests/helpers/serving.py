"""A small model that imagines, behind a server in this process."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import PIL.Image
import uvicorn
from flax import nnx

from fourd4d.api import Answerer
from fourd4d.parallel import make_mesh
from fourd4d.processing import Processor
from fourd4d.processing.media import Video
from fourd4d.serve.app import Service, application
from fourd4d.serve.media import Sources
from fourd4d.serve.shapes import family
from fourd4d.serve.spec import ServeSpec
from fourd4d.serve.worker import Worker
from helpers.bundles import CONFIG, bundle_of

SPEC = ServeSpec(slots=4, queue=124, max_tokens=48, max_text=192, max_frames=8, max_seconds=10.0,
                 max_pixels=200_000, max_body=300_000, max_choices=3, timeout=120.0, turns=4)
OPTIONS = ["Left", "Right"]


def imagining(config=CONFIG):
    """Random weights whose responses differ in length and hold mental images."""
    bundle = bundle_of(config, seed=1)
    words = bundle.processor.tokenizer
    flat = dict(nnx.to_flat_state(bundle.tree))
    table = flat[("embedding",)]
    flat[("embedding",)] = table.replace(
        table[...].at[words.id("<|latent_start|>")].multiply(3.5)
        .at[words.id("<|im_end|>")].multiply(2.2))
    protocol = dataclasses.replace(config.protocol(), min_pixels=256, max_pixels=1024, max_frames=8,
                                   fps=2.0)
    return dataclasses.replace(bundle, tree=nnx.from_flat_state(list(flat.items())),
                               processor=Processor(words, protocol))


def one_device():
    return make_mesh("single", jax.local_devices()[:1])


def clip(seed, frames=5, side=32):
    """Noise that drifts, half a second a frame."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 255, (side, side, 3), np.uint8)
    return Video(np.stack([np.roll(picture, 3 * t, axis=1) for t in range(frames)]),
                 np.arange(frames) / 2)


def png(pixels):
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def content(video, question):
    """A user message about frames with times."""
    frames = [{"url": png(frame), "time": float(second)}
              for frame, second in zip(video.frames, video.timestamps, strict=True)]
    return [{"type": "frames", "frames": frames}, {"type": "text", "text": question}]


def body(video, question, own=None, **more):
    return {"messages": [{"role": "user", "content": content(video, question)}],
            "fourd4d": {"options": OPTIONS} | (own or {}), **more}


GARBAGE = [
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'"x"', b"[" * 5000, b'{"a":' * 500, b"1e999",
    b'{"messages": "\\ud800"}', {}, {"messages": []}, {"messages": {}}, {"messages": [1]},
    {"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "content": 3}]},
    {"messages": [{"role": "user", "content": []}]},
    {"messages": [{"role": "tool", "content": ""}]},
    {"messages": [{"role": "assistant", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x"}] * 2},
    {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
    {"messages": [{"role": "user", "content": [{"type": ["text"]}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
    *({"messages": [{"role": "user", "content": [{"type": kind, kind: value}]}]}
      for kind in ("image_url", "video_url", "frames")
      for value in (None, 1, "", {}, {"url": 1}, {"url": "data:"},
                    {"url": "data:image/png;base64,@"}, {"url": "data:image/png;base64,AAAA"},
                    {"url": "ftp://x/y"}, [{"url": "x"}], [{"url": "data:,x", "time": 0}],
                    [{"url": "data:,x", "time": "now"}])),
    *({"messages": [{"role": "user", "content": "x"}], **more} for more in (
        {"max_tokens": 0}, {"max_tokens": 49}, {"max_tokens": "9"}, {"max_tokens": True},
        {"max_tokens": 4, "max_completion_tokens": 5}, {"temperature": -1}, {"temperature": "hot"},
        {"top_p": 0}, {"top_p": 1.1}, {"n": 0}, {"n": 4}, {"n": 1.0}, {"seed": -1}, {"seed": 2**31},
        {"stop": 1}, {"stop": ["a"] * 5}, {"stop": [""]}, {"stream": "yes"}, {"tools": [{}]},
        {"media_io_kwargs": {"video": {"num_frames": 0}}}, {"media_io_kwargs": {"image": {}}},
        {"media_io_kwargs": {"video": [8]}}, {"logprobs": True},
        {"response_format": {"type": "json_object"}}, {"max_new_tokens": 5},
        {"fourd4d": []}, {"fourd4d": {"other": 1}}, {"fourd4d": {"options": "AB"}},
        {"fourd4d": {"options": [1, None]}}, {"fourd4d": {"heat_maps": "some"}},
        {"fourd4d": {"heat_maps": [1]}}, {"fourd4d": {"probe": "magic"}},
        {"fourd4d": {"probe": "swap"}}, {"fourd4d": {"probe": {"kind": ["swap"]}}},
        *({"fourd4d": {"probe": {"kind": "swap", "latents": latents}}} for latents in (
            {}, {"dtype": "float16", "shape": [1, 32], "data": "AA=="},
            {"dtype": "float16", "shape": [1, 2], "data": "AAAAAA=="},
            {"dtype": "float16", "shape": [-1, 2], "data": ""},
            {"dtype": "float16", "shape": [1, 1], "data": "AHw="})))),
]


def hang_up(port, value, after=0.3):
    """Sends a request and closes the connection after so many seconds."""
    data = json.dumps(value).encode()
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                     b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data)
                     + data)
        time.sleep(after)


@dataclasses.dataclass
class Running:
    """A server and what it serves."""

    url: str
    port: int
    service: Service
    worker: Worker
    thinker: Answerer
    root: Path

    def until(self, true, seconds=30.0):
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it did not come about"
            time.sleep(0.02)


@contextlib.contextmanager
def running(root, spec=SPEC, bundle=None, hosts=("127.0.0.1", "localhost"), **options):
    """A server on loopback. ``options`` are ``Service``'s and ``Sources``'."""
    bundle, mesh = bundle or imagining(), one_device()
    worker = Worker(bundle, mesh, spec, family(bundle.processor.protocol, spec), probes=True)
    worker.start()
    sources = Sources(bundle.processor.protocol, spec, root, options.pop("remote", False))
    service = Service(bundle, worker, sources, "eye", **options)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(
        application(service, hosts=hosts, demo=True), log_level="error", access_log=False,
        timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{port}/v1", port, service, worker,
                      Answerer(bundle, mesh), root)
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
        assert not thread.is_alive()


@contextlib.contextmanager
def command(*flags):
    """``python -m fourd4d.serve`` on a free port, once it serves: its process and port."""
    process = subprocess.Popen([sys.executable, "-m", "fourd4d.serve", "--port=0", *flags],
                               stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if line.startswith("serving "):
                break
        else:
            raise AssertionError(f"it ended with status {process.wait()} before it served")
        yield process, int(line.rsplit(":", 1)[1])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
