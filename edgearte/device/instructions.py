"""What an artifact costs an ARM64 core, counted instead of timed: the instructions that its runtime executes under emulation."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgearte.child import how_ended
from edgearte.device import emulator, native
from edgearte.device.packed import python_harness
from edgearte.device.profile import Emulated
from edgearte.errors import UserError
from edgearte.measure.local import Unusable, checked
from edgearte.measure.mark import LOADED, LOADING, READ, READING, WROTE
from edgearte.records import Instructions

SOURCE = Path(__file__).with_name("count.c")
# A count depends on nothing but the program and its input: onnxruntime's telemetry and numpy's OpenBLAS would have threads of their own,
# which come and go by the clock, and Python would order its sets anew in every process.
QUIET = {"ORT_DISABLE_TELEMETRY": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "EDGEARTE_MARK": "1"}
USED = (
    "import edgearte.measure.harness, edgearte.measure.probe, edgearte.measure.genai as g, importlib.metadata as m; "
    "g.library(); m.version('onnxruntime-genai')"
)


@dataclass(frozen=True)
class Mark:
    """A phase that began or ended, its number, and the instructions executed until then."""

    phase: int
    number: int
    executed: int


def counted(job: Mapping[str, Any], emulated: Emulated, name: str, timeout_s: float | None) -> Iterator[dict[str, Any]]:
    """Run a measuring job once on one thread of a core that is emulated here, the device of this name. The harness's records, and last one
    of `kind` instructions with the fields of `records.Instructions`: of the suite's last run.

    `Unusable` where the artifact fails there, or is not done in time (of this machine: the emulated one has no time).
    """
    root, cpu = emulator.root(emulated.root), emulated.cpu
    if not (root / emulator.READY).is_file():
        raise emulator.not_set_up(name)
    artifact = str(job["artifact"])
    given = {**job, "artifact": str(Path(artifact).resolve()), "threads": 1}
    program, variables = harness(str(job["runtime"]), root, cpu)
    qemu = _qemu()
    with tempfile.TemporaryDirectory(prefix="edgearte-") as folder:
        told = Path(folder) / "counts"
        _, *options = emulator.command(root, cpu, program, plugin=f"{_option(plugin())},out={_option(told)}")
        try:
            done = subprocess.run([qemu, *options], input=json.dumps(given) + "\n", env={**QUIET, **variables}, capture_output=True,
                                  encoding="utf-8", errors="replace", timeout=timeout_s, check=False)  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Unusable(f"{artifact}: not done under emulation within {timeout_s or 0:.0f} s; it was stopped") from None
        for line in done.stdout.splitlines():
            yield checked(json.loads(line), artifact, given["artifact"])
        if done.returncode:
            raise Unusable(f"{artifact}: under emulation it {how_ended(done.returncode)}\nIt said last:\n{done.stderr[-1500:].strip()}")
        yield {"kind": "instructions", **asdict(told_by(read(told), job["suite"]))}


def harness(runtime: str, root: Path, cpu: str) -> tuple[list[str], dict[str, str]]:
    """The ARM64 harness for a runtime: the program with its arguments, and the variables it needs."""
    if runtime == "llama.cpp":
        return [str(native.program("aarch64", emulator.features(cpu)))], {}
    packed = python_harness()
    name = f"harness-{hashlib.sha256(packed).hexdigest()[:16]}.zip"
    place = _kept(native.CACHE / name, lambda partial: partial.write_bytes(packed))
    variables = {"PYTHONPATH": f"{place}:{root / emulator.SITE}"}
    interpreter = emulator.python(root)
    # A process that still has to compile a module lays its memory out otherwise, and counts 10⁻⁴ more: all that is used is compiled once,
    # and nothing after it. Twice, since what reads the first modules is there before it could be kept.
    compiled = root / emulator.SITE / f"compiled-{name}"
    if not compiled.is_file():
        _, *ready = emulator.command(root, cpu, [interpreter, "-c", USED])
        for _ in range(2):
            subprocess.run([_qemu(), *ready], env={**QUIET, **variables}, capture_output=True, check=False)
        compiled.touch()
    return [interpreter, "-m", "edgearte.measure.harness"], {**variables, "PYTHONDONTWRITEBYTECODE": "1"}


def plugin() -> Path:
    """The counting plugin for the qemu that is installed, compiled on first use."""
    said = subprocess.run([_qemu(), "--version"], stdout=subprocess.PIPE, text=True, check=False).stdout
    found = re.search(r"version (\d+)", said)
    # The version of the plugins' interface to declare: from its own version 9 on qemu refuses those below 2, until then those above 1.
    api = 2 if found and int(found[1]) >= 9 else 1
    key = hashlib.sha256(SOURCE.read_bytes() + bytes([api])).hexdigest()[:16]
    return _kept(native.CACHE / f"count-{key}.so", lambda partial: _compile(api, partial))


def _compile(api: int, made: Path) -> None:
    if not (compiler := shutil.which("cc")):
        raise UserError("what counts instructions is compiled with cc, which is not installed: apt-get install gcc libc6-dev")
    native.tell("compiling what counts instructions", compiler, f"-DAPI={api}", "-O2", "-shared", "-fPIC", "-o", made, SOURCE)


def read(told: Path) -> list[Mark]:
    """What the plugin wrote."""
    return [Mark(*map(int, line.split())) for line in told.read_text("utf-8").splitlines()]


def told_by(marks: Sequence[Mark], suite: Mapping[str, Any]) -> Instructions:
    """What the marks of a run of a suite tell of its last turn."""
    loading, loaded = (next(m.executed for m in marks if m.phase == phase) for phase in (LOADING, LOADED))
    begun, last = (max(k for k, m in enumerate(marks) if m.phase == phase) for phase in (READING, WROTE))
    asked, answered = (next(m for m in marks[begun:] if m.phase == phase) for phase in (READING, READ))
    return Instructions(
        load=loaded - loading,
        prompt_token=(answered.executed - asked.executed) / asked.number,
        new_token=(marks[last].executed - answered.executed) / (suite.get("batch", 1) * suite["new_tokens"]),
    )


def _qemu() -> str:
    if not (found := shutil.which("qemu-aarch64")):
        raise UserError(f"qemu-aarch64 not installed: apt-get install {emulator.PROGRAMS['qemu-aarch64']}")
    return found


def _kept(place: Path, make: Callable[[Path], object]) -> Path:
    """What is made once, beside its place."""
    if not place.is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as partial:
            made = Path(partial) / place.name
            make(made)
            made.replace(place)
    return place


def _option(path: Path) -> str:
    return str(path).replace(",", ",,")
