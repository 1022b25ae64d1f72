"""`edgearte push`, as it is typed, against a server that speaks the hub's protocol."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


class Hub(ThreadingHTTPServer):
    """What was asked of it: repositories made, and files committed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.made: list[dict[str, object]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = False
        self.url = f"http://127.0.0.1:{self.server_port}"


class Asked(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses:
            return self._answer(403, {"error": "no rights to this namespace"})
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self._answer(200, {"url": f"{self.server.url}/me/lights", "name": "me/lights"})
        if self.path.endswith("/preupload/main"):
            names = [f["path"] for f in json.loads(body)["files"]]
            return self._answer(200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        if self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self._answer(200, {"commitUrl": f"{self.server.url}/me/lights/commit/abc", "commitOid": "abc", "success": True})
        return self._answer(200, {"errors": [], "warnings": []})  # the check of the card's front matter

    def _answer(self, status: int, what: dict[str, object]) -> None:
        data = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    contents = {"README.md": b"---\nlicense: mit\n---\n\n# lights\n", "gguf/lights-q8_0.gguf": b"GGUF" + bytes(range(200))}
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    files = {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in contents.items()}
    (folder / "manifest.json").write_text(json.dumps({"files": files}), "utf-8")
    return folder


def push(*arguments: str | Path, hub: Hub | None = None) -> subprocess.CompletedProcess[str]:
    mine = {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_TOKEN": "hf_x", "HF_HUB_DISABLE_XET": "1"}
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | mine
    return subprocess.run(
        [sys.executable, "-m", "edgearte.cli", "push", *map(str, arguments)], capture_output=True, text=True, env=env, check=False
    )


def test_the_whole_bundle_goes_up(bundle: Path, hub: Hub) -> None:
    done = push(bundle, "me/lights", "--private", hub=hub)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"{hub.url}/me/lights/commit/abc")
    assert [(m["name"], m.get("private") or m.get("visibility")) for m in hub.made] in ([("lights", True)], [("lights", "private")])
    assert hub.files == {p.relative_to(bundle).as_posix(): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}


def test_a_dry_run_shows_all_and_asks_nobody(bundle: Path, hub: Hub) -> None:
    done = push(bundle, "me/lights", "--dry-run", hub=hub)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("README.md", "gguf/lights-q8_0.gguf", "manifest.json", "3 files", "nothing was sent"))
    assert (hub.made, hub.files) == ([], {})


def test_what_is_not_what_was_checked_stays_here(bundle: Path, hub: Hub) -> None:
    (bundle / "gguf" / "lights-q8_0.gguf").write_bytes(b"GGUF" + bytes(200))
    done = push(bundle, "me/lights", hub=hub)
    assert done.returncode == 2
    assert "was changed: its sha256 is another" in done.stderr
    assert push(bundle.parent, "me/lights", hub=hub).returncode == 2
    assert "owner/name" in push(bundle, "lights", hub=hub).stderr
    assert (hub.made, hub.files) == ([], {})


def test_a_hub_that_refuses_or_is_not_there_is_one_message(bundle: Path, hub: Hub) -> None:
    hub.refuses = True
    for done in (push(bundle, "me/lights", hub=hub), push(bundle, "me/lights")):
        assert done.returncode == 2, done.stderr
        (line,) = [x for x in done.stderr.splitlines() if x.startswith("edgearte:")]
        assert "me/lights: the hub did not take it" in line
        assert "Traceback" not in done.stderr
