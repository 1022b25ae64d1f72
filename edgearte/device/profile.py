"""Device profiles: what a device is and how it is reached, one YAML file each in the catalogue `devices`, or written by
`edgearte device add`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import ByteSize, ConfigDict, Field

from edgearte.errors import Problem, UserError

PLACEHOLDER = "?"  # in an address: the user has still to give it
NATIVE: Literal["native"] = "native"
PYTHON: Literal["python"] = "python"
ONNX = "onnxruntime-genai"
SERIAL = re.compile(r"[^\s?-][^\s?]*")
# user@host, host:port, [::1]:22; the host may be an alias from the user's ssh configuration.
SSH = re.compile(r"(?:(?P<user>[^\s@?]+)@)?(?:\[(?P<six>[^\s\]?]+)\]|(?P<host>[^\s@:?\[\]-][^\s@:?\[\]]*))(?::(?P<port>\d+))?")

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Feature = Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Emulated:
    """What runs on the device runs under qemu's user mode: an ARM board without the board. `root` is the folder of the root file system on
    the device; "": where `edgearte device setup` puts it."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    cpu: str = "cortex-a72"
    root: str = ""


@dataclass(frozen=True)
class Bandwidth:
    """Of the memory: how fast weights can be read at best, and who says so."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    gb_per_s: Above0
    source: str


@dataclass(frozen=True)
class Device:
    """One device."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: Name
    about: str = ""
    reach: Literal["local", "ssh", "adb"] = "local"
    address: str = ""  # user@host or user@host:port; of adb, the serial number
    jump: str = ""  # user@host to go through
    identity: str = ""  # the file of a private key; "": ssh's own choice
    known_hosts: str = ""  # the file of the host keys that are trusted; "": ssh's own
    emulate: Emulated | None = None
    architecture: Literal["x86_64", "aarch64", ""] = ""
    cpu: str = ""
    cores: Count = 0
    threads: Count = 0  # 0: as many as it has cores
    features: tuple[Feature, ...] = ()  # as /proc/cpuinfo names them
    memory: Annotated[ByteSize, Field(ge=1)] | None = None
    bandwidth: Bandwidth | None = None
    gops: Above0 | None = None  # 8-bit operations a second, in billions, where measured
    runtimes: tuple[Literal["llama.cpp", "onnxruntime-genai"], ...] = ("llama.cpp",)
    # native: GGUF is run by a static program that is brought along. python: by an interpreter there that has llama-cpp-python. What
    # onnxruntime-genai runs is always run by the interpreter.
    harness: Literal["native", "python"] = NATIVE
    python: str = "python3"
    budget: dict[str, Any] | None = None

    @property
    def is_here(self) -> bool:
        """Whether it is this machine itself, and no emulation of another."""
        return self.reach == "local" and self.emulate is None

    @property
    def addressed(self) -> bool:
        """Whether it is said where it is."""
        return self.reach == "local" or PLACEHOLDER not in self.address


def load_device(name: str) -> Device:
    """The device of this name, or of a user's own YAML file. `UserError` with everything that is wrong in it."""
    from edgearte import catalogue

    return sound(catalogue.read("devices", name, Device), str(catalogue.find("devices", name)))


def sound(device: Device, where: str) -> Device:
    """The device, where its keys go together; else `UserError` with everything that is wrong."""
    form, others = (SSH, "user@host or user@host:port") if device.reach == "ssh" else (SERIAL, "the serial number that `adb devices` shows")
    wrong = []
    if device.reach == "local" and device.address:
        wrong.append("address: this machine has none; reach: ssh or adb is for others")
    elif device.reach != "local" and not device.address:
        wrong.append(f"the key address is missing: {others}, or {PLACEHOLDER!r} until there is one")
    elif device.reach != "local" and device.addressed and not form.fullmatch(device.address):
        wrong.append(f"address: {others} is wanted, not {device.address!r}")
    if device.jump and not SSH.fullmatch(device.jump):
        wrong.append(f"jump: user@host or user@host:port is wanted, not {device.jump!r}")
    wrong += [
        f"{key}: only ssh has one, and reach is {device.reach}"
        for key in ("jump", "identity", "known_hosts") if getattr(device, key) and device.reach != "ssh"
    ]  # fmt: skip
    if device.emulate and device.architecture != "aarch64":
        wrong.append("architecture: what is emulated is aarch64")
    if not device.runtimes:
        wrong.append(f"runtimes: name one, llama.cpp or {ONNX}")
    if device.harness == NATIVE and not device.is_here and not device.architecture:
        wrong.append("the key architecture is missing: the native harness is built for x86_64 or for aarch64")
    if wrong:
        raise UserError([Problem(message, where) for message in wrong])
    return device


def parsed(address: str) -> tuple[str, str, str]:
    """User, host and port of an ssh address; "" where it does not say."""
    found = SSH.fullmatch(address)
    if not found:
        raise UserError(f"address: user@host or user@host:port is wanted, not {address!r}")
    return found["user"] or "", found["six"] or found["host"], found["port"] or ""
