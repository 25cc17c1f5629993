"""Only public addresses are asked, and what they send is bounded."""

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fourd4d.core.errors import InputError
from fourd4d.serve import fetch

OWN = ["127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.1.1",
       "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.0.8", "198.18.0.1",
       "240.0.0.1", "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1",
       "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "64:ff9b::7f00:1",
       "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2002:a00:1::1", "2001:db8::1", "fec0::1"]
PUBLIC = ["93.184.216.34", "8.8.8.8", "1.1.1.1", "2606:4700:4700::1111"]


@pytest.mark.parametrize("address", OWN)
def test_own_networks_are_not_public(address):
    assert not fetch.is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_public_network_is(address):
    assert fetch.is_public(address)


def names(monkeypatch, table):
    """Hosts by the addresses that the resolver would give, one list a call."""
    def look_up(host, port, **_):
        found = table[host]
        if found and isinstance(found[0], list):
            found = found.pop(0) if len(found) > 1 else found[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("found", [["127.0.0.1"], ["8.8.8.8", "10.0.0.1"], ["::1"], []])
def test_a_name_with_any_address_of_an_own_network_is_refused(monkeypatch, found):
    names(monkeypatch, {"host.example": found})
    with pytest.raises(InputError, match="not on the public network"):
        fetch.resolve("host.example", 80, "url")


@pytest.mark.parametrize("url", ["http://127.0.0.1/x", "http://2130706433/", "http://[::1]/",
                                 "http://0x7f.1/", "http://localhost:8000/v1/models"])
def test_written_addresses_are_refused(url):
    with pytest.raises(InputError, match="public network|not known"):
        fetch.fetch(url, "url", most_bytes=10, seconds=5.0)


@pytest.mark.parametrize("url", ["ftp://x/y", "http://", "http://x:99999/", "http://[::1", "x"])
def test_what_is_no_web_address_is_refused(url):
    with pytest.raises(InputError, match="is not a web address"):
        fetch.fetch(url, "url", most_bytes=10, seconds=5.0)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.seen.append((self.headers["Host"], self.path))
        kind, _, rest = self.path.partition("?")[0].lstrip("/").partition("/")
        self.send_response(302 if kind == "to" else 404 if kind == "no" else 200)
        if kind == "to":
            self.send_header("Location", f"http://{rest}")
        self.end_headers()
        if kind == "drip":
            for _ in range(50):
                self.wfile.write(b"x")
                time.sleep(0.05)
        self.wfile.write(b"y" * int(rest) if kind == "bytes" else b"")

    def log_message(self, *_):
        pass


@pytest.fixture
def web(monkeypatch):
    """A server on loopback, to which the name public.example leads as if it were public."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.daemon_threads = [], True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    port = server.server_address[1]
    resolve = fetch.resolve

    def planted(host, asked, where):
        return "127.0.0.1" if host == "public.example" else resolve(host, asked, where)

    monkeypatch.setattr(fetch, "resolve", planted)
    yield server, f"public.example:{port}"
    server.shutdown()
    server.server_close()


def get(url, **limits):
    return fetch.fetch(url, "url", **{"most_bytes": 1000, "seconds": 5.0} | limits)


def test_files_come_and_redirects_are_followed(web):
    server, host = web
    assert get(f"http://{host}/bytes/1000?a=b c") == b"y" * 1000
    assert server.seen == [(host, "/bytes/1000?a=b%20c")]
    assert get(f"http://{host}/to/{host}/to/{host}/bytes/3") == b"yyy"


def test_a_redirect_into_an_own_network_is_refused(web):
    server, host = web
    port = host.partition(":")[2]
    for inner in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::ffff:127.0.0.1]:{port}"):
        with pytest.raises(InputError, match="public network"):
            get(f"http://{host}/to/{inner}/bytes/3")
    assert all(path.startswith("/to/") for _, path in server.seen)


def test_the_address_that_was_checked_is_the_one_that_is_asked(monkeypatch):
    """A name that has another address the second time gains nothing: there is no second time."""
    asked = []
    names(monkeypatch, {"host.example": [["8.8.8.8"], ["127.0.0.1"]]})
    monkeypatch.setattr(socket, "create_connection",
                        lambda address, timeout: asked.append(address) or _refuse())
    with pytest.raises(InputError, match="cannot be fetched"):
        get("http://host.example/x")
    assert asked == [("8.8.8.8", 80)]


def _refuse():
    raise ConnectionRefusedError


def test_length_time_and_redirects_are_bounded(web):
    _, host = web
    with pytest.raises(InputError, match="longer than 1000 bytes"):
        get(f"http://{host}/bytes/1001")
    began = time.monotonic()
    with pytest.raises(InputError, match="in time|cannot be fetched"):
        get(f"http://{host}/drip", seconds=0.5)
    assert time.monotonic() - began < 2
    with pytest.raises(InputError, match="status 404"):
        get(f"http://{host}/no")
    with pytest.raises(InputError, match="more than 3 redirects"):
        get(f"http://{host}" + f"/to/{host}" * 4 + "/bytes/3")
