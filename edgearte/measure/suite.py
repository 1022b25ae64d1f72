"""Benchmark suites: how long a prompt, how many new tokens, how often. One YAML file each in the catalogue
`benchmarks`."""

from __future__ import annotations

import difflib
from dataclasses import MISSING, dataclass, fields

from edgearte.errors import Problem, UserError

# What prompts are made of: repeated, and cut to the length that is wanted.
PASSAGE = (
    "The ferry left the harbour a little after seven, when the fog had begun to lift from the water and the first "
    "gulls were already quarrelling over the nets. Anna counted the crates again: twelve of apples, four of honey, "
    'and one, carefully tied, that held the old clock from her grandmother\'s kitchen. "Will it still run?" asked '
    "the boy beside her. She smiled and said that it had stopped only twice in ninety years, once for a flood and "
    "once for a wedding. Behind them the town grew small, first the houses, then the church, and at last the "
    "lighthouse with its red lamp. "
    "By noon they would reach the island; by evening, if the wind was kind, the clock would strike again. "
)


@dataclass(frozen=True)
class Suite:
    """What is timed. After `warmups` runs that do not count, `repeats` runs each read a prompt of exactly `prompt_tokens` and write
    `new_tokens` after it: behind `depth` tokens of context, `turns` times in one conversation, of which the last turn is timed, and in
    `batch` sequences side by side (llama.cpp alone)."""

    name: str
    about: str
    prompt_tokens: int
    new_tokens: int
    repeats: int
    warmups: int
    depth: int = 0
    turns: int = 1
    batch: int = 1

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return self.depth + self.turns * (self.prompt_tokens + self.new_tokens)


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
        value = data.get(field.name, field.default)
        lowest = 0 if field.name in ("warmups", "depth") else 1
        if value is MISSING:
            problems.append(Problem(f"the key {field.name} is missing", path))
        elif field.type == "str" and not isinstance(value, str):
            problems.append(Problem(f"{field.name} must be text", path))
        elif field.type == "int" and (type(value) is not int or value < lowest):
            problems.append(Problem(f"{field.name} must be a whole number of at least {lowest}, not {value!r}", path))
    if problems:
        raise UserError(sorted(problems, key=str))
    return Suite(**data)
