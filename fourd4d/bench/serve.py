"""Requests a second of the server under load, beside one-at-a-time ``transformers.generate``.

    python -m fourd4d.bench serve --json serve.json

Starts ``python -m fourd4d.serve``, and ``--clients`` at once ask it about clips of several lengths,
with budgets of tokens of several sizes. The same questions go one by one to ``sampling.generate``,
whose texts the server's must equal, and, where the extra ``parity`` is installed, to
``transformers.generate`` with the same weights. There only ``generate`` is timed: what makes its
inputs of frames is not, while the server's time holds all that a client waits for.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures
import contextlib
import dataclasses
import http.client
import importlib.util
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
import PIL.Image

from fourd4d.bench.common.result import Result
from fourd4d.bench.hf_parity.reference import Row, their_inputs
from fourd4d.core.errors import InputError
from fourd4d.core.options import checked_options, with_options
from fourd4d.data.collate import bucketed_shape, collate
from fourd4d.parallel import host_to_global, make_mesh, use
from fourd4d.pretrained.bundle import ModelBundle
from fourd4d.pretrained.open import located, open_checkpoint
from fourd4d.processing.media import Video
from fourd4d.sampling import SamplingSpec, generate, texts

_OPTIONS = ("Left", "Right", "Up", "Down")
_QUESTIONS = ("Where does the red square go?", "Which way does the square move?",
              "In which direction does the object in the video move?")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question, and the most tokens of its answer."""

    video: Video
    question: str
    max_tokens: int

    def body(self) -> bytes:
        """The request's body."""
        frames = [{"url": _data_url(frame), "time": float(second)}
                  for frame, second in zip(self.video.frames, self.video.timestamps, strict=True)]
        return json.dumps({
            "max_tokens": self.max_tokens, "messages": [{"role": "user", "content": [
                {"type": "frames", "frames": frames}, {"type": "text", "text": self.question}]}],
            "fourd4d": {"options": list(_OPTIONS), "imagery": False}}).encode()


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="tiny-base", help="Hugging Face directory, or a "
                        "name in the package")
    parser.add_argument("--clients", type=int, default=32, help="at once")
    parser.add_argument("--rounds", type=int, default=4, help="questions of each client")
    parser.add_argument("--questions", type=int, default=16, help="different ones")
    parser.add_argument("--tokens", type=int, default=96, help="largest budget of a response")
    parser.add_argument("--decode_slots", type=int, default=16, help="of the server")
    parser.add_argument("--seed", type=int, default=0, help="of clips and budgets")
    parser.add_argument("--torch", action=argparse.BooleanOptionalAction, default=True,
                        help="time transformers too, on the CPU")


def main(args: argparse.Namespace) -> Result:
    if args.clients * args.rounds % args.questions:
        raise InputError("--questions", f"{args.clients * args.rounds} requests are not a "
                         f"multiple of {args.questions}", "Each must be asked equally often")
    asked = questions(args.questions, args.tokens, args.seed)
    mesh = make_mesh("single", jax.local_devices()[:1])
    with use(mesh):
        bundle = open_checkpoint(args.checkpoint, mesh)
        wanted, ours = one_by_one(bundle, mesh, asked, args.tokens)
    metrics: dict[str, float | int] = {}
    if args.torch and all(map(importlib.util.find_spec, ("transformers", "torch"))):
        said, theirs = torch_one_by_one(bundle, args.checkpoint, asked)
        metrics["unlike_transformers"] = sum(
            a != b for a, b in zip(said, wanted, strict=True))
        metrics["sequential_requests_per_second"] = len(asked) / theirs
    with served(args) as port:
        load_of(port, asked, wanted, args.clients, 1)  # Connections, caches of the host.
        taken, seconds, wrong = load_of(port, asked, wanted, args.clients, args.rounds)
    rate = len(taken) / seconds
    metrics |= {"requests_per_second": rate, "p50_seconds": float(np.percentile(taken, 50)),
                "p95_seconds": float(np.percentile(taken, 95)), "wrong_answers": wrong,
                "requests": len(taken), "generate_requests_per_second": len(asked) / ours,
                "speedup_vs_generate": rate * ours / len(asked)}
    if "sequential_requests_per_second" in metrics:
        metrics["speedup_vs_sequential"] = rate / metrics["sequential_requests_per_second"]
    return Result("serve", metrics, {"config": {
        k: v for k, v in vars(args).items() if k not in ("name", "json")}})


def questions(count: int, tokens: int, seed: int) -> list[Asked]:
    """Questions about a square that moves, of many lengths."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        length = int(rng.integers(4, 13))
        frames = np.full((length, 64, 64, 3), rng.integers(20, 90), np.uint8)
        x, y, dx, dy = rng.integers(18, 34), rng.integers(18, 34), *rng.integers(-2, 3, 2)
        for t in range(length):
            left, top = np.clip([x + dx * t, y + dy * t], 0, 51)
            frames[t, top : top + 12, left : left + 12] = (220, 30, 30)
        found.append(Asked(Video(frames, np.arange(length, dtype=np.float64)),
                           _QUESTIONS[number % len(_QUESTIONS)],
                           int(rng.integers(tokens // 4, tokens + 1))))
    return found


def one_by_one(bundle: ModelBundle, mesh: Any, asked: Sequence[Asked], most: int
               ) -> tuple[list[str], float]:
    """What the model says to each prompt alone, and the seconds once it has compiled."""
    processor = bundle.processor
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=most,
                           temperature=0.0, imagery=False)

    def once() -> list[str]:
        said = []
        for one in asked:
            example = processor.prompt(_text(one), [one.video])
            batch = collate([example], bucketed_shape([example]), processor.protocol)
            rollout = generate(bundle.graphdef, (bundle.tree,), host_to_global(batch, mesh),
                               jax.random.key(0), spec, limit=np.int32(one.max_tokens))
            said += texts(jax.device_get(rollout), processor.tokenizer, spec)
        return said

    once()
    began = time.perf_counter()
    return once(), time.perf_counter() - began


def _text(one: Asked) -> str:
    """The question with its options, as the server writes it."""
    return with_options(one.question, *checked_options(_OPTIONS))


def torch_one_by_one(bundle: ModelBundle, checkpoint: str, asked: Sequence[Asked]
                     ) -> tuple[list[str], float]:
    """What transformers says, and the seconds of its ``generate`` alone.

    With one thread or with all of them, whichever is faster: so small a model may gain by neither.
    """
    import torch
    import transformers

    folder = located(checkpoint)
    theirs: Any = transformers.AutoProcessor.from_pretrained(folder)
    model: Any = transformers.AutoModelForImageTextToText.from_pretrained(folder).eval()
    processor = bundle.processor
    spec = SamplingSpec.of(processor.tokenizer, processor.protocol, max_tokens=1, imagery=False)
    never = sorted({*spec.forbidden, spec.latent_start,
                    *range(spec.vocab, bundle.config.decoder.vocab)})

    def once(asked: Sequence[Asked]) -> tuple[list[str], float]:
        seconds, said = 0.0, list[str]()
        for one in asked:
            row = Row("", _text(one), [one.video], [1.0])
            inputs = their_inputs(theirs, processor.protocol, [row])
            began = time.perf_counter()
            out = model.generate(
                **inputs, do_sample=False, max_new_tokens=one.max_tokens, suppress_tokens=never,
                eos_token_id=list(spec.ends), pad_token_id=spec.ends[0])
            seconds += time.perf_counter() - began
            new = out[0, inputs["input_ids"].shape[1] :].tolist()
            said.append(processor.tokenizer.decode([i for i in new if i not in spec.ends]))
        return said, seconds

    threads, found = torch.get_num_threads(), []
    try:
        with torch.inference_mode():
            once(asked[:1])
            for count in sorted({1, threads}):
                torch.set_num_threads(count)
                found.append(once(asked))
    finally:
        torch.set_num_threads(threads)
    return min(found, key=lambda pair: pair[1])


@contextlib.contextmanager
def served(args: argparse.Namespace) -> Iterator[int]:
    """The server's port; it is told to stop in the end, and must end well."""
    command = [sys.executable, "-m", "fourd4d.serve", f"--checkpoint={args.checkpoint}",
               "--port=0", f"--slots={args.decode_slots}", f"--max_tokens={args.tokens}",
               f"--queue={2 * args.clients}", "--max_frames=16", "--max_text=128"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        for line in server.stdout:
            if line.startswith("serving "):
                yield int(line.rsplit(":", 1)[1])
                break
        else:
            raise InputError("bench serve", "the server did not start", "See what it said above")
    finally:
        server.terminate()
        status = server.wait(120)
    if status:
        raise InputError("bench serve", f"the server ended with status {status}",
                         "See what it said above")


def load_of(port: int, asked: Sequence[Asked], wanted: Sequence[str], clients: int, rounds: int
            ) -> tuple[list[float], float, int]:
    """Seconds of each request, of all together, and how many answers were not the right ones."""
    bodies = [one.body() for one in asked]

    def client(number: int) -> tuple[list[float], int]:
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        taken, wrong = [], 0
        for turn in range(rounds):
            which = (number + turn * clients) % len(asked)
            began = time.perf_counter()
            line.request("POST", "/v1/chat/completions", bodies[which],
                         {"Content-Type": "application/json"})
            reply = line.getresponse()
            value = json.loads(reply.read())
            taken.append(time.perf_counter() - began)
            wrong += reply.status != 200 or (
                value["choices"][0]["message"]["content"] != wanted[which])
        line.close()
        return taken, wrong

    began = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(client, range(clients)))
    seconds = time.perf_counter() - began
    return [s for taken, _ in found for s in taken], seconds, sum(wrong for _, wrong in found)


def _data_url(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
