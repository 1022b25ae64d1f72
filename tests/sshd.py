"""A real sshd on loopback with keys of its own, and a device profile that reaches it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.system import need

PROGRAMS = {"ssh": "openssh-client", "/usr/sbin/sshd": "openssh-server", "ssh-keygen": "openssh-client"}


@dataclass(frozen=True)
class Server:
    """A server that runs: its folder, its port, and where the device keeps what is put there."""

    folder: Path
    port: int
    pid: int

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def profile(self, **changes: Any) -> Path:
        """A device profile that reaches it."""
        from edgearte.measure.machine import describe

        said = {
            "name": "box", "reach": "ssh", "address": f"{_user()}@127.0.0.1:{self.port}", "identity": str(self.folder / "me"),
            "known_hosts": str(self.folder / "known"), "architecture": "x86_64", "features": describe()["features"], "cores": 1,
            "threads": 1, **changes,
        }  # fmt: skip
        path = self.folder / f"{said['name']}.yaml"
        path.write_text(yaml.safe_dump(said), "utf-8")
        return path

    def cut(self) -> int:
        """Cut every connection there is, as a network does; how many there were."""
        sessions = psutil.Process(self.pid).children()
        for session in sessions:
            with suppress(psutil.NoSuchProcess):  # a session may end of itself meanwhile
                for process in [*session.children(), session]:  # the part that holds the connection, not what runs behind it
                    if process.is_running() and process.name().startswith("sshd"):
                        process.kill()
        return len(sessions)


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server that runs meanwhile."""
    need(PROGRAMS)
    for name in ("host", "me", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "me.pub").read_text())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {' '.join((folder / 'host.pub').read_text().split()[:2])}\n")
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\nPidFile none\nMaxStartups 100\n"
        f"SetEnv EDGEARTE_HOME={folder}/home\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", folder / "config"], stderr=subprocess.DEVNULL)
    try:
        _listening(port)
        yield Server(folder, port, server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _listening(port: int) -> None:
    for _ in range(100):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("sshd does not listen")


def _user() -> str:
    import getpass

    return getpass.getuser()
