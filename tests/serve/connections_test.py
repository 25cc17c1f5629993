"""Who sends no headers, or sends them slowly, is cut off; nobody else is."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from fourd4d.serve.connections import impatient

LIMIT = 0.6
REQUEST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n"


async def echo(scope, receive, send):
    """Answers with the body, after longer than the limit."""
    body = b""
    while len(body) < 2:
        body += (await receive())["body"]
    await asyncio.sleep(1.5 * LIMIT)
    await send({"type": "http.response.start", "status": 200,
                "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port():
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(
        echo, http=impatient(LIMIT), lifespan="off", log_level="error", timeout_keep_alive=60))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(30)
    listener.close()


@contextlib.contextmanager
def connected(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        yield line


def closed_after(line, drip=b""):
    """Seconds until the server closes a line on which a byte is sent now and then."""
    began, line_is_open = time.monotonic(), True
    line.settimeout(0.05)
    while line_is_open:
        assert time.monotonic() - began < 10, "it is still open"
        try:
            if drip:
                line.sendall(drip)
            line_is_open = bool(line.recv(100))
        except TimeoutError:
            pass
        except ConnectionError:
            line_is_open = False
    return time.monotonic() - began


def answered(line):
    said = b""
    while not said.endswith(b"ab"):
        part = line.recv(1000)
        assert part, "the server closed the line"
        said += part
    assert said.startswith(b"HTTP/1.1 200")


def test_a_silent_line_and_slow_headers_are_cut_off(port):
    with connected(port) as line:
        assert closed_after(line) > 0.5 * LIMIT
    with connected(port) as line:
        line.sendall(b"GET / HTTP/1.1\r\nx: ")
        assert closed_after(line, b"y") > 0.5 * LIMIT


def test_a_kept_line_has_the_time_again_for_each_request(port):
    with connected(port) as line:
        for _ in range(2):
            line.sendall(REQUEST + b"ab")
            answered(line)
        time.sleep(1.5 * LIMIT)  # Nothing is asked: keep-alive has a time of its own.
        line.sendall(REQUEST[:20])
        time.sleep(0.3 * LIMIT)
        line.sendall(REQUEST[20:] + b"ab")
        answered(line)
        line.sendall(REQUEST[:-4] + b"\r\ny: ")
        assert closed_after(line, b"y") > 0.5 * LIMIT


def test_slow_bodies_and_slow_answers_are_not_cut_off(port):
    with connected(port) as line:
        line.sendall(REQUEST + b"a")
        time.sleep(2 * LIMIT)
        line.sendall(b"b")
        answered(line)
