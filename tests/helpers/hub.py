"""A small stand-in for a Hugging Face hub, on this machine: reading, uploading, who is who."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "s3cret" * 5


class Hub:
    """Files of each repository by name, and what was asked for.

    Attributes:
      repos: files by ``owner/name``.
      private: repositories that only the token's holder sees.
      asked: (method, path) of every request.
      broken: statuses that the downloads of files, or what is told of repositories, end with.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.broken: dict[str, int] = {}
        self.url = ""

    def commit(self, repo: str) -> str:
        """The repository's state as 40 hexadecimal digits."""
        state = sorted((name, hashlib.sha1(data).hexdigest())
                       for name, data in self.repos[repo].items())
        return hashlib.sha1(repr(state).encode()).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

        def reply(self, status: int, body: Any = b"", **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def allowed(self) -> bool:
            return self.headers.get("Authorization") == f"Bearer {TOKEN}"

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def repo(self, words: list[str]) -> str | None:
            name = "/".join(words[:2])
            if name in hub.repos and (name not in hub.private or self.allowed()):
                return name
            self.reply(401, {"error": "Repository Not Found"}, X_Error_Code="RepoNotFound")
            return None

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path))
            words = path.strip("/").split("/")
            if words[:2] == ["api", "whoami-v2"]:
                return self.reply(200, {"name": "me", "type": "user"}) if self.allowed() else (
                    self.reply(401, {"error": "Invalid user token."}))
            if words[:2] == ["api", "models"]:
                if "/".join(words[2:4]) in hub.broken:
                    return self.reply(hub.broken["/".join(words[2:4])], {"error": "later"})
                name = self.repo(words[2:])
                if name is None:
                    return None
                if len(words) > 4 and words[4] == "revision" and words[5] not in (
                        "main", hub.commit(name)):
                    return self.reply(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
                if words[4:5] == ["tree"]:  # What 1.x asks for.
                    return self.reply(200, [
                        {"type": "file", "path": file, "size": len(data),
                         "oid": hashlib.sha1(data).hexdigest()}
                        for file, data in hub.repos[name].items()])
                files = [{"rfilename": file} for file in hub.repos[name]]
                return self.reply(200, {"id": name, "modelId": name, "sha": hub.commit(name),
                                        "private": name in hub.private, "siblings": files,
                                        "tags": [], "downloads": 0, "likes": 0})
            name = self.repo(words)
            if name is None:
                return None
            file = "/".join(words[4:])
            data = hub.repos[name].get(file)
            if data is None:
                return self.reply(404, {"error": "no"}, X_Error_Code="EntryNotFound")
            if file in hub.broken and self.command == "GET":
                return self.reply(hub.broken[file], {"error": "later"})
            return self.reply(200, data, X_Repo_Commit=hub.commit(name),
                              ETag=f'"{hashlib.sha1(data).hexdigest()}"')

        def do_POST(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path))
            data = self.body()
            if not self.allowed():
                return self.reply(403, {"error": "no right"})
            words = path.strip("/").split("/")
            if words == ["api", "repos", "create"]:
                value = json.loads(data)
                name = f"{value.get('organization') or 'me'}/{value['name']}"
                if name in hub.repos:
                    return self.reply(409, {"error": "exists", "url": f"{hub.url}/{name}"})
                hub.repos[name] = {}
                if value.get("private") or value.get("visibility") == "private":
                    hub.private.add(name)
                return self.reply(200, {"url": f"{hub.url}/{name}", "id": name})
            if words == ["api", "validate-yaml"]:
                return self.reply(200, {"errors": [], "warnings": []})
            name = "/".join(words[2:4])
            if words[4] == "preupload":
                return self.reply(200, {"files": [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(data)["files"]]})
            lines = [json.loads(line) for line in data.decode().splitlines()]
            for line in lines:
                if line["key"] == "file":
                    hub.repos[name][line["value"]["path"]] = base64.b64decode(
                        line["value"]["content"])
            return self.reply(200, {"commitUrl": f"{hub.url}/{name}/commit/{hub.commit(name)}",
                                    "commitOid": hub.commit(name), "success": True})

    return Handler


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers until the block ends; its address is ``url``."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
