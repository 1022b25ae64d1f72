"""The emulated ARM64 board, set up for tests."""

from __future__ import annotations

from edgearte.device import command
from tests.system import need

PROGRAMS = {
    "qemu-aarch64": "qemu-user", "mmdebstrap": "mmdebstrap", "cmake": "cmake", "cc": "gcc", "c++": "g++",
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
}  # fmt: skip


def set_up() -> None:
    """Make its root file system where it is not there yet, as a user does."""
    need(PROGRAMS)
    command.setup("arm64-emulated")
