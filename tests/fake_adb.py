"""A stand-in for adb's server with one device, which runs what it is asked with the local shell: what the real adb client speaks to.

The smart-socket protocol as adb's SERVICES.TXT and the shell protocol (v2) have it: a request is four hexadecimal digits of length and
text; a shell's streams are packets of a number, a length of four bytes, and bytes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

IN, OUT, ERR, EXIT, CLOSE = 0, 1, 2, 3, 4
VERSION = 41
FEATURES = b"shell_v2,cmd"


class Adb:
    """The server: one device of a serial number, whose files lie in a folder. `cut` breaks every connection there is."""

    def __init__(self, serial: str, folder: Path) -> None:
        self.serial = serial
        self.state = "device"
        self._folder = folder
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> int:
        """Break all connections; how many there were."""
        gone = list(self._open)
        for connection in gone:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        return len(gone)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            while request := self._request(connection):
                if request == "host:version":
                    return _say(connection, f"{VERSION:04x}".encode())
                if request.endswith(":features") or request == "host:host-features":
                    return _say(connection, FEATURES)
                if request.startswith(("host:tport:", "host:transport:", "host:transport-any")):
                    if not self._there(request):
                        return _fail(connection, f"device '{request.rpartition(':')[2]}' not found")
                    if self.state != "device":
                        return _fail(connection, f"device {self.state}")
                    connection.sendall(b"OKAY" + (struct.pack("<Q", 1) if request.startswith("host:tport:") else b""))
                elif request.startswith("shell,v2"):
                    connection.sendall(b"OKAY")
                    return self._shell(connection, request.partition(":")[2])
                else:
                    return _fail(connection, f"unknown request {request}")
        return None

    def _there(self, request: str) -> bool:
        return request.endswith((":any", "-any", f":{self.serial}"))

    def _shell(self, connection: socket.socket, script: str) -> None:
        environment = {**os.environ, "EDGEARTE_HOME": str(self._folder)}
        child = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
        )
        assert child.stdin and child.stdout and child.stderr
        self._open.add(connection)
        lock = threading.Lock()

        def send(kind: int, data: bytes) -> None:
            with lock:
                connection.sendall(struct.pack("<BI", kind, len(data)) + data)

        def pump(kind: int, stream: object) -> None:
            with contextlib.suppress(OSError, ValueError):
                while data := stream.read(1 << 15):  # type: ignore[attr-defined]
                    send(kind, data)

        pumps = [threading.Thread(target=pump, args=(k, s), daemon=True) for k, s in ((OUT, child.stdout), (ERR, child.stderr))]
        feeder = threading.Thread(target=self._feed, args=(connection, child), daemon=True)
        for thread in (*pumps, feeder):
            thread.start()
        for thread in pumps:
            thread.join()
        code = child.wait()
        with contextlib.suppress(OSError):
            send(EXIT, bytes([code & 0xFF]))
            connection.shutdown(socket.SHUT_WR)  # closing would not be noticed while the feeder reads
        feeder.join()
        self._open.discard(connection)

    def _feed(self, connection: socket.socket, child: subprocess.Popen[bytes]) -> None:
        """What comes for the script's input; a connection that breaks ends the script, as adbd does."""
        assert child.stdin
        with contextlib.suppress(OSError, ValueError):
            while head := _exactly(connection, 5):
                kind, size = struct.unpack("<BI", head)
                data = _exactly(connection, size) if size else b""
                if kind == IN:
                    child.stdin.write(data)
                elif kind == CLOSE:
                    child.stdin.close()
        with contextlib.suppress(OSError):
            child.stdin.close()
        child.terminate()

    def _request(self, connection: socket.socket) -> str:
        head = _exactly(connection, 4)
        return _exactly(connection, int(head, 16)).decode() if head else ""


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            return b""
        data += more
    return data


def _say(connection: socket.socket, text: bytes) -> None:
    connection.sendall(b"OKAY" + f"{len(text):04x}".encode() + text)


def _fail(connection: socket.socket, text: str) -> None:
    connection.sendall(b"FAIL" + f"{len(text):04x}".encode() + text.encode())


@contextmanager
def running(serial: str, folder: Path) -> Iterator[Adb]:
    server = Adb(serial, folder)
    try:
        yield server
    finally:
        server.close()
