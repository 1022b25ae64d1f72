"""Reaching a device: every way to it is a command here that runs a POSIX shell there, with its standard streams as they are."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from edgearte.device.profile import Device, parsed
from edgearte.errors import UserError

CONNECT_S = 10  # to wait for a connection
ENDED = "edgearte: the script ended with"  # a script's last words, without which the connection broke
LOOK_S = 0.5  # how often a script that runs is looked after
PATIENCE_S = 180.0
PAUSES = (0.5, 1.0, 2.0, 4.0)
INSTALL = {"ssh": "apt-get install openssh-client", "adb": "apt-get install adb, or Android's platform-tools"}
# What ssh and adb say, and what to do about it; the first that fits.
ADVICE = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "the device shows another key than the one that is known here; where it was set up anew, "
    "remove the old one: ssh-keygen -R '{known}'",
    "Host key verification failed": "its host key is not known here; connect once with `ssh {login}`, and compare the fingerprint with "
    "what the device itself shows: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
    "Permission denied": "it does not take this user with this key; put the public key onto it (ssh-copy-id {login}), or name another "
    "one as identity: in the profile",
    "Could not resolve": "there is no host of this name; look at address: in the profile",
    "Connection refused": "no ssh server answers there; is it on, and is this its port?",
    "No route to host": "is it switched on, and in this network?",
    "timed out": "is it switched on, and in this network?",
    "unauthorized": "allow this computer on the device's screen",
    "offline": "adb sees it, but it does not answer; plug it in again, or switch USB debugging off and on",
    "not found": "adb does not see it; `adb devices` shows what it sees",
    "cannot connect to daemon": "adb's own server does not answer; start it: adb start-server",
}
Result = TypeVar("Result")


class Unreachable(UserError):
    """The device was not reached, or the connection broke."""


@dataclass(frozen=True)
class Done:
    """A script that ended: its exit code, its output, and what it wrote to standard error."""

    code: int
    out: bytes
    said: str


class Patience:
    """With a connection that breaks: it is tried again until nothing has come of it for so many seconds."""

    def __init__(self, seconds: float = PATIENCE_S) -> None:
        self._seconds = seconds
        self._far, self._since, self._pauses = -1, time.monotonic(), iter(PAUSES)

    def came(self, far: int) -> None:
        """Tell that it stands again, and how far it has come: where that is further than before, something came of it."""
        self._pauses = iter(PAUSES)
        if far > self._far:
            self._far, self._since = far, time.monotonic()

    def wait(self, broken: Unreachable) -> None:
        """Wait before the next attempt, each time longer; where patience is at its end, raise what broke."""
        if time.monotonic() - self._since > self._seconds:
            raise broken
        time.sleep(next(self._pauses, PAUSES[-1]))


def patiently(action: Callable[[Patience], Result], seconds: float = PATIENCE_S) -> Result:
    """What an action gives, tried again while the connection breaks and comes back."""
    patience = Patience(seconds)
    while True:
        try:
            return action(patience)
        except Unreachable as error:
            patience.wait(error)


class Shell:
    """A shell on a device."""

    def __init__(self, device: Device) -> None:
        if not device.addressed:
            raise UserError(f"{device.name}: its profile has no address yet; `edgearte device add` asks for yours, or copy the profile, "
                            f"write it there, and name the file")  # fmt: skip
        self._device = device
        self._prefix = _prefix(device)

    def run(
        self, script: str, stdin: bytes | IO[bytes] = b"", *, timeout_s: float = 60, meanwhile: Callable[[], object] = lambda: None
    ) -> Done:
        """Run a script to its end, with these bytes, or what is left of this file, as its input. `Unreachable` where there is no
        connection, it breaks, or the script takes longer. `meanwhile` is called twice a second."""
        # Neither ssh's exit code (255 may be the script's own) nor adb's (0 where the line was cut) tells a broken connection from an end.
        given = stdin if isinstance(stdin, bytes) else None
        child = self._start(f"(\n{script}\n)\necho {shlex.quote(ENDED)} $? >&2", subprocess.PIPE if isinstance(stdin, bytes) else stdin)
        until = time.monotonic() + timeout_s
        try:
            while True:
                try:
                    out, err = child.communicate(given, timeout=LOOK_S)
                    break
                except subprocess.TimeoutExpired:
                    given = None  # it has it already
                    meanwhile()
                    if time.monotonic() > until:
                        raise Unreachable(f"{self._device.name}: no answer within {timeout_s:.0f} s") from None
        finally:
            end(child)
        lines = err.decode("utf-8", "replace").strip().splitlines()
        said = "\n".join(line for line in lines if not line.startswith(ENDED))
        codes = [line.rpartition(" ")[2] for line in lines if line.startswith(ENDED)]
        if not codes:
            raise self.unreachable(said)
        return Done(int(codes[-1]), out, said)

    def open(self, script: str) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start a script whose input and output are streamed; the second is what it writes to standard error. `end` ends it."""
        said = tempfile.TemporaryFile()  # noqa: SIM115 (whoever follows the script closes it)
        return self._start(script, subprocess.PIPE, said), said

    def unreachable(self, said: str) -> Unreachable:
        """What to tell the user of a connection that failed, from what its program said."""
        name, address = self._device.name, self._device.address
        lines = [line.strip("@ \r") for line in said.splitlines() if line.strip("@ \r")]
        told, advice = lines[-1] if lines else "the connection was closed", ""
        if sign := next((sign for sign in ADVICE if sign in said), ""):
            told = next(line for line in lines if sign in line)
            advice = "\n" + ADVICE[sign].format(**_names(address)) if self._device.reach == "ssh" else f"\n{ADVICE[sign]}"
        return Unreachable(name + (f" ({address})" if address else "") + f": {told}{advice}")

    def _start(self, script: str, stdin: int | IO[bytes], stderr: int | IO[bytes] = subprocess.PIPE) -> subprocess.Popen[bytes]:
        # `sh` by name, since a user's own shell may be none of POSIX's; a session of its own, since Ctrl-C is for us: we tidy up then.
        command = [*self._prefix, f"exec sh -c {shlex.quote(script)}"]
        try:
            return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True)
        except FileNotFoundError:
            raise UserError(f"{self._device.name}: {command[0]} is not installed here: {INSTALL.get(command[0], '')}") from None


def end(child: subprocess.Popen[bytes]) -> int:
    """End a connection, with all that its program started here; its exit code."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
    for pipe in (child.stdin, child.stdout, child.stderr):
        with contextlib.suppress(OSError):  # what was still to be written cannot be any more
            if pipe:
                pipe.close()
    return child.wait()


def _prefix(device: Device) -> list[str]:
    """The command that runs, there, the one argument that is put behind it."""
    if device.reach == "local":
        return ["sh", "-c"]
    if device.reach == "adb":
        return ["adb", "-s", device.address, "shell", "-T"]
    given = {
        "BatchMode": "yes",  # nobody is there to be asked
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": str(CONNECT_S),
        "ServerAliveInterval": "5",
        "ServerAliveCountMax": "3",
        **({"IdentitiesOnly": "yes"} if device.identity else {}),
        **({"UserKnownHostsFile": str(Path(device.known_hosts).expanduser())} if device.known_hosts else {}),
    }
    options = [part for name, value in given.items() for part in ("-o", f"{name}={value}")]
    if device.identity:
        options += ["-i", str(Path(device.identity).expanduser())]
    if device.jump:  # not -J, which would have none of these options
        through = shlex.join(["ssh", *options, "-W", "[%h]:%p", *_destination(device.jump)])
        options += ["-o", f"ProxyCommand={through}"]
    return ["ssh", "-T", *options, *_destination(device.address)]


def _names(address: str) -> dict[str, str]:
    """What ssh's programs are given for an address, and what a file of known hosts calls it."""
    user, host, port = parsed(address)
    return {"login": (f"-p {port} " if port else "") + (f"{user}@" if user else "") + host, "known": f"[{host}]:{port}" if port else host}


def _destination(address: str) -> list[str]:
    user, host, port = parsed(address)
    return [*(("-l", user) if user else ()), *(("-p", port) if port else ()), "--", host]
