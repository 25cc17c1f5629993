"""An OpenAI-compatible endpoint on loopback that answers as told."""

import collections
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fourd4d.synth.vlm.openai_backend import Endpoint

KEY = "sk-very-secret-0123456789"


def says(text, **more):
    return 200, json.dumps({"choices": [{"message": {"content": text}}], **more}), {}


class Server(ThreadingHTTPServer):
    """Plays ``script``: (status, body, headers), or ``hang``; a callable makes the reply."""

    daemon_threads = True

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script if callable(script) else collections.deque(script)
        self.seen, self.busy, self.most, self.lock = [], 0, 0, threading.Lock()
        self.let_go = threading.Event()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        with server.lock:
            server.seen.append((self.path, dict(self.headers), json.loads(body)))
            server.busy += 1
            server.most = max(server.most, server.busy)
            played = server.script if callable(server.script) else server.script.popleft()
        try:
            played = played(json.loads(body)) if callable(played) else played
            if played == "hang":
                server.let_go.wait(20)
                return
            status, text, headers = played
            data = text.encode() if isinstance(text, str) else text
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # The client hung up.
        finally:
            with server.lock:
                server.busy -= 1

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def serve(*script, **options):
        server = Server(script[0] if len(script) == 1 and callable(script[0]) else script)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        pauses = []
        options = {"timeout": 10.0, "sleep": pauses.append, "retries": 3} | options
        return server, Endpoint(f"http://127.0.0.1:{server.server_address[1]}/v1", "eye",
                                **options), pauses

    yield serve
    for server in servers:
        server.let_go.set()
        server.shutdown()
        server.server_close()


def answers(**fixed):
    """A model that gives sensible replies by what is asked; ``fixed`` overrides."""

    def reply(body):
        text = body["messages"][0]["content"][-1]["text"]
        if '"same"' in text:
            return says(fixed.get("same", '{"same": true, "reason": "alike"}'))
        if '"name"' in text:
            return says(fixed.get("name", '{"name": "Toy block"}'))
        if '"question": "..."' in text:
            told = text.rsplit("\n\n", 1)[1]
            return says(fixed.get("question", json.dumps({"question": "Tell me: " + told})))
        told = text.rsplit("Reasoning: ", 1)[1]
        return says(fixed.get("reasoning", json.dumps({"reasoning": "Well. " + told})))

    return reply
