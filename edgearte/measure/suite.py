"""Benchmark suites: how long a prompt, how many new tokens, how often. One YAML file each in the catalogue
`benchmarks`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import ConfigDict, Field

from edgearte.errors import UserError

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
TASK = "task"

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
    `batch` sequences side by side (llama.cpp alone).

    `prompts` are read in place of the passage, each whole if it has no more than `prompt_tokens`, and all of them `repeats` times; a text
    is the name of a file of them, one a line or .jsonl, or `TASK`: the questions of a recipe, as its student is asked them. `threads` are
    those that nobody asks otherwise for; 0: the device's own."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    about: str
    prompt_tokens: Positive
    new_tokens: Positive
    repeats: Positive
    warmups: Count
    depth: Count = 0
    turns: Positive = 1
    batch: Positive = 1
    threads: Count = 0
    prompts: str | tuple[str, ...] = ()

    @property
    def context(self) -> int:
        """The most tokens of a sequence."""
        return self.depth + self.turns * (self.prompt_tokens + self.new_tokens)


def load_suite(name: str) -> Suite:
    """The suite of this name, or of a user's own YAML file, with the texts of its prompts where it names a file of them. `UserError` with
    everything that is wrong in it."""
    from edgearte import catalogue
    from edgearte.files import read_texts

    suite, path = catalogue.read("benchmarks", name, Suite), catalogue.find("benchmarks", name)
    if suite.prompts and (suite.depth or suite.turns > 1):
        raise UserError(f"{path}: prompts: they are read alone; leave out depth and turns")
    if not all(text.strip() for text in suite.prompts):
        raise UserError(f"{path}: prompts: one of them is empty")
    if isinstance(suite.prompts, str) and suite.prompts not in ("", TASK):
        suite = replace(suite, prompts=tuple(read_texts(path.parent / suite.prompts)))
    return suite
