"""`edgearte device …` and the devices of `edgearte ls`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from edgearte import catalogue
from edgearte.device import emulator
from edgearte.device.profile import NATIVE, PYTHON, Device, load_device
from edgearte.device.reach import Shell, Unreachable
from edgearte.device.remote import Remote
from edgearte.errors import UserError
from edgearte.files import write_text
from edgearte.measure.host import LOCAL, Target

ANSWER_S = 15
# Printed one after another by a device that is probed; `==` lines keep the answers apart.
PROBE = """
uname -m; echo ==; cat /proc/cpuinfo; echo ==; cat /proc/meminfo; echo ==; command -v python3 >/dev/null && python3 -c '
import sys, importlib.util as u
print(sys.version_info >= (3, 9), *[n for n in ("llama_cpp", "onnxruntime_genai") if u.find_spec(n)])'; true
"""
QUESTIONS = {
    "name": "What should it be called",
    "reach": "How is it reached (ssh or adb)",
    "address": "Its address (user@host or user@host:port; of adb, the serial number)",
    "identity": "The file of your private key (empty: ssh's own choice)",
}


def target(name: str) -> Target:
    """Where artifacts run that are to run on the device of this name."""
    device = load_device(name)
    return LOCAL if device.is_here else Remote(device)


def answering(names: list[str]) -> dict[str, str]:
    """How each device is reached and whether it answers, all asked at once."""
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        return dict(zip(names, pool.map(_answers, names), strict=True))


def _answers(name: str) -> str:
    try:
        device = load_device(name)
        if device.is_here:
            return "this machine"
        if not device.addressed:
            return f"{device.reach}, no address yet"
        how = device.reach + (f" {device.address}" if device.address else "") + (", emulated" if device.emulate else "")
        if device.emulate and device.reach == "local":
            there = (emulator.root(device.emulate.root) / emulator.READY).is_file()
            return f"{how}: " + ("answers" if there else f"edgearte device setup {name} makes it")
        Shell(device).run("true", timeout_s=ANSWER_S)
        return f"{how}: answers"
    except Unreachable as error:
        return f"does not answer: {error}"
    except UserError as error:
        return str(error)


def add(given: Mapping[str, str], ask: Callable[[str], str] | None) -> Path:
    """Ask for what is not given, where anybody can be asked, connect, find out what the device is, and write its profile."""
    said = dict(given)
    for key, question in QUESTIONS.items():
        if not said.get(key) and ask:
            said[key] = ask(question).strip()
        if not said.get(key) and key != "identity":
            raise UserError(f"--{key} is missing: {question[:1].lower()}{question[1:]}?")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", said["name"]):
        raise UserError(f"--name: {said['name']!r} cannot name a device: use letters, digits, dots, dashes and underscores")
    if said["reach"] not in ("ssh", "adb"):
        raise UserError(f"--reach: a device is reached by ssh or adb, not by {said['reach']!r}")
    path = catalogue.own_devices() / f"{said['name']}.yaml"
    if path.exists():
        raise UserError(f"{path}: exists already; change it there, or choose another name")
    known: dict[str, Any] = {key: said[key] for key in ("name", "reach", "address", "identity") if said.get(key)}
    found = known | probed(Shell(Device.model_validate(known)))
    path.parent.mkdir(parents=True, exist_ok=True)
    import yaml

    write_text(path, yaml.safe_dump(found, sort_keys=False, allow_unicode=True))
    return path


def probed(shell: Shell) -> dict[str, Any]:
    """What a device says it is, as a profile says it."""
    from edgearte.measure.machine import FEATURES

    done = shell.run(PROBE, timeout_s=60)
    parts = [part.strip() for part in done.out.decode("utf-8", "replace").split("\n==\n")]
    if len(parts) < 4 or parts[0] not in ("x86_64", "aarch64"):
        raise UserError(f"it calls itself {parts[0] or 'nothing'}; what is built here runs on x86_64 and aarch64 under Linux or Android")
    info = [line.partition(":") for line in parts[1].splitlines()]
    values = {name.strip().lower(): value.strip() for name, _, value in reversed(info)}
    flags = set((values.get("flags") or values.get("features") or "").split())
    memory = next((int(x.split()[1]) * 1024 for x in parts[2].splitlines() if x.startswith("MemTotal")), 0)
    python = parts[3].split()
    runtimes = ["llama.cpp"]
    by_python = python[:1] == ["True"] and "onnxruntime_genai" in python
    if by_python:
        runtimes.append("onnxruntime-genai")
    return {
        "architecture": parts[0],
        "cpu": values.get("model name") or values.get("hardware") or parts[0],
        "cores": sum(name.strip() == "processor" for name, _, _ in info) or 1,
        "features": [f for f in FEATURES if f in flags],
        "memory": memory,
        "runtimes": runtimes,
        "harness": PYTHON if by_python and "llama_cpp" in python else NATIVE,
    }


def clean(name: str) -> None:
    """Remove what was put onto a device."""
    device = load_device(name)
    if device.is_here:
        raise UserError("local: nothing is put onto this machine")
    Remote(device).store.clean()


def setup(name: str) -> Path:
    """Make the root file system of an emulated device."""
    device = load_device(name)
    if device.emulate is None:
        raise UserError(f"{name}: it is no emulated device, and needs nothing set up")
    place = emulator.root(device.emulate.root)
    emulator.setup(place, device.emulate.cpu, wheels="onnxruntime-genai" in device.runtimes)
    return place
