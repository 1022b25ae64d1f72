"""The harness in Python as one file, for devices that have an interpreter."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path


def python_harness() -> bytes:
    """The modules of ours that the harness is made of, as a zip file that Python imports from; the same bytes for the same modules."""
    package = Path(__file__).parent.parent
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for path in [package / "__init__.py", package / "errors.py", *sorted((package / "measure").glob("*.py"))]:
            entry = zipfile.ZipInfo(path.relative_to(package.parent).as_posix(), (1980, 1, 1, 0, 0, 0))
            file.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()
