"""The emulated ARM64 device: a root file system of Debian's, and qemu's user mode to run programs in it. Nothing is registered with the
kernel, nothing needs root, and no foreign code runs until all of it is there."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from edgearte.device.native import alone, tell
from edgearte.errors import UserError

ROOT = Path.home() / ".cache" / "edgearte" / "arm64"
PROGRAMS = {"qemu-aarch64": "qemu-user", "mmdebstrap": "mmdebstrap"}  # and the package of Debian that has each
PACKAGES = "python3,libstdc++6,libgomp1,zlib1g"
WHEELS = ("numpy", "onnxruntime", "onnxruntime-genai")
SITE = "opt/edgearte"
SEEN = ("bin", "etc", "lib", "sbin", "usr")  # of the root file system; the rest is the host's
READY = "edgearte-ready"  # beside what it marks, with what that was made of
RELEASE = "bookworm"  # where this machine is no Debian
# What Linux on a board shows of a core in /proc/cpuinfo: implementer, variant, part, revision, BogoMIPS, features. onnxruntime reads the
# host's otherwise, and dies of it; and where the file and qemu's -cpu are not of one core, of an instruction that this core has not.
CORES = {
    "cortex-a53": ("0x41", "0x0", "0xd03", 4, "38.40", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a72": ("0x41", "0x0", "0xd08", 3, "108.00", "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"),
    "cortex-a76": ("0x41", "0x4", "0xd0b", 1, "108.00",
                   "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"),
}  # fmt: skip


def root(device_root: str) -> Path:
    """Where the root file system of a device lies."""
    return Path(device_root).expanduser() if device_root else ROOT


def features(cpu: str) -> tuple[str, ...]:
    """A core's features, as Linux names them. `UserError` for one that is not known here."""
    if cpu not in CORES:
        raise UserError(f"emulate.cpu: {cpu} is not known here; known: {', '.join(CORES)}")
    return tuple(CORES[cpu][-1].split())


def command(place: Path, cpu: str, program: Sequence[str], *, plugin: str = "") -> list[str]:
    """The command that runs an ARM64 program, named by its path here, in a root file system."""
    return ["qemu-aarch64", "-L", str(place / "cpu" / cpu), "-cpu", cpu, *(("-plugin", plugin) if plugin else ()), *program]


def python(place: Path) -> str:
    """The interpreter in a root file system, by its path here."""
    return str(next(p for p in sorted(place.glob("usr/bin/python3.*")) if p.name[-1].isdigit()))


def not_set_up(name: str) -> UserError:
    """What to tell where a device's root file system is missing."""
    return UserError(f"{name}: it is not set up: edgearte device setup {name}")


def setup(place: Path, cpu: str, *, wheels: bool = True) -> None:
    """Make the root file system with Python and, where wanted, ONNX Runtime; what is there and as it should be is kept. Several may do this
    at once.

    `UserError` with the packages that are missing, what mmdebstrap or pip says, or where there is something of the user's.
    """
    features(cpu)
    if missing := {program: package for program, package in PROGRAMS.items() if not shutil.which(program)}:
        raise UserError(f"{', '.join(missing)} not installed: apt-get install {' '.join(missing.values())}")
    place.parent.mkdir(parents=True, exist_ok=True)
    with alone(place.with_name(f".{place.name}.lock")):
        _system(place)
        if wheels:
            _add_wheels(place, cpu)


def _system(place: Path) -> None:
    """Debian's part, and what is seen of each core."""
    release = _release()
    recipe = hashlib.sha256(repr((2, PACKAGES, SEEN, release, CORES)).encode()).hexdigest()
    if _made_of(place) == recipe:
        return
    if place.exists() and any(place.iterdir()) and not (place / READY).is_file():
        raise UserError(f"{place}: there is something else; name a folder that is empty or does not exist yet")
    with _beside(place) as partial:
        archive = partial / "root.tar"
        options = ["--mode=chrootless", "--variant=extract", "--architectures=arm64", "--skip=check/qemu", f"--include={PACKAGES}"]
        tell("making the root file system", "mmdebstrap", "--quiet", "--format=tar", *options, release, archive, *_mirrors(release))
        made = partial / "root"
        with tarfile.open(archive) as packed:
            packed.extractall(made, [m for m in packed if not m.isdev()], filter="tar")  # devices are the host's
        for cpu in CORES:
            _show(made, cpu)
        (made / READY).write_text(recipe)
        _replace(made, place)


def _show(made: Path, cpu: str) -> None:
    """The root file system as one core has it: the same, but for /proc/cpuinfo. qemu looks there first, then on the host."""
    implementer, variant, part, revision, mips, has = CORES[cpu]
    seen = made / "cpu" / cpu
    (seen / "proc").mkdir(parents=True)
    (seen / "proc" / "cpuinfo").write_text(
        f"processor\t: 0\nBogoMIPS\t: {mips}\nFeatures\t: {has}\nCPU implementer\t: {implementer}\nCPU architecture: 8\n"
        f"CPU variant\t: {variant}\nCPU part\t: {part}\nCPU revision\t: {revision}\n\nHardware\t: {cpu}, emulated by qemu\n",
        "utf-8",
    )
    for name in SEEN:  # hard links: a link to a folder of the same name would lead a program that follows it in a circle
        shutil.copytree(made / name, seen / name, symlinks=True, copy_function=os.link)


def _add_wheels(place: Path, cpu: str) -> None:
    """The runtime's packages for ARM64, of the versions that are installed here, tried once."""
    version = Path(python(place)).name.removeprefix("python")
    pinned = [f"{name}=={found}" if (found := _installed(name)) else name for name in WHEELS]
    recipe = " ".join([version, *pinned])
    site = place / SITE
    if _made_of(site) == recipe:
        return
    with _beside(site) as partial:
        made = partial / "site"
        platforms = [part for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014") for part in ("--platform", f"{name}_aarch64")]
        tell("fetching the ARM64 packages of ONNX Runtime", sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check",
             "--no-compile", "--only-binary=:all:", "--target", made, *platforms, "--python-version", version, *pinned)  # fmt: skip
        tried = command(place, cpu, [python(place), "-c", "import onnxruntime_genai"])
        tell(f"importing the ARM64 packages of ONNX Runtime under {tried[0]} -cpu {cpu}", "env", f"PYTHONPATH={made}", *tried)
        (made / READY).write_text(recipe)
        _replace(made, site)


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _release() -> str:
    """The release of Debian to take: this machine's own."""
    system = platform.freedesktop_os_release() if Path("/etc/os-release").is_file() else {}
    return system.get("VERSION_CODENAME", RELEASE) if system.get("ID") == "debian" else RELEASE


def _mirrors(release: str) -> list[str]:
    """Apt's lines of this machine's mirrors of a release; none where it is no Debian, and mmdebstrap then has its own."""
    if not shutil.which("apt-get"):
        return []
    unknown = "$(ORIGIN)"
    asked = ["apt-get", "indextargets", "--format", f"$(REPO_URI) $(RELEASE) $(COMPONENT) {unknown}", "Created-By: Packages"]
    told = subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    wanted = {release, f"{release}-updates", f"{release}-security"}
    rows = [row for row in map(str.split, told.splitlines()) if len(row) == 4]
    return [f"deb {uri} {suite} main" for uri, suite, component, origin in rows
            if suite in wanted and component == "main" and origin in ("Debian", unknown)]  # fmt: skip


def _made_of(folder: Path) -> str:
    return (folder / READY).read_text() if (folder / READY).is_file() else ""


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder beside `place` for what is to come into its place; what one that was killed left there is removed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for left in place.parent.glob(f".{place.name}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.partial-") as partial:
        yield Path(partial)


def _replace(made: Path, place: Path) -> None:
    if place.exists():
        place.rename(made.with_name("old"))
    made.rename(place)
