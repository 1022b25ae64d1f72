"""Device profiles: what a device is and how it is reached, one YAML file each in the catalogue `devices`, or written by
`edgearte device add`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, model_validator

from edgearte.errors import Problem, UserError

PLACEHOLDER = "?"  # an address that the user has still to give
NATIVE: Literal["native"] = "native"
PYTHON: Literal["python"] = "python"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Emulated(Section):
    """What runs on the device runs under qemu's user mode: an ARM board without the board."""

    cpu: str = "cortex-a72"
    root: str = ""  # the root file system; "": where `edgearte device setup` puts it


class Bandwidth(Section):
    """Of the memory: how fast weights can be read at best, and who says so."""

    gb_per_s: Annotated[float, Field(gt=0)]
    source: str


class Device(Section):
    """One device. `threads` 0 means as many as it has cores."""

    name: str
    about: str = ""
    reach: Literal["local", "ssh", "adb"] = "local"
    address: str = ""  # user@host or user@host:port; of adb, the serial number
    jump: str = ""  # a host to go through
    identity: str = ""  # the file of a private key
    known_hosts: str = ""  # the file of the host keys that are trusted; "": ssh's own
    emulate: Emulated | None = None
    architecture: Literal["x86_64", "aarch64", ""] = ""
    cpu: str = ""
    cores: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=0)] = 0
    features: tuple[str, ...] = ()  # as /proc/cpuinfo names them
    memory: ByteSize | None = None
    bandwidth: Bandwidth | None = None
    gops: Annotated[float, Field(gt=0)] | None = None  # 8-bit operations a second, in billions, where measured
    runtimes: tuple[Literal["llama.cpp", "onnxruntime-genai"], ...] = ("llama.cpp",)
    # native: a static program that is brought along. python: an interpreter there that has one of the runtimes
    harness: Literal["native", "python"] = NATIVE
    python: str = "python3"
    budget: dict[str, Any] = {}

    @model_validator(mode="after")
    def _reachable(self) -> Device:
        if self.reach != "local" and not self.address:
            raise ValueError(f"reach: {self.reach} needs an address ({PLACEHOLDER} until there is one)")
        return self

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

    path = catalogue.find("devices", name)
    data = catalogue.load("devices", name)
    try:
        return Device.model_validate(data)
    except ValidationError as error:
        raise UserError([_problem(found, path) for found in error.errors()]) from None


def _problem(found: Any, path: Path) -> Problem:
    import difflib

    place = ".".join(map(str, found["loc"]))
    if found["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(found["loc"][-1]), list(Device.model_fields), 1)
        return Problem(f"unknown key {place!r}" + (f"; did you mean {near[0]}?" if near else ""), str(path))
    message = found["msg"].removeprefix("Value error, ")
    return Problem(f"{place}: {message}" if place else message, str(path))
