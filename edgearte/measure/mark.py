"""Marks around the phases of the work, for an emulator that counts instructions (edgearte/device/count.c): a system call that no kernel
knows, made only where EDGEARTE_MARK is set. The numbers are those of native/harness.cpp, its C++ twin."""

from __future__ import annotations

import ctypes
import os

CALL = 0xE47
LOADING, LOADED, READING, READ, WROTE = range(1, 6)
_system = ctypes.CDLL(None, use_errno=True).syscall if "EDGEARTE_MARK" in os.environ else None


def mark(phase: int, number: int = 0) -> None:
    """Say that this phase begins or has ended; `number` tells which (the prompt's tokens, or which new token)."""
    if _system is not None:
        _system(ctypes.c_long(CALL), ctypes.c_long(phase), ctypes.c_long(number))
