"""Chromium without a window, driven by its own protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)


class Tab:
    """One page. ``errors`` are what its console complained of."""

    def __init__(self, address: str):
        self._line = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._numbers = itertools.count(1)
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params):
        number = next(self._numbers)
        self._line.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            told = json.loads(self._line.recv())
            if told.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["params"]["exceptionDetails"])[:500])
            if told.get("method") == "Log.entryAdded" and (
                    told["params"]["entry"]["level"] == "error"):
                self.errors.append(told["params"]["entry"]["text"])
            if told.get("id") == number:
                assert "error" not in told, told
                return told["result"]

    def js(self, code: str):
        """The value of an expression."""
        done = self.call("Runtime.evaluate", expression=code, returnByValue=True,
                         awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def until(self, code: str, seconds: float = 60.0):
        end = time.monotonic() + seconds
        while not (value := self.js(code)):
            assert time.monotonic() < end, f"never: {code}; page errors {self.errors}"
            time.sleep(0.1)
        return value

    def type(self, element: str, text: str) -> None:
        self.js(f"document.getElementById({element!r}).focus()")
        self.call("Input.insertText", text=text)

    def choose_file(self, element: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=f"#{element}")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser(url: str, width: int = 1200, height: int = 1000):
    """A tab that shows ``url``."""
    with tempfile.TemporaryDirectory(prefix="chromium-") as folder:
        running = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
             "--remote-debugging-port=0", f"--user-data-dir={folder}",
             f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            file, end = Path(folder) / "DevToolsActivePort", time.monotonic() + 60
            while not (file.exists() and len(file.read_text().split()) == 2):
                assert time.monotonic() < end and running.poll() is None, "chromium did not start"
                time.sleep(0.1)
            port = file.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as reply:
                pages = [page for page in json.load(reply) if page["type"] == "page"]
            tab = Tab(pages[0]["webSocketDebuggerUrl"])
            tab.call("Page.navigate", url=url)
            yield tab
        finally:
            running.terminate()
            running.wait(30)
