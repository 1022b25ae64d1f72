"""The harness runs on a device with Python 3.9."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import edgearte

PACKAGE = Path(edgearte.__file__).parent
# What the harness imports there.
MODULES = (
    "harness", "machine", "conditions", "rows", "llamacpp", "llamalib", "genai", "header", "mark", "probe", "roofline", "seats", "writing",
)  # fmt: skip
ASKED_FOR = "platform.freedesktop_os_release"  # and done without where it is missing


def test_the_harness_needs_no_newer_python_than_a_device_has() -> None:
    files = [PACKAGE / "__init__.py", PACKAGE / "errors.py", *(PACKAGE / "measure" / f"{name}.py" for name in MODULES)]
    options = ["-t=3.9-", "--violations", "--no-tips", "--exclude", ASKED_FOR, "--backport=typing"]
    vermin = Path(sys.executable).with_name("vermin")
    done = subprocess.run([vermin, *options, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_it_imports_is_what_was_looked_at() -> None:
    """And nothing that a device has not."""
    script = (
        "import sys, edgearte.measure.harness as h, edgearte.measure.llamacpp, edgearte.measure.genai, edgearte.measure.probe\n"
        "print(*sorted(m for m in sys.modules if m.startswith('edgearte')))\n"
        "assert not {'torch', 'transformers', 'pydantic', 'yaml', 'rich'} & set(sys.modules), sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    known = {"edgearte", "edgearte.errors", "edgearte.measure", *(f"edgearte.measure.{name}" for name in MODULES)}
    assert set(done.stdout.split()) <= known
