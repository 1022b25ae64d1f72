"""Finds the files users may add to: export presets, device profiles, benchmark suites and packaged recipes.

In a checkout the catalogues are the folders at its root; in an installed wheel they are package data. A user's own file is
named by its path.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from edgearte.errors import UserError

PACKAGE = Path(__file__).parent


def folder(kind: str) -> Path:
    """The folder of one catalogue: `export`, `devices`, `benchmarks` or `recipes`."""
    if kind == "recipes":
        return PACKAGE / "recipes"
    installed = PACKAGE / "_catalogue" / kind
    return installed if installed.is_dir() else PACKAGE.parent / kind


def own_devices() -> Path:
    """Where a user's own device profiles lie."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "edgearte" / "devices"


def names(kind: str) -> list[str]:
    """The names in one catalogue, sorted."""
    if kind == "recipes":
        return sorted(p.parent.name for p in folder(kind).glob("*/recipe.yaml"))
    own = own_devices().glob("*.yaml") if kind == "devices" else ()
    return sorted({p.stem for p in (*folder(kind).glob("*.yaml"), *own)})


def find(kind: str, name: str) -> Path:
    """The file behind a catalogue name or a user's path; `UserError` with the nearest known name when there is none."""
    own = Path(name)
    if own.suffix in (".yaml", ".yml"):
        if own.is_file():
            return own
        raise UserError(f"{name}: no such file")
    path = folder(kind) / name / "recipe.yaml" if kind == "recipes" else folder(kind) / f"{name}.yaml"
    if kind == "devices" and (mine := own_devices() / f"{name}.yaml").is_file():
        return mine
    if path.is_file():
        return path
    known = names(kind)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
    raise UserError(f"no {kind} entry called {name!r}; {hint}")


def load(kind: str, name: str) -> dict[str, Any]:
    """The parsed file behind a catalogue name."""
    path = find(kind, name)
    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected keys and values, found {type(data).__name__}")
    return data
