#!/usr/bin/env bash
# huggingface_hub 1.5.0, HfApi(endpoint=…) of another hub than that of HF_ENDPOINT.
# Expected: create_commit (and upload_folder, upload_file) return the commit that the hub has made.
# Seen: the hub makes the commit, then ValueError: the address of the commit is read with the default
#   hub's address, not with that of the HfApi object.
# Hurt: whoever uploads to a hub of their own by HfApi(endpoint=…): each upload seems to fail after it
#   has been done, and a retry makes a second commit.
# Exits 0 while that is so, 1 when it changed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet huggingface_hub==1.5.0
env -u HF_ENDPOINT HF_HOME="$folder/home" "$folder/venv/bin/python" - <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi

made = []


class Hub(BaseHTTPRequestHandler):
    """Takes every file, and says so as the hub does."""

    def log_message(self, *_):
        pass

    def do_POST(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.endswith("/preupload/main"):
            body = {"files": [{"path": file["path"], "uploadMode": "regular",
                               "shouldIgnore": False} for file in json.loads(data)["files"]]}
        else:
            made.append(self.path)
            body = {"commitUrl": f"{url}/me/model/commit/abc", "commitOid": "abc"}
        out = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)


server = HTTPServer(("127.0.0.1", 0), Hub)
url = f"http://127.0.0.1:{server.server_port}"
threading.Thread(target=server.serve_forever, daemon=True).start()
print("huggingface_hub", huggingface_hub.__version__)
print("expected: create_commit returns the commit abc")
try:
    done = HfApi(endpoint=url, token="t").create_commit(
        "me/model", [CommitOperationAdd("a.txt", b"text")], commit_message="m")
    seen = f"it returns {done.oid}"
except ValueError as error:
    seen = f"{len(made)} commit made, then ValueError: {str(error)[:60]}"
print("seen:", seen)
sys.exit(0 if made and "ValueError" in seen else 1)
PY
