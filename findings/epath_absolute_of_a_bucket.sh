#!/usr/bin/env bash
# etils 1.15.0, epath.Path("gs://bucket/run").absolute() and .resolve().
# Expected: a path in a bucket is absolute, and stays what it is.
# Seen: the working directory is put in front: /cwd/gs:/bucket/run, a local folder.
# Hurt: whoever makes paths absolute before a library that wants that (checkpoints, say): the run
# writes to the local disk, which a cloud machine loses, and says nothing.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "etils[epath]==1.15.0" fsspec==2026.9.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import importlib.metadata
import os
import sys

from etils import epath

print("etils", importlib.metadata.version("etils"))
path = epath.Path("gs://bucket/run")
found = [os.fspath(path.absolute()), os.fspath(path.resolve())]
print("expected:", os.fspath(path), os.fspath(path))
print("seen:    ", *found)
sys.exit(0 if all(text == f"{os.getcwd()}/gs:/bucket/run" for text in found) else 1)
PY
