"""Reaching a device: every way to it is a command that runs a POSIX shell there, with its standard streams as they are."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO

from edgearte.device.profile import Device
from edgearte.errors import UserError

CONNECT_S = 10  # to wait for a connection
SSH_FAILED = 255  # ssh's own exit code
# What adb writes to standard error where it has not reached the device at all.
ADB_FAILED = ("error: ", "adb: ", "* daemon", "cannot connect")
ADVICE = {
    "Host key verification failed": "its host key is not known here, or another one is: compare its fingerprint and connect once with ssh",
    "Permission denied": "it does not accept this user or key; name one with identity:, or put the public key into its authorized_keys",
    "Could not resolve hostname": "there is no host of this name; look at address:",
    "Connection refused": "no ssh server answers at this port; is it running there?",
    "timed out": "nothing answers at this address; is it switched on, and in this network?",
    "unauthorized": "allow this computer on the device's screen",
    "not found": "adb does not see it; `adb devices` shows what it sees",
    "offline": "adb sees it and it does not answer; plug it in again",
}


class Unreachable(UserError):
    """The device was not reached, or the connection broke."""


@dataclass(frozen=True)
class Done:
    """A script that ended: its exit code and what it wrote."""

    code: int
    out: bytes
    said: str


class Shell:
    """A shell on a device."""

    def __init__(self, device: Device) -> None:
        if not device.addressed:
            raise UserError(f"{device.name}: its address is {device.address!r}; write yours into a copy of the profile, "
                            f"or use: edgearte device add")  # fmt: skip
        self._device = device
        self._prefix = _prefix(device)

    def run(self, script: str, stdin: bytes | IO[bytes] | None = None, *, timeout_s: float = 60) -> Done:
        """Run a script to its end, with these bytes, or what is left of this file, as its input. `Unreachable` where there is no
        connection, it breaks, or the script takes longer."""
        given: dict[str, object] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin or subprocess.DEVNULL}
        try:
            done = subprocess.run(self.command(script), capture_output=True, timeout=timeout_s, check=False, **given)  # type: ignore[call-overload]
        except FileNotFoundError as error:
            raise UserError(f"{self._device.name}: {error.filename} is not installed here") from None
        except subprocess.TimeoutExpired:
            raise Unreachable(f"{self._device.name}: no answer within {timeout_s:.0f} s") from None
        said = done.stderr.decode("utf-8", "replace").strip()
        if self.broke(done.returncode, said):
            raise self.unreachable(said)
        return Done(done.returncode, done.stdout, said)

    def open(self, script: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start a script whose input and output are streamed; the second is what it writes to standard error."""
        said = tempfile.TemporaryFile()  # noqa: SIM115 (whoever follows the script closes it)
        child = subprocess.Popen(self.command(script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True)
        return child, said

    @cached_property
    def tools(self) -> frozenset[str]:
        """Which of the programs that not every device has are there."""
        asked = "setsid sha256sum"
        script = f"for p in {asked}; do command -v $p >/dev/null 2>&1 && echo $p; done; true"
        return frozenset(self.run(script).out.decode().split())

    def has(self, program: str) -> bool:
        return program in self.tools

    def command(self, script: str) -> list[str]:
        """The command that runs a script there."""
        return [*self._prefix, script]

    def broke(self, code: int, said: str) -> bool:
        """Whether this is how the connection fails, and not the script."""
        if self._device.reach == "ssh":
            return code == SSH_FAILED
        return self._device.reach == "adb" and code != 0 and said.startswith(ADB_FAILED)

    def unreachable(self, said: str) -> Unreachable:
        """What to tell the user of a connection that failed."""
        last = said.strip().splitlines()[-1] if said.strip() else "the connection was closed"
        advice = next((advice for sign, advice in ADVICE.items() if sign in said), "")
        return Unreachable(f"{self._device.name} ({self._device.address}): {last}" + (f"; {advice}" if advice else ""))


def _prefix(device: Device) -> list[str]:
    if device.reach == "local":
        return ["sh", "-c"]
    if device.reach == "adb":
        return ["adb", "-s", device.address, "shell", "-T"]
    host, _, port = device.address.rpartition(":") if device.address.rpartition(":")[2].isdigit() else (device.address, "", "")
    # Host keys are checked as the user's own configuration says, and never less strictly than by asking, which BatchMode refuses.
    options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_S}", "ServerAliveInterval=5", "ServerAliveCountMax=3"]
    return [
        "ssh", "-T", *(part for option in options for part in ("-o", option)),
        *(("-J", device.jump) if device.jump else ()),
        *(("-i", str(Path(device.identity).expanduser()), "-o", "IdentitiesOnly=yes") if device.identity else ()),
        *(("-o", f"UserKnownHostsFile={Path(device.known_hosts).expanduser()}") if device.known_hosts else ()),
        *(("-p", port) if port else ()),
        "--", host,
    ]  # fmt: skip
