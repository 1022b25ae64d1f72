"""The machine a measurement was taken on, and which runtime an artifact wants. Runs on the device: stdlib, and psutil
where /proc does not say."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

from edgearte.errors import UserError
from edgearte.measure.header import check_gguf

PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
# Features of a CPU that decide which kernels a runtime picks; the rest of the flags say nothing about speed.
FEATURES = (
    "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_int8", "amx_bf16", "asimd", "neon", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
)  # fmt: skip


def describe() -> dict[str, Any]:
    """What the figures of a measurement depend on: CPU, cores, features, memory in bytes, system, governor where
    readable, and the load average before the measurement adds to it."""
    cpu, flags = _cpu()
    total, available = _memory()
    load = os.getloadavg() if hasattr(os, "getloadavg") else None
    return {
        "cpu": cpu,
        "architecture": platform.machine(),
        "cores": cores(),
        "logical_cores": os.cpu_count() or 1,
        "features": [f for f in FEATURES if f in flags],
        "virtual": "hypervisor" in flags,
        "memory_bytes": total,
        "memory_available_bytes": available,
        "os": _os(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "load_average": [round(x, 2) for x in load] if load else None,
    }


def cores() -> int:
    """The physical cores this process may use: its affinity, siblings counted once, and no more than its container's
    share."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    physical = len({_text(topology.format(n)) or str(n) for n in usable})
    if not sys.platform.startswith("linux"):
        with contextlib.suppress(ImportError):
            import psutil

            physical = psutil.cpu_count(logical=False) or physical
    quota, _, period = _text("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        physical = min(physical, int(quota) // int(period))
    return max(1, physical)


def peak_memory() -> int:
    """The most physical memory this process has held, in bytes, mapped weights included.

    On Linux from VmHWM: getrusage would start from what the *parent* held when it forked this process.
    """
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def memory() -> int:
    """The physical memory this process holds now, in bytes, mapped weights included."""
    for line in _text("/proc/self/status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    import psutil

    return int(psutil.Process().memory_info().rss)


def available_memory() -> int:
    """Bytes that programs may still take; a small board's, where the system does not say."""
    return _memory()[1] or 128 << 20


def forget(artifact: Path) -> bool:
    """Have the system forget what it holds of an artifact's files, so that they are read from the disk again; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    files = parts(artifact) if artifact.is_file() else [p for p in artifact.rglob("*") if p.is_file()]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())  # what is not written yet cannot be forgotten
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def parts(artifact: Path) -> list[Path]:
    """The files of a GGUF artifact: it alone, or, where it is the first of a split one, all its parts, by llama.cpp's names for them."""
    found = PART.search(artifact.name)
    if not found:
        return [artifact]
    return [artifact.with_name(f"{artifact.name[: found.start()]}-{k:05}-of-{found[2]}.gguf") for k in range(1, int(found[2]) + 1)]


def size_of(artifact: Path) -> int:
    """Bytes of a file and of the other parts of a split one, or of all files in a folder."""
    if artifact.is_file():
        return sum(p.stat().st_size for p in parts(artifact))
    return sum(p.stat().st_size for p in artifact.rglob("*") if p.is_file())


def detect_runtime(path: Path) -> str:
    """`llama.cpp` for a GGUF file, `onnxruntime-genai` for a folder with genai_config.json; `UserError` for anything
    else and for a GGUF file whose header cannot be trusted."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        if (path / "genai_config.json").is_file():
            return "onnxruntime-genai"
        inside = sorted(p.name for p in path.glob("*.gguf"))
        hint = f"; name one of its GGUF files: {', '.join(inside)}" if inside else ""
        raise UserError(f"{path}: a folder without genai_config.json is no artifact that can be measured{hint}")
    if missing := [p.name for p in parts(path) if not p.is_file()]:
        raise UserError(f"{path}: a part of a split file, and {missing[0]} is not beside it")
    with path.open("rb") as file:
        if file.read(4) == b"GGUF":
            check_gguf(path)
            return "llama.cpp"
    if path.suffix == ".gguf":
        raise UserError(f"{path}: not a GGUF file, it does not begin with these letters; was the download complete?")
    if path.suffix == ".onnx":
        raise UserError(f"{path}: name the folder that holds genai_config.json, not the .onnx file in it")
    raise UserError(f"{path}: neither a GGUF file nor a folder with genai_config.json; see edgearte export")


def _cpu() -> tuple[str, set[str]]:
    lines = reversed(_text("/proc/cpuinfo").splitlines())  # so that the first core's lines win
    info = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = set((info.get("flags") or info.get("features") or "").split())
    name = info.get("model name") or info.get("hardware") or _text("/proc/device-tree/model").strip("\0")
    return name or platform.processor() or platform.machine(), flags


def _memory() -> tuple[int, int]:
    rows = (line.split() for line in _text("/proc/meminfo").splitlines())
    info = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1 and row[1].isdigit()}
    if info:
        return info.get("MemTotal", 0), info.get("MemAvailable", 0)
    try:
        import psutil
    except ImportError:
        return 0, 0
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def _os() -> str:
    with contextlib.suppress(OSError, AttributeError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return f"{platform.system()} {platform.release()}"


def _text(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace").strip()
    except OSError:
        return ""
