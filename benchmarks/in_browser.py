"""transformers.js in a real Chromium, driven from Python: what it reads and writes with a folder that edgearte exported.

Nothing comes from the net while it runs: the folder, transformers.js and onnxruntime-web's WebAssembly are served from this machine, with
the headers that let a page use threads, and the browser is told to find no other host.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGE = Path(__file__).with_suffix(".html")
# The packages of npm, and what of them a page needs: transformers.js is built with this onnxruntime-web and no other.
PACKAGES = {
    "@huggingface/transformers@4.3.1": ("transformers.min.js",),
    "onnxruntime-web@1.31.0-dev.20260914-8d85527a0": ("ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
CACHE = Path.home() / ".cache" / "edgearte" / "transformers.js"
PATIENCE_MS = 10 * 60 * 1000  # a page that has not answered by then hangs


def libraries(cache: Path = CACHE) -> Path:
    """The folder of transformers.js and its WebAssembly, of these versions, fetched from npm where they are not there yet."""
    folder = cache / "-".join(package.rpartition("@")[2] for package in PACKAGES)
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as place:
        whole = Path(place) / "whole"
        whole.mkdir()
        for package, files in PACKAGES.items():
            done = subprocess.run(["npm", "pack", "--silent", package], cwd=place, stdout=subprocess.PIPE, text=True, check=True)
            with tarfile.open(Path(place) / done.stdout.split()[-1]) as packed:
                for name in files:
                    held = packed.extractfile(f"package/dist/{name}")
                    assert held is not None
                    (whole / name).write_bytes(held.read())
        if not folder.is_dir():  # another may have been faster
            whole.rename(folder)
    return folder


@contextmanager
def opened(folder: Path, lib: Path) -> Iterator[Page]:
    """A page of headless Chromium with the model of `folder` loaded; `greedy` and others ask it. `lib` is the folder of `libraries`.
    Raises playwright's own error with what the page said."""
    from playwright.sync_api import sync_playwright

    with _served({"/model/": folder, "/lib/": lib}) as address, sync_playwright() as play:
        options = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        if os.name == "posix" and os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium has none for root
        chromium = play.chromium.launch(executable_path=program(), args=options)
        try:
            page = chromium.new_page()
            page.set_default_timeout(PATIENCE_MS)
            page.goto(address)
            page.wait_for_function("() => 'load' in window")
            page.evaluate("load()")
            yield page
        finally:
            chromium.close()


def program() -> str:
    """The Chromium of this system, as Debian and others call it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        raise FileNotFoundError(f"no browser: none of {', '.join(names)} is on the PATH; on Debian, apt-get install chromium")
    return found


def greedy(page: Page, prompt: str, count: int) -> tuple[list[int], list[int]]:
    """The token ids of a prompt, and those that the model adds."""
    answer = page.evaluate("greedy", [prompt, count])
    return answer["read"], answer["said"]


def tokens(page: Page, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of texts."""
    ids: list[list[int]] = page.evaluate("tokens", list(texts))
    return ids


def render(page: Page, messages: Sequence[dict[str, str]], prompt: bool) -> str | None:
    """A conversation by the folder's chat template, with the beginning of an answer if `prompt`; None where there is no template."""
    text: str | None = page.evaluate("render", [list(messages), prompt])
    return text


@contextmanager
def _served(folders: dict[str, Path]) -> Iterator[str]:
    """The address of a server on this machine that has the page, and the folders under their prefixes."""

    class Handler(SimpleHTTPRequestHandler):
        def guess_type(self, path: str | os.PathLike[str]) -> str:
            kinds = {".mjs": "text/javascript", ".wasm": "application/wasm"}  # a browser insists, and not every system knows
            return kinds.get(Path(path).suffix) or super().guess_type(path)

        def translate_path(self, path: str) -> str:
            for prefix, folder in folders.items():
                if path.startswith(prefix):
                    return str(folder / path.removeprefix(prefix))
            return str(PAGE if path == "/" else PAGE.parent / "nothing")

        def end_headers(self) -> None:
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
