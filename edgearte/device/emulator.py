"""The emulated ARM64 device: a root file system of Debian's, and qemu's user mode to run programs in it. Nothing is registered with the
kernel; no foreign code runs while it is made."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from edgearte.errors import Problem, UserError

ROOT = Path.home() / ".cache" / "edgearte" / "arm64"
PROGRAMS = {"qemu-aarch64": "qemu-user", "mmdebstrap": "mmdebstrap"}
PACKAGES = "python3,libstdc++6,libgomp1,zlib1g"
WHEELS = ("numpy", "onnxruntime", "onnxruntime-genai")
SITE = "opt/edgearte"
READY = "edgearte-ready"
# What Linux shows of a core in /proc/cpuinfo: onnxruntime reads the host's otherwise, and dies of it.
FEATURES = {
    "cortex-a53": ("0xd03", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a72": ("0xd08", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a76": ("0xd0b", "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
}


def root(device_root: str) -> Path:
    """Where the root file system of a device lies."""
    return Path(device_root).expanduser() if device_root else ROOT


def setup(place: Path, cpu: str, *, wheels: bool = True) -> None:
    """Make the root file system, with Python and where wanted ONNX Runtime; one that is there is kept. `UserError` with the packages that
    are missing, or what mmdebstrap or pip says."""
    if cpu not in FEATURES:
        raise UserError(f"emulate.cpu: {cpu} is not known here; known: {', '.join(FEATURES)}")
    if missing := {program: package for program, package in PROGRAMS.items() if not shutil.which(program)}:
        raise UserError(f"{', '.join(missing)} not installed: apt-get install {' '.join(missing.values())}")
    if not (place / READY).is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as partial:
            made = Path(partial) / "root"
            # The host's own release and mirror, as apt is configured with it.
            _run(["mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64", "--skip=check/qemu", f"--include={PACKAGES}",
                  _release(), str(made)], "making the root file system")  # fmt: skip
            (made / READY).touch()
            shutil.rmtree(place, ignore_errors=True)
            made.rename(place)
    part, features = FEATURES[cpu]
    (place / "proc").mkdir(exist_ok=True)
    (place / "proc" / "cpuinfo").write_text(
        f"processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        f"CPU variant\t: 0x3\nCPU part\t: {part}\nCPU revision\t: 1\n\n",
        "utf-8",
    )
    if wheels and not (place / SITE).is_dir():
        _add_wheels(place)


def _add_wheels(place: Path) -> None:
    """The runtime's packages for ARM64, of the versions that are installed here."""
    with tempfile.TemporaryDirectory(dir=place) as partial:
        pinned = [f"{name}=={metadata.version(name)}" for name in WHEELS]
        python = next(p.name for p in sorted(place.glob("usr/bin/python3.*")) if p.name[-1].isdigit()).removeprefix("python")
        platforms = [part for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014") for part in ("--platform", f"{name}_aarch64")]
        install = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary=:all:"]
        _run([*install, "--target", f"{partial}/site", *platforms, "--python-version", python, *pinned],
             "fetching the ARM64 packages of ONNX Runtime")  # fmt: skip
        (place / SITE).parent.mkdir(exist_ok=True)
        (Path(partial) / "site").rename(place / SITE)


def command(place: Path, cpu: str, program: Sequence[str], *, plugin: str = "") -> list[str]:
    """The command that runs an ARM64 program here; a path in the root file system is given with it."""
    return ["qemu-aarch64", "-L", str(place), "-cpu", cpu, *(("-plugin", plugin) if plugin else ()), *program]


def _release() -> str:
    for line in Path("/etc/os-release").read_text("utf-8").splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return "stable"


def _run(command: Sequence[str], doing: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode:
        raise UserError([Problem(f"{doing} failed with exit code {done.returncode}; it said last:\n{done.stdout[-1500:]}")])
