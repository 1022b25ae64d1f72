"""`edgearte device …` and the devices of `edgearte ls`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgearte import catalogue
from edgearte.device import emulator
from edgearte.device.profile import NATIVE, ONNX, PYTHON, Device, load_device, sound
from edgearte.device.reach import Shell, Unreachable
from edgearte.device.remote import Remote
from edgearte.errors import Problem, UserError
from edgearte.files import write_text
from edgearte.measure.host import LOCAL, Target

ANSWER_S = 5.0
PROBE_S = 60.0  # importing a runtime takes its time on a small board
# What a device is asked; `==` lines keep the answers apart.
PROBE = """
uname -m; echo ==
cat /proc/cpuinfo; echo ==
cat /sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list 2>/dev/null | sort -u | wc -l; echo ==
grep MemTotal /proc/meminfo; echo ==
{ tr -d '\\000' </proc/device-tree/model || getprop ro.product.model; } 2>/dev/null; echo; echo ==
python3 -c '
import sys, importlib.util as known
print(*[name for name in ("numpy", "llama_cpp", "onnxruntime_genai") if sys.version_info >= (3, 9) and known.find_spec(name)])
' 2>/dev/null
true
"""
QUESTIONS = {
    "name": "What should it be called",
    "reach": "How is it reached (ssh or adb)",
    "address": "Its address (user@host or user@host:port; with adb, the serial number that `adb devices` shows)",
    "identity": "The file of your private key (empty: ssh's own choice)",
}
OPTIONS = (*QUESTIONS, "jump", "known_hosts")
# What nobody can ask a device for: kept from a packaged profile of the same name.
KEPT = ("about", "bandwidth", "gops", "threads", "budget")


def targets(names: Sequence[str]) -> list[Target]:
    """Where artifacts run that are to run on the devices of these names; several may stand in one, between commas. `UserError` with all
    that is wrong with any of them."""
    asked = [name.strip() for several in names for name in several.split(",") if name.strip()] or ["local"]
    found, problems = list[Target](), list[Problem]()
    for name in dict.fromkeys(asked):
        try:
            found.append(target(name))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return found


def target(name: str) -> Target:
    """Where artifacts run that are to run on the device of this name."""
    device = load_device(name)
    return LOCAL if device.is_here else Remote(device)


def answering(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """How each device is reached and whether it answers, all asked at once."""
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        return dict(zip(names, pool.map(_answers, names), strict=True))


def _answers(name: str) -> tuple[str, str]:
    try:
        device = load_device(name)
    except UserError as error:
        return "", str(error)
    how = device.reach + (", emulated" if device.emulate else "")
    if device.is_here:
        return "local", "yes"
    if not device.addressed:
        return how, "no address yet"
    how += f" {device.address}" if device.address else ""
    try:
        if device.emulate and device.reach == "local" and not (emulator.root(device.emulate.root) / emulator.READY).is_file():
            return how, f"no: edgearte device setup {name}"
        Shell(device).run(":", timeout_s=ANSWER_S)
    except Unreachable as error:
        return how, f"no: {str(error).removeprefix(f'{device.name} ({device.address}): ')}"
    except UserError as error:
        return how, f"no: {error}"
    return how, "yes"


def add(given: Mapping[str, str], ask: Callable[[str], str] | None) -> Path:
    """Ask for what is not given, where anybody can be asked; connect, find out what the device is, and write its profile."""
    said = dict(given)
    for key, question in QUESTIONS.items():
        needed = key != "identity" or said.get("reach") == "ssh"
        if not said.get(key) and ask and needed:
            said[key] = ask(question).strip()
    missing = [f"--{key} is missing: {QUESTIONS[key]}?" for key in ("name", "reach", "address") if not said.get(key)]
    if missing:
        raise UserError(*missing)
    if said["reach"] not in ("ssh", "adb"):
        raise UserError(f"--reach: a device is reached by ssh or adb, not by {said['reach']!r}")
    known: dict[str, Any] = {key: said[key] for key in OPTIONS if said.get(key)}
    # An interpreter needs no architecture yet; what it truly has, it tells when it is reached.
    sound(device := catalogue.checked({**known, "harness": PYTHON}, Device, "edgearte device add"), "edgearte device add")
    path = catalogue.own_devices() / f"{device.name}.yaml"
    if path.exists():
        raise UserError(f"{path}: exists already; change it there, or choose another name")
    like = catalogue.load("devices", device.name) if device.name in catalogue.names("devices") else {}
    found = {**known, **probed(Shell(device), device.name), **{key: like[key] for key in KEPT if key in like}}
    import yaml

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot be made: {error.strerror}") from error
    write_text(path, yaml.safe_dump(found, sort_keys=False, allow_unicode=True))
    return path


def probed(shell: Shell, name: str) -> dict[str, Any]:
    """What a device says it is, as a profile says it."""
    from edgearte.measure.machine import FEATURES

    done = shell.run(PROBE, timeout_s=PROBE_S)
    parts = [part.strip() for part in done.out.decode("utf-8", "replace").split("==\n")]
    if len(parts) < 6 or parts[0] not in ("x86_64", "aarch64"):
        raise UserError(f"{name}: it calls itself {parts[0] or 'nothing'}; a device is x86_64 or aarch64, with Linux or Android")
    architecture, cpuinfo, cores, memory, model, modules = parts
    info = [[part.strip() for part in line.partition(":")] for line in cpuinfo.splitlines()]
    values = {key.lower(): value for key, _, value in reversed(info)}
    flags = set((values.get("flags") or values.get("features") or "").split())
    cpu = values.get("model name") or values.get("hardware") or model or architecture
    python = set(modules.split()) if "numpy" in modules.split() else set()
    return {
        "about": model or cpu,
        "architecture": architecture,
        "cpu": cpu,
        "cores": int(cores or 0) or sum(key == "processor" for key, _, _ in info) or 1,
        "features": [feature for feature in FEATURES if feature in flags],
        **({"memory": f"{int(memory.split()[1]) * 1024 / 1e6:.0f} MB"} if memory else {}),
        "runtimes": ["llama.cpp", *([ONNX] if "onnxruntime_genai" in python else [])],
        "harness": PYTHON if "llama_cpp" in python else NATIVE,
    }


def clean(name: str) -> None:
    """Remove what was put onto a device."""
    device = load_device(name)
    if device.is_here:
        raise UserError(f"{name}: nothing is put onto this machine")
    Remote(device).store.clean()


def setup(name: str) -> Path:
    """Make the root file system of an emulated device."""
    device = load_device(name)
    if device.emulate is None:
        raise UserError(f"{name}: it is no emulated device, and needs nothing set up")
    if device.reach != "local":
        raise UserError(f"{name}: it is emulated on another machine; install edgearte there, and set it up there")
    place = emulator.root(device.emulate.root)
    emulator.setup(place, device.emulate.cpu, wheels=ONNX in device.runtimes)
    return place
