"""Benchmark suites: how long a prompt, how many new tokens, how often. One YAML file each in the catalogue
`benchmarks`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields

from edgearte.errors import Problem, UserError


@dataclass(frozen=True)
class Suite:
    """What is timed. After `warmups` runs that do not count, `repeats` runs each read a prompt of exactly
    `prompt_tokens` and write `new_tokens` after it, one sequence at a time."""

    name: str
    about: str
    prompt_tokens: int
    new_tokens: int
    repeats: int
    warmups: int


def load_suite(name: str) -> Suite:
    """The suite of this name, or of a user's own YAML file. `UserError` with everything that is wrong in it."""
    from edgearte import catalogue

    path = str(catalogue.find("benchmarks", name))
    data = catalogue.load("benchmarks", name)
    known = {f.name for f in fields(Suite)}
    problems = []
    for key in data.keys() - known:
        near = difflib.get_close_matches(str(key), known, 1)
        problems.append(Problem(f"unknown key {key!r}" + (f"; did you mean {near[0]}?" if near else ""), path))
    for field in fields(Suite):
        value = data.get(field.name)
        lowest = 0 if field.name == "warmups" else 1
        if field.name not in data:
            problems.append(Problem(f"the key {field.name} is missing", path))
        elif field.type == "str" and not isinstance(value, str):
            problems.append(Problem(f"{field.name} must be text", path))
        elif field.type == "int" and (type(value) is not int or value < lowest):
            problems.append(Problem(f"{field.name} must be a whole number of at least {lowest}, not {value!r}", path))
    if problems:
        raise UserError(sorted(problems, key=str))
    return Suite(**data)
