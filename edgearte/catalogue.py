"""Finds the files users may add to: export presets, device profiles, benchmark suites and packaged recipes.

In a checkout the catalogues are the folders at its root; in an installed wheel they are package data. A user's own file is
named by its path.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from edgearte.errors import Problem, UserError

PACKAGE = Path(__file__).parent
Entry = TypeVar("Entry")


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
    if kind == "devices" and (mine := own_devices() / f"{name}.yaml").is_file():
        return mine
    path = folder(kind) / name / "recipe.yaml" if kind == "recipes" else folder(kind) / f"{name}.yaml"
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


def read(kind: str, name: str, entry: type[Entry]) -> Entry:
    """The file behind a catalogue name as a dataclass of these fields. `UserError` with everything that is wrong in it."""
    return checked(load(kind, name), entry, str(find(kind, name)))


def checked(data: Mapping[Any, Any], entry: type[Entry], where: str) -> Entry:
    """A dataclass from the keys and values that a user wrote. `UserError` with everything that is wrong with them."""
    import json

    from pydantic import TypeAdapter, ValidationError

    try:
        # Strictly, so that no text becomes a number and no `true` becomes 1; as JSON, in which a list may then stand for a tuple.
        return TypeAdapter(entry).validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        raise UserError(sorted({Problem(_said(dict(e), entry), where) for e in error.errors()}, key=str)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(Problem(f"keys with plain values are wanted: {error}", where)) from None


def _said(error: Mapping[str, Any], entry: type) -> str:
    """One mistake as a user reads it."""
    *sections, last = error["loc"] or ("",)
    key = ".".join(map(str, error["loc"]))
    limits, given = error.get("ctx", {}), error["input"]
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    match error["type"]:
        case "unexpected_keyword_argument":
            near = difflib.get_close_matches(str(last), known := _keys(entry, sections), 1)
            return f"unknown key {key!r}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
        case "missing" | "missing_argument":
            return f"the key {key} is missing"
        case "int_type" | "int_from_float":
            return f"{key} must be a whole number{shown}"
        case "float_type":
            return f"{key} must be a number{shown}"
        case "string_type":
            return f"{key} must be text{shown}"
        case "tuple_type":
            return f"{key} must be a list{shown}"
        case "dataclass_type":
            return f"{key} must have keys and values{shown}"
        case "greater_than_equal":
            return f"{key} must be a number of at least {limits['ge']}{shown}"
        case "greater_than":
            return f"{key} must be more than {limits['gt']}{shown}"
        case "literal_error":
            return f"{key} must be {limits['expected']}{shown}"
        case _:
            return f"{key}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _keys(entry: Any, sections: list[Any]) -> list[str]:
    """The keys that a section of a dataclass knows."""
    for name in sections:
        hint = get_type_hints(entry).get(str(name))
        entry = next(filter(is_dataclass, [hint, *get_args(hint)]), None)
        if entry is None:
            return []
    return [f.name for f in fields(entry)]
