"""A checkpoint behind an OpenAI-compatible server.

    python -m fourd4d.serve --checkpoint=tiny-base --demo

Serves /v1/chat/completions and /v1/models, /health and /metrics, and with --demo a page at /.
Pictures and videos come as data URLs; as file: URLs only below --root; from the web only with
--allow_remote. docs/serving.md has the fields of requests and replies.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from fourd4d.config.help import attributes
from fourd4d.core.errors import InputError
from fourd4d.core.terminal import say
from fourd4d.parallel import make_mesh, use
from fourd4d.pretrained.bundle import DTYPES
from fourd4d.pretrained.open import open_checkpoint
from fourd4d.serve.spec import ServeSpec

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Seconds after which a thread that reads requests lets the device's go on, which waits for no more
# than the interpreter between two programs. Python's own 5 ms are as long as a turn of decoding.
_SWITCH = 0.0005


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults beside the arguments, the description as it stands."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser("python -m fourd4d.serve", description=__doc__,
                                    formatter_class=_Formatter)
    found.add_argument("--checkpoint", required=True,
                       help="a trainer's or a Hugging Face directory, or a name in the package")
    found.add_argument("--host", default="127.0.0.1", help="address to listen on")
    found.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    found.add_argument("--name", default="", help="of the model, for clients; by default the "
                       "checkpoint's folder")
    found.add_argument("--root", default="", help="folder below which file: URLs are read")
    found.add_argument("--allow_remote", action="store_true",
                       help="fetch http(s) URLs, from public addresses only")
    found.add_argument("--probes", action="store_true",
                       help="let requests swap, zero or freeze what is imagined")
    found.add_argument("--demo", action="store_true", help="serve a page at /; implies --probes")
    found.add_argument("--key_env", default="",
                       help="environment variable with the key that clients must send")
    found.add_argument("--mesh", default="single", help="mesh to load onto; tensor=N splits the "
                       "model over N devices")
    found.add_argument("--dtype", choices=sorted(DTYPES), help="of computation; by default the "
                       "checkpoint's")
    found.add_argument("--step", type=int, help="of a trainer's directory; the newest by default")
    texts = attributes(ServeSpec)
    for field in dataclasses.fields(ServeSpec):
        kind = type(field.default)
        found.add_argument(f"--{field.name}", type=kind, default=field.default,
                           help=texts[field.name].replace("%", "%%"))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        serve(args)
    except InputError as error:
        say(error, stderr=True)
        return 2
    return 0


def serve(args: argparse.Namespace) -> None:
    """Loads, compiles and serves until told to stop by SIGTERM or SIGINT.

    Raises InputError for a bad flag, a checkpoint that cannot be opened, a port in use, or where
    the extra ``serve`` is not installed.
    """
    try:
        import uvicorn

        from fourd4d.serve.app import Service, application
        from fourd4d.serve.connections import impatient
    except ImportError as error:
        raise InputError("serve", f"the package {error.name!r} is missing",
                         "pip install 'fourd4d[serve]'") from error
    from fourd4d.serve.media import Sources, checked_root
    from fourd4d.serve.shapes import family
    from fourd4d.serve.worker import Worker

    spec = ServeSpec(**{field.name: getattr(args, field.name)
                        for field in dataclasses.fields(ServeSpec)})
    root, key = checked_root(args.root), ""
    if args.key_env:
        key = os.environ.get(args.key_env, "")
        if not key:
            raise InputError("--key_env", f"the variable {args.key_env} is empty", "Set it")
    listener = _bound(args.host, args.port)
    with contextlib.closing(listener):
        mesh = make_mesh(args.mesh, jax.local_devices()[:1] if args.mesh == "single" else None)
        changes = {"dtype": args.dtype} if args.dtype else {}
        with use(mesh):
            bundle = open_checkpoint(args.checkpoint, mesh, step=args.step, **changes)
        protocol = bundle.processor.protocol
        worker = Worker(bundle, mesh, spec, family(protocol, spec),
                        probes=args.probes or args.demo)
        worker.start(lambda done, of: say(f"compiled {done} of {of} programs"))
        name = args.name or Path(args.checkpoint).resolve().name
        service = Service(bundle, worker, Sources(protocol, spec, root, args.allow_remote), name,
                          key=key)
        # A page elsewhere may point its own name at this machine; it must not be obeyed.
        hosts = (*_LOOPBACK[:2], "[::1]") if args.host in _LOOPBACK else ("*",)
        app = application(service, hosts=hosts, demo=args.demo)
        port = listener.getsockname()[1]
        shown = f"[{args.host}]" if ":" in args.host else args.host
        sys.setswitchinterval(_SWITCH)
        gc.collect()
        gc.freeze()  # A pass over what compiling left behind holds everything up.
        asyncio.run(_run(uvicorn.Config(
            app, http=impatient(spec.header_timeout), log_level="warning", access_log=False,
            lifespan="on", timeout_graceful_shutdown=max(1, round(spec.drain)),
            limit_concurrency=4 * (spec.slots + spec.queue) + 64),
            listener, f"serving {name} on http://{shown}:{port}"))
        say("stopped")


async def _run(config: Any, listener: socket.socket, ready: str) -> None:
    """Serves until a signal; a second one does not wait for what still runs."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # It would end the process by the signal, as if nothing had been finished.

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.started:
                say(ready)

    server = Server(config)

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, stop)
    await server.serve(sockets=[listener])


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address; nobody can connect before the server listens."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except (OSError, OverflowError) as error:
        raise InputError("--port", f"cannot listen on {host}:{port} ({error})",
                         "Choose another") from error


if __name__ == "__main__":
    sys.exit(main())
