"""A private image registry on this machine, as small as the engine puts up with, and as slow as asked."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Registry:
    """Serves one image to who logs in with ``user`` and ``password``; a context."""

    def __init__(self, user: str, password: str, *, layer_mb: int, seconds: float) -> None:
        self.authorization = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self.seconds = seconds
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo("content")
            entry.size = layer_mb * 2**20
            tar.addfile(entry, io.BytesIO(os.urandom(entry.size)))
        layer = gzip.compress(archive.getvalue(), 0)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]},
                "rootfs": {"type": "layers", "diff_ids": [_digest(archive.getvalue())]},
            }
        ).encode()
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {
                    "mediaType": "application/vnd.docker.container.image.v1+json",
                    "size": len(config),
                    "digest": _digest(config),
                },
                "layers": [
                    {
                        "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "size": len(layer),
                        "digest": _digest(layer),
                    }
                ],
            }
        ).encode()
        self.blobs = {_digest(blob): blob for blob in (layer, config, manifest)}
        self.blobs["1"] = manifest
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        self.image = f"{self.host}/private/image:1"

    def __enter__(self) -> Registry:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                blob = registry.blobs.get(
                    self.path.rpartition("/")[2], b"{}" if self.path == "/v2/" else None
                )
                if self.headers.get("Authorization") != registry.authorization:
                    self._answer(401, b'{"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}')
                elif blob is None:
                    self._answer(404, b"{}")
                else:
                    self._answer(200, blob)

            do_HEAD = do_GET

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("WWW-Authenticate", 'Basic realm="here"')
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", MANIFEST if b'"layers"' in body else "application/json")
                self.send_header("Docker-Content-Digest", _digest(body))
                self.end_headers()
                if self.command == "HEAD":
                    return
                parts = 20 if len(body) > 100_000 else 1
                for number in range(parts):
                    self.wfile.write(body[number * len(body) // parts : (number + 1) * len(body) // parts])
                    if parts > 1:
                        time.sleep(registry.seconds / parts)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
