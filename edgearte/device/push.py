"""What lies on a device: artifacts and harnesses, each in a folder named by the hash of its contents, pushed once."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from edgearte.device.profile import Device
from edgearte.device.reach import Done, Patience, Shell
from edgearte.errors import UserError

Content = Path | bytes
PIECE = 1 << 16  # a file that was cut goes on at a multiple of this
SEND_S = 24 * 3600.0  # for one file: a connection that is dead shows itself sooner
CHECK_S = 1800.0  # to read what was sent once more
THERE = 9  # a script's exit code where nothing is to be sent
ROOM = re.compile(rb"\s\d+\s+\d+\s+(\d+)\s+\d+%\s")  # kilobytes that are free, in what df -Pk says
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
        done = shell.run(
            f'base="${{EDGEARTE_HOME:-{usual}}}"; mkdir -p "$base/blobs" "$base/jobs" && cd "$base" && pwd || exit 1\n'
            # What is left of jobs whose supervisor was killed, as by switching the device off.
            "for job in jobs/*; do\n"
            '  [ ! -e "$job/supervisor" ] || kill -0 "$(cat "$job/supervisor")" 2>/dev/null || rm -rf "$job"\n'
            "done"
        )
        if done.code or not done.out.strip():
            raise UserError(f"{device.name}: no folder could be made there: {done.said or f'code {done.code}'}")
        self.base = done.out.decode("utf-8", "replace").splitlines()[0]

    def push(self, files: Mapping[str, Content], patience: Patience) -> str:
        """The folder on the device that holds these files by their names, sent where they are not there yet. A file that was cut off goes
        on where it stopped. `UserError` where there is no room, `Unreachable` where the connection breaks."""
        sums, sizes = {name: _sha256(content) for name, content in files.items()}, {name: _size(c) for name, c in files.items()}
        key = hashlib.sha256(repr(sorted(sums.items())).encode()).hexdigest()[:32]
        folder, partial = f"{self.base}/blobs/{key}", f"{self.base}/blobs/{key}.partial"
        for _ in range(2):
            have = self._have(folder, partial, sizes)
            if have is None:
                return folder
            patience.came(sum(have.values()))
            with _bar(sum(sizes.values()), sum(have.values()), self._device.name) as bar:
                for name, content in files.items():
                    if have[name] < sizes[name]:
                        self._send(content, f"{partial}/{name}", have[name] // PIECE, bar)
            if self._placed(key, sums, sizes):
                return folder
        raise UserError(f"{self._device.name}: {', '.join(files)} did not arrive there as sent, twice; is its storage sound?")

    def clean(self) -> None:
        """Remove everything of ours."""
        self._shell.run(f"rm -rf {shlex.quote(self.base)}", timeout_s=CHECK_S)

    def _have(self, folder: str, partial: str, sizes: Mapping[str, int]) -> dict[str, int] | None:
        """How many bytes of each file are there, with room for the others; `None` where all are in their place."""
        parents = shlex.join(sorted({str(PurePosixPath(partial, name).parent) for name in sizes}))
        done = self._shell.run(
            f"[ ! -d {shlex.quote(folder)} ] || exit {THERE}\nmkdir -p {parents} && cd {shlex.quote(partial)} || exit 1\n"
            f'for f in {shlex.join(sizes)}; do {{ wc -c <"$f"; }} 2>/dev/null || echo 0; done\ndf -Pk .'
        )
        if done.code == THERE:
            return None
        numbers = done.out.split()[: len(sizes)]
        if done.code == 1 or len(numbers) < len(sizes):
            raise self._refused(done)
        have = {name: int(number) for name, number in zip(sizes, numbers, strict=True)}
        needed, told = sum(max(0, size - have[name]) for name, size in sizes.items()), ROOM.search(done.out)
        room = int(told[1]) * 1024 if told else needed
        if needed > room:
            raise UserError(f"{self._device.name}: {needed / 1e6:.0f} MB are to be put there and {room / 1e6:.0f} MB are free; "
                            f"`edgearte device clean {self._device.name}` removes what was put there before")  # fmt: skip
        return have

    def _send(self, content: Content, there: str, pieces: int, bar: Any) -> None:
        self.pushed += 1
        # Each piece to its place, not to the end: a connection that is thought dead may still bring what it had, beside the next.
        script = f"dd of={shlex.quote(there)} bs={PIECE} seek={pieces} conv=notrunc"
        if isinstance(content, bytes):
            done = self._shell.run(script, content[pieces * PIECE :], timeout_s=SEND_S)
        else:
            with content.open("rb", buffering=0) as file:
                before = bar.n - file.seek(pieces * PIECE)
                # What sends reads on from the same place in the file that we see.
                done = self._shell.run(script, file, timeout_s=SEND_S, meanwhile=lambda: bar.update(before + file.tell() - bar.n))
                bar.update(before + file.tell() - bar.n)
        if done.code:
            raise self._refused(done)

    def _placed(self, key: str, sums: Mapping[str, str], sizes: Mapping[str, int]) -> bool:
        """Put what was sent into its place, if it is what was sent; where it is not, it is removed. All in one script, which comes to its
        end there even where the connection breaks: to read a large file again may take longer than a bad one stands."""
        checks = "".join(f"is {shlex.quote(name)} {sums[name]} {sizes[name]} || wrong=1\n" for name in sums)
        done = self._shell.run(
            "is() {\n"
            '  if command -v sha256sum >/dev/null 2>&1; then told=$(sha256sum <"$1"); wanted=$2; else told=$(wc -c <"$1"); wanted=$3; fi\n'
            "  set -- $told\n"
            '  [ "$1" = "$wanted" ]\n'
            "}\n"
            f"cd {shlex.quote(self.base)}/blobs && cd {key}.partial || exit 1\n"
            f"wrong=\n{checks}"
            f"[ -n \"$wrong\" ] || chmod 755 {shlex.join(sums)}\n"
            # Where another host was faster with the same, that stays.
            f"cd .. && if [ -n \"$wrong\" ] || [ -d {key} ]; then rm -rf {key}.partial; else mv {key}.partial {key}; fi\n"
            '[ -z "$wrong" ]',
            timeout_s=CHECK_S,
        )
        return done.code == 0

    def _refused(self, done: Done) -> UserError:
        return UserError(f"{self._device.name}: could not be written there: {done.said or f'code {done.code}'}")


def _bar(total: int, done: int, name: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc=f"push: {name}", unit="B", unit_scale=True, leave=False, disable=not sys.stderr.isatty())


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _sha256(content: Content) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    at = content.stat()
    return _of_file(content, at.st_size, at.st_mtime_ns)


@cache
def _of_file(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
