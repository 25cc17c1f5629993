"""The command: how it starts, how it is refused, how it stops, and what it stands."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import prometheus_client.parser
import pytest
from helpers.serving import GARBAGE, body, clip, command, hang_up

import fourd4d
from fourd4d.serve.__main__ import main

SMALL = ("--checkpoint=tiny-base", "--max_tokens=64", "--max_text=64", "--max_frames=4")
SOAK_SECONDS = float(os.environ.get("FOURD4D_SOAK_SECONDS", "120"))
OPTIONS = ["Left", "Right", "Up", "Down"]


def question(**more):
    return body(clip(0, frames=4, side=64), "Where does the red square go?",
                {"options": OPTIONS}, **more)


def send(port, value):
    """The response to a request, its body unread."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    line.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
    return line.getresponse()


def said(reply):
    """The text of a streamed response, which must be whole."""
    events = [line.removeprefix("data: ") for line in reply.read().decode().split("\n\n") if line]
    assert events[-1] == "[DONE]", events[-1]
    chunks = [json.loads(event) for event in events[:-1] if not event.startswith(":")]
    assert not any("error" in chunk for chunk in chunks), chunks[-1]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


@pytest.fixture(scope="module")
def want():
    return fourd4d.load("tiny-base").answer(
        clip(0, frames=4, side=64), "Where does the red square go?", OPTIONS, max_tokens=64).text


@pytest.mark.parametrize("flags, told", [
    (["--checkpoint=/no/where"], "/no/where"),
    (["--checkpoint=tiny-base", "--root=/no/where"], "--root: '/no/where' is not a folder"),
    (["--checkpoint=tiny-base", "--key_env=NO_SUCH_KEY"], "--key_env: the variable NO_SUCH_KEY"),
    (["--checkpoint=tiny-base", "--slots=0"], "--slots: bad value 0"),
    (["--checkpoint=tiny-base", "--host=no.such.host.invalid"], "--port: cannot listen"),
])
def test_bad_flags_are_told_before_anything_is_opened(flags, told, capsys):
    assert main(flags) == 2
    assert told in capsys.readouterr().err


def test_a_port_in_use_is_told(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--checkpoint=tiny-base", f"--port={port}"]) == 2
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_finishes_what_runs_and_refuses_what_comes(want, sign):
    flags = "--slots=1", "--turns=1", "--header_timeout=1"
    with command(*SMALL, *flags) as (server, port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
            assert silent.recv(1) == b""  # Who asks nothing is not waited for.
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            begun = send(port, question(stream=True))
            behind = [pool.submit(send, port, question(stream=True)) for _ in range(5)]
            wait_for(port, lambda found: found["fourd4d_waiting"] >= 4)
            server.send_signal(sign)
            until_refused(port)
            assert server.poll() is None  # It still answers the others.
            texts = [said(reply) for reply in (begun, *(one.result() for one in behind))]
        assert texts == [want] * 6
        assert server.wait(60) == 0
        assert server.stdout.read().splitlines()[-1] == "stopped"


@pytest.mark.slow
def test_a_second_signal_and_the_end_of_the_time_do_not_wait():
    for flags, signals in (((), 2), (("--drain=1",), 1)):
        with command(*SMALL, "--slots=1", "--turns=1", *flags) as (server, port):
            lines = [threading.Thread(target=send_and_forget, args=(port,)) for _ in range(40)]
            for line in lines:
                line.start()
            wait_for(port, lambda found: found["fourd4d_waiting"] >= 30)
            for _ in range(signals):
                server.send_signal(signal.SIGTERM)
                time.sleep(0.5)
            assert server.wait(20) == 0
            for line in lines:
                line.join()


def send_and_forget(port):
    with contextlib.suppress(OSError, http.client.HTTPException):
        send(port, question()).read()


def until_refused(port):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                time.sleep(0.02)
        except ConnectionRefusedError:
            return
    raise AssertionError("it still takes connections")


def metrics(port):
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", "/metrics")
    text = line.getresponse().read().decode()
    line.close()
    return {sample.name + "".join(sample.labels.values()): sample.value
            for family in prometheus_client.parser.text_string_to_metric_families(text)
            for sample in family.samples}


def wait_for(port, true, seconds=60.0):
    end = time.monotonic() + seconds
    while not true(found := metrics(port)):
        assert time.monotonic() < end, found
        time.sleep(0.05)


def resident(process):
    """Bytes of memory that a process holds."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def half_a_request(port, rng):
    """A request that ends somewhere, or is none."""
    whole = (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
             b"application/json\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000)
    data = rng.choice([whole, bytes(rng.randrange(256) for _ in range(200)), b"X" * 100_000])
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as line:
        line.sendall(data[: rng.randrange(len(data))])
        if rng.random() < 0.5:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # Reset.


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads memory from /proc")
def test_a_soak_of_garbage_floods_and_broken_pipes_leaves_it_well(want):
    with command(*SMALL, "--slots=4", "--queue=16", "--max_body=400000") as (server, port):
        end, seen, ends = time.monotonic() + SOAK_SECONDS, [], threading.Lock()

        def note(*statuses):
            with ends:
                seen.extend(statuses)

        def one(seed):
            rng = random.Random(seed)
            while time.monotonic() < end:
                kind = rng.randrange(6)
                with contextlib.suppress(ConnectionError, http.client.HTTPException):
                    if kind == 0:
                        note(send(port, rng.choice(GARBAGE)).status)
                    elif kind == 1:
                        half_a_request(port, rng)
                    elif kind == 2:
                        hang_up(port, question(stream=rng.random() < 0.5), rng.random() * 0.5)
                    elif kind == 3:
                        note(send(port, b" " * 500_000).status)
                    else:
                        reply = send(port, question(max_tokens=rng.randrange(1, 65)))
                        text = json.loads(reply.read())
                        note(reply.status)
                        if reply.status == 200:
                            assert want.startswith(
                                text["choices"][0]["message"]["content"].rstrip("\ufffd"))

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            futures = [pool.submit(one, seed) for seed in range(40)]
            time.sleep(SOAK_SECONDS / 4)
            before = resident(server)
            for future in futures:
                future.result()
        assert set(seen) <= {200, 400, 404, 413, 429} and {200, 400, 413, 429} <= set(seen)
        wait_for(port, lambda found: not found["fourd4d_running"] and not found["fourd4d_waiting"])
        found = metrics(port)
        assert found["fourd4d_requests_total200"] >= seen.count(200)
        assert found["fourd4d_requests_total499"] > 0 and "fourd4d_requests_total500" not in found
        assert said(send(port, question(stream=True))) == want
        assert resident(server) < 1.2 * before + 50e6, (before, resident(server))
        assert len(os.listdir(f"/proc/{server.pid}/fd")) < 100
        print(f"{len(seen)} answered: {({s: seen.count(s) for s in sorted(set(seen))})}, "
              f"{before / 1e6:.0f} MB, then {resident(server) / 1e6:.0f} MB")
        server.terminate()
        assert server.wait(60) == 0
