"""What lies on a device: artifacts and harnesses, each under the hash of its contents, pushed once."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from edgearte.device.profile import Device
from edgearte.device.reach import Shell, Unreachable
from edgearte.errors import UserError

READY = ".ready"
PUSH_S = 3600  # for one file, before the connection counts as broken
# Where a device keeps it. EDGEARTE_HOME in the device's own environment moves it.
FOLDER = {"adb": "/data/local/tmp/edgearte"}
ELSEWHERE = "$HOME/.cache/edgearte-device"


class Store:
    """The folder of ours on a device. Making one is the first contact: `Unreachable` where there is none."""

    def __init__(self, shell: Shell, device: Device) -> None:
        self._shell = shell
        self._device = device
        self.pushed = 0  # files sent since
        usual = FOLDER.get(device.reach, ELSEWHERE)
        make = 'mkdir -p "$base/blobs" "$base/jobs" && cd "$base" && pwd && df -Pk . | tail -n 1'
        done = shell.run(f'base="${{EDGEARTE_HOME:-{usual}}}"; {make}')
        lines = done.out.decode("utf-8", "replace").splitlines()
        if done.code or not lines:
            raise UserError(f"{device.name}: no folder could be made there: {done.said or f'code {done.code}'}")
        self.base = lines[0]
        columns = lines[-1].split()
        self.free = int(columns[3]) * 1024 if len(columns) > 3 and columns[3].isdigit() else 0  # bytes

    def push(self, files: Mapping[str, Path]) -> str:
        """The folder on the device that holds these files by their names, sent where they are not there yet. One that was cut off goes on
        where it stopped. `UserError` where there is no room, `Unreachable` where the connection breaks."""
        sums = {name: _sha256(path) for name, path in files.items()}
        key = hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()[:32]
        folder = f"{self.base}/blobs/{key}"
        here = shlex.quote(folder)
        if self._shell.run(f"[ -e {here}/{READY} ]").code == 0:
            return folder
        needed = sum(path.stat().st_size for path in files.values())
        if self.free and needed > self.free:
            raise UserError(f"{self._device.name}: {needed / 1e6:.0f} MB are to be put there and {self.free / 1e6:.0f} MB are free; "
                            f"`edgearte device clean {self._device.name}` removes what was put there before")  # fmt: skip
        for name, path in files.items():
            self._send(path, f"{folder}/{name}", sums[name])
        self._shell.run(f": >{here}/{READY}")
        return folder

    def clean(self) -> None:
        """Remove everything of ours."""
        self._shell.run(f"rm -rf {shlex.quote(self.base)}", timeout_s=300)

    def _send(self, path: Path, there: str, sha256: str) -> None:
        name, partial = shlex.quote(there), shlex.quote(there + ".partial")
        parent = shlex.quote(str(PurePosixPath(there).parent))
        begun = self._shell.run(f"mkdir -p {parent}; [ ! -e {name} ] || echo done; wc -c <{partial} 2>/dev/null || echo 0").out.split()
        if begun[:1] == [b"done"]:
            return
        size, have = path.stat().st_size, int(begun[-1])
        self.pushed += 1
        with path.open("rb", buffering=0) as file:
            file.seek(have if have <= size else 0)
            to = ">>" if have <= size else ">"
            self._shell.run(f"cat {to}{partial}", file, timeout_s=PUSH_S)
        check = f"sha256sum <{partial}" if self._shell.has("sha256sum") else f"wc -c <{partial}"
        told = self._shell.run(check, timeout_s=300).out.decode().split()[0]
        if told not in (sha256, str(size)):
            if int(self._shell.run(f"wc -c <{partial}").out) < size:
                raise Unreachable(f"{self._device.name}: the connection broke while {path.name} was sent")
            self._shell.run(f"rm -f {partial}")
            raise Unreachable(f"{self._device.name}: {path.name} arrived otherwise than it was sent")
        mode = 755 if path.stat().st_mode & 0o100 else 644
        self._shell.run(f"chmod {mode} {partial} && mv {partial} {name}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
