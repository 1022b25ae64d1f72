"""The harness on a device that is reached: pushed by hash, supervised there, followed from here through whatever breaks.

The device's supervisor (supervise.sh) owns the job: a connection that drops ends nothing. Its records lie in a file, which is read on from
where the last whole record ended, so none is lost and none comes twice. While somebody follows, a lease is renewed every other second;
when nobody has for `LEASE_S`, the supervisor ends the harness and removes the job, so that no process stays behind.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from edgearte.child import how_ended
from edgearte.device import emulator, native
from edgearte.device.profile import NATIVE, Device
from edgearte.device.push import Store
from edgearte.device.reach import Shell, Unreachable
from edgearte.errors import UserError
from edgearte.measure.local import Unusable, checked
from edgearte.measure.machine import parts

LEASE_S = 60
BEAT_S = 2.0
PATIENCE_S = 180.0  # with a connection that does not come back
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
GONE = 9  # the follower's exit code where the job's folder is not there
T = TypeVar("T")


class Remote:
    """A device as a target. `lease_s` is how long a job there outlives its host."""

    def __init__(self, device: Device, *, lease_s: int = LEASE_S) -> None:
        self.device = device
        self.name = device.name
        self._lease_s = lease_s
        self._shell = Shell(device)
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        """What lies on the device; the first contact, which is not tried again."""
        if self._store is None:
            self._store = Store(self._shell, self.device)
        return self._store

    def records(
        self, job: dict[str, Any], timeout_s: float | None, environment: dict[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Run a job on the device and hand out its records."""
        what = job["artifact"]
        if job["runtime"] not in self.device.runtimes:
            raise Unusable(f"{what}: {self.name} has no {job['runtime']}; its profile names {', '.join(self.device.runtimes)}")
        store = self.store
        artifact = Path(what)
        files = {p.name: p for p in parts(artifact)} if artifact.is_file() else _below(artifact)
        place = patiently(lambda: store.push(files))
        there = f"{place}/{artifact.name}" if artifact.is_file() else place
        command = self._harness(store, job["runtime"])
        given = {**job, "artifact": there, "threads": job["threads"] or self.device.threads}
        running = _Job(self._shell, f"{store.base}/jobs/{uuid.uuid4().hex}", self._lease_s)
        variables = {"GGML_NO_BACKTRACE": "1", **(environment or {})}
        deadline = time.monotonic() + timeout_s if timeout_s else None
        try:
            patiently(lambda: running.start(given, command, variables))
            for record in running.follow(deadline):
                if record["kind"] == "end":
                    self._ended(record["code"], running, what)
                    return
                yield checked(record, what, there)
        finally:
            running.stop()
        raise Unusable(f"{what}: not done on {self.name} within {timeout_s or 0:.0f} s; it was stopped there")

    def _ended(self, code: int, running: _Job, what: str) -> None:
        if code:
            said = patiently(running.last_words)
            how = how_ended(128 - code if code > 128 else code)
            raise Unusable(f"{what}: the measuring process on {self.name} {how}" + (f"\nIt said last:\n{said}" if said else ""))

    def _harness(self, store: Store, runtime: str) -> str:
        """The shell command that runs the harness there, pushed if need be."""
        emulated = self.device.emulate
        root = emulator.root(emulated.root) if emulated else None
        if runtime == "llama.cpp" and self.device.harness == NATIVE:
            made = native.program(self.device.architecture or "x86_64", self.device.features)
            program = [f"{patiently(lambda: store.push({made.name: made}))}/{made.name}"]
            search = []
        else:
            search = [patiently(lambda: store.push(python_harness()))]
            interpreter = self.device.python
            if root:
                interpreter = str(next(p for p in sorted(root.glob("usr/bin/python3.*")) if p.name[-1].isdigit()))
                search.append(str(root / emulator.SITE))
            program = [interpreter, "-m", "edgearte.measure.harness"]
        if emulated and root:
            program = emulator.command(root, emulated.cpu, program)
        path = f"PYTHONPATH={shlex.quote(':'.join(search))} " if search else ""
        return path + shlex.join(program)


class _Job:
    """One job on a device, in a folder of its own."""

    def __init__(self, shell: Shell, folder: str, lease_s: int) -> None:
        self._shell = shell
        self._folder = shlex.quote(folder)
        self._lease_s = lease_s

    def start(self, job: Mapping[str, Any], command: str, variables: Mapping[str, str]) -> None:
        """Start it, once: where the connection broke in the middle and this is the second time, nothing is started again."""
        text = (json.dumps(job) + "\n").encode()
        supervisor = (Path(__file__).parent / "supervise.sh").read_text("utf-8")
        set_ = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
        script = f"""
            mkdir -p {self._folder} && cd {self._folder} || exit 7
            cat >job.json
            [ "$(wc -c <job.json)" -eq {len(text)} ] || exit 8
            cat >supervise.sh <<'END OF SUPERVISOR'\n{supervisor}\nEND OF SUPERVISOR
            : >lease
            mkdir started 2>/dev/null || exit 0
            : >records.jsonl
            export {set_}
            {"setsid " if self._shell.has("setsid") else ""}sh supervise.sh {self._lease_s} env {command} </dev/null >/dev/null 2>&1 &
        """
        done = self._shell.run(script, text)
        if done.code:
            raise Unreachable(f"the job could not be started (code {done.code}): {done.said}")

    def follow(self, deadline: float | None) -> Iterator[dict[str, Any]]:
        """Its records as they come, over as many connections as it takes; ends early at the deadline."""
        read, broken_since, pause = 0, time.monotonic(), iter(PAUSES)
        while True:
            child, said = self._shell.open(
                f"cd {self._folder} || exit {GONE}\n"
                f"tail -c +{read + 1} -f records.jsonl & tail=$!\n"
                "while read -r beat; do : >lease; done\n"
                "kill $tail"
            )
            over = threading.Event()
            threading.Thread(target=_beat, args=(child, over, deadline), daemon=True).start()
            try:
                for line in _lines(child):
                    read += len(line)
                    broken_since, pause = time.monotonic(), iter(PAUSES)
                    if line.strip():
                        with contextlib.suppress(ValueError):  # cut off in the middle by the harness's death; the end follows
                            yield json.loads(line)
            finally:
                over.set()
                child.kill()
                code = child.wait()
                for pipe in (child.stdin, child.stdout):
                    with contextlib.suppress(OSError):
                        if pipe:
                            pipe.close()
                said.seek(0)
                words = said.read().decode("utf-8", "replace")
                said.close()
            if deadline is not None and time.monotonic() >= deadline:
                return
            if code == GONE:
                raise Unreachable("the job is gone from the device: nobody was connected for longer than its lease")
            if time.monotonic() - broken_since > PATIENCE_S:
                raise self._shell.unreachable(words)
            time.sleep(next(pause, PAUSES[-1]))

    def last_words(self) -> str:
        """The end of what the harness wrote to standard error."""
        return self._shell.run(f"cat {self._folder}/last").out.decode("utf-8", "replace").strip()

    def stop(self) -> None:
        """End it and have its folder removed. Where the device is out of reach, its lease does that."""
        with contextlib.suppress(UserError):
            patiently(lambda: self._shell.run(f"[ ! -d {self._folder} ] || : >{self._folder}/stop", timeout_s=20), patience_s=10)


def patiently(action: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """What an action gives, tried again while the connection breaks and comes back."""
    begun, pause = time.monotonic(), iter(PAUSES)
    while True:
        try:
            return action()
        except Unreachable:
            if time.monotonic() - begun > patience_s:
                raise
            time.sleep(next(pause, PAUSES[-1]))


def python_harness() -> dict[str, Path]:
    """The files of ours that the harness is made of, by their place."""
    package = Path(__file__).parent.parent
    found = [package / "__init__.py", package / "errors.py", *sorted((package / "measure").glob("*.py"))]
    return {str(path.relative_to(package.parent)): path for path in found}


def _below(folder: Path) -> dict[str, Path]:
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}


def _lines(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Whole lines, as they come."""
    assert child.stdout
    left = b""
    while chunk := child.stdout.read1(1 << 16):  # type: ignore[attr-defined]
        *whole, left = (left + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"


def _beat(child: subprocess.Popen[bytes], over: threading.Event, deadline: float | None) -> None:
    """Keep the lease while the job is followed; end the connection at the deadline."""
    assert child.stdin
    while not over.is_set():
        try:
            child.stdin.write(b"\n")
            child.stdin.flush()
        except (OSError, ValueError):
            return
        left = BEAT_S if deadline is None else min(BEAT_S, deadline - time.monotonic())
        if left <= 0:
            child.kill()
            return
        over.wait(left)

