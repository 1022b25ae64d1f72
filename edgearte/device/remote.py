"""The harness on a device that is reached: pushed by hash, supervised there, followed from here through whatever breaks.

The device's supervisor (supervise.sh) owns the job: a connection that drops ends nothing. Its records lie in a file, which is read on from
where the last whole record ended, so none is lost and none comes twice. While somebody follows, a lease is renewed every other second;
when nobody has for `LEASE_S`, the supervisor ends the harness and removes the job, so that no process stays behind.
"""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgearte.child import how_ended
from edgearte.device import emulator, instructions, native
from edgearte.device.job import Command, Job
from edgearte.device.packed import python_harness
from edgearte.device.profile import NATIVE, ONNX, Device
from edgearte.device.push import Content, Store
from edgearte.device.reach import Patience, Shell, patiently
from edgearte.measure.local import Unusable, checked
from edgearte.measure.machine import parts

LEASE_S = 120
SUPERVISOR, HARNESS = "supervise.sh", "harness.zip"


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

    @property
    def counted(self) -> bool:
        """Whether it is emulated on this machine, where what a suite executes is counted in place of its time."""
        return self.device.emulate is not None and self.device.reach == "local"

    def check(self, what: str, runtime: str) -> None:
        """`Unusable` where the device has nothing that runs an artifact of this runtime."""
        needed = "llama.cpp" if runtime == "llama.cpp" else ONNX  # which runs here and there what is for a browser, too
        if needed not in self.device.runtimes:
            raise Unusable(
                f"{what}: needs {needed}, and the profile of {self.name} names {', '.join(self.device.runtimes)} under runtimes"
                + (f"; install onnxruntime-genai for {self.device.python} there, and add it" if needed == ONNX else "")
            )

    def records(
        self, job: dict[str, Any], timeout_s: float | None, environment: dict[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Run a job on the device and hand out its records."""
        what, runtime = str(job["artifact"]), job.get("runtime", "llama.cpp")
        self.check(what, runtime)
        if job["kind"] == "measure" and self.counted and self.device.emulate:
            yield from instructions.counted(job, self.device.emulate, self.name, timeout_s)
            return
        store = self.store
        artifact = Path(what)
        there = patiently(lambda patience: _pushed(store, artifact, patience)) if artifact.exists() else what
        command = self._command(runtime, {"GGML_NO_BACKTRACE": "1", **(environment or {})})
        threads = job["threads"] or self.device.threads or (1 if self.device.emulate else 0)
        given = {**job, "artifact": there, "threads": threads, "tethered": True}
        running = Job(self._shell, f"{store.base}/jobs/{uuid.uuid4().hex}", self._lease_s)
        deadline = time.monotonic() + timeout_s if timeout_s else None
        try:
            patiently(lambda _: running.start(given, command))
            for record in running.follow(deadline):
                if record["kind"] == "end":
                    self._ended(record["code"], running, what)
                    return
                yield checked(record, what, there)
        finally:
            running.stop()
        raise Unusable(f"{what}: not done on {self.name} within {timeout_s or 0:.0f} s; it was stopped there")

    def _ended(self, code: int, running: Job, what: str) -> None:
        if code:
            said = patiently(lambda _: running.last_words())
            how = how_ended(128 - code if code > 128 else code)
            raise Unusable(f"{what}: the measuring process on {self.name} {how}" + (f"\nIt said last:\n{said}" if said else ""))

    def _command(self, runtime: str, variables: dict[str, str]) -> Command:
        """What runs the harness there, with all that it needs pushed."""
        device, emulated = self.device, self.device.emulate
        root, interpreter = self._root(emulated.root) if emulated else (None, device.python)
        files: dict[str, Content] = {SUPERVISOR: (Path(__file__).parent / SUPERVISOR).read_bytes()}
        by_native = runtime == "llama.cpp" and device.harness == NATIVE
        if by_native:
            files["harness"] = native.program(device.architecture, device.features)
        else:
            files[HARNESS] = python_harness()
        place = patiently(lambda patience: self.store.push(files, patience))
        if by_native:
            program = [f"{place}/harness"]
        else:
            program = [interpreter, "-m", "edgearte.measure.harness"]
            variables = {**variables, "PYTHONPATH": ":".join([f"{place}/{HARNESS}", *([str(root / emulator.SITE)] if root else [])])}
        if emulated and root:
            program = emulator.command(root, emulated.cpu, program)
            variables = {**variables, "PYTHONDONTWRITEBYTECODE": "1"}  # what is counted there depends on it (instructions.py)
        return Command(f"{place}/{SUPERVISOR}", program, variables)

    def _root(self, given: str) -> tuple[Path, str]:
        """The root file system of what is emulated there, and its Python. `UserError` where it is not set up."""
        place = shlex.quote(str(emulator.root(given))) if given or self.counted else f'"$HOME/{emulator.ROOT.relative_to(Path.home())}"'
        script = f"cd {place} && [ -e {emulator.READY} ] && pwd && ls -d usr/bin/python3.[0-9]*[0-9]"
        found = patiently(lambda _: self._shell.run(script)).out.decode().splitlines()
        if len(found) < 2:
            raise emulator.not_set_up(self.name)
        return Path(found[0]), f"{found[0]}/{found[1]}"


def _pushed(store: Store, artifact: Path, patience: Patience) -> str:
    """Where an artifact lies on the device."""
    if artifact.is_dir():
        return store.push({p.relative_to(artifact).as_posix(): p for p in sorted(artifact.rglob("*")) if p.is_file()}, patience)
    several = parts(artifact)
    if len(several) > 1:  # which find each other by their names
        return f"{store.push({p.name: p for p in several}, patience)}/{artifact.name}"
    return f"{store.push({'model.gguf': artifact}, patience)}/model.gguf"
