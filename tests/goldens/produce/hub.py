"""A cache as the hub's Python client makes it, of repositories on this machine. Run: python hub.py (writes ../hub/cache)."""

import hashlib
import json
import os
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

CACHE = Path(__file__).parent.parent / "hub" / "cache"

MODEL = {
    "config.json": b'{"model_type": "tiny"}',
    "tokenizer.json": b"{}",
    "model.safetensors": b"not weights",
    "sub/folder.json": b"[]",
}
ROWS = {
    "README.md": b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train.jsonl\n---\n",
    "data/train.jsonl": b'{"prompt": "2 + 2 = ", "chosen": "4", "rejected": "5"}\n',
}
REPOSITORIES = {
    "models/owner/model": ("a" * 40, MODEL),
    "models/owner/partial": ("b" * 40, MODEL),
    "datasets/owner/rows": ("c" * 40, ROWS),
}


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "api":
            if "/".join(parts[1:4]) not in REPOSITORIES:
                return self.answer(404, {}, b"")
            commit, files = REPOSITORIES["/".join(parts[1:4])]
            said = {"id": "/".join(parts[2:4]), "sha": commit, "siblings": [{"rfilename": name} for name in files]}
            if parts[4:5] == ["tree"]:
                said = [{"type": "file", "path": name, "size": len(text), "oid": "0"} for name, text in files.items()]
            return self.answer(200, {"Content-Type": "application/json"}, json.dumps(said).encode())
        if parts[0] != "datasets":
            parts = ["models", *parts]
        commit, files = REPOSITORIES["/".join(parts[:3])]
        content = files["/".join(parts[5:])]
        etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        if parts[5].endswith(".safetensors"):
            etag = hashlib.sha256(content).hexdigest()
        self.answer(200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, content)

    do_HEAD = do_GET


server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_HUB_DISABLE_XET"] = "1"
shutil.rmtree(CACHE, ignore_errors=True)

from huggingface_hub import hf_hub_download, snapshot_download  # noqa: E402: it reads the variables when it is imported

snapshot_download("owner/model", cache_dir=CACHE)
snapshot_download("owner/rows", repo_type="dataset", revision="v1", cache_dir=CACHE)
hf_hub_download("owner/partial", "config.json", cache_dir=CACHE)
shutil.rmtree(CACHE / ".locks", ignore_errors=True)
for path in sorted(CACHE.rglob("*")):
    print(path.relative_to(CACHE), "->", os.readlink(path) if path.is_symlink() else "")
