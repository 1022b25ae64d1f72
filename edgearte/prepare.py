"""Public data sets as the files that a packaged recipe names: `edgearte init NAME --from RECIPE --data PATH`.

The user brings the data set. What is taken from it follows a rule (the digest of each text), so everyone gets the same seeds from the same
files. Where there are kinds of questions (intents), they come in turn: any beginning of a file holds as many of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from edgearte.errors import Problem, UserError
from edgearte.load import load_recipe
from edgearte.recipe import Recipe
from edgearte.store import digest

Row = dict[str, str]  # id, input, target, and a rationale where the data has one
Roles = dict[str, list[Row]]  # role of the recipe (seeds, preference, development, evaluation) -> its rows
Split = Mapping[str, Sequence[Row]]  # kind of question -> its rows, in the order of the file


@dataclass(frozen=True)
class DataSet:
    """A public data set: what the user is to bring, and how it becomes the recipe's files. `read` is given the recipe and the user's path,
    and raises `UserError` where something else is there."""

    wanted: str
    read: Callable[[Recipe, Path], Roles]


def prepare(name: str, data: Path | None, folder: Path) -> None:
    """Write the question files of the packaged recipe `name` into `folder`, which holds its recipe. `UserError` where data is needed and
    missing, or given and of no use."""
    found = DATA.get(name)
    if found is None:
        if data is not None:
            raise UserError(f"--data: the recipe {name} brings its data or names where yours lies; it is for {', '.join(DATA)}")
        return
    if data is None:
        raise UserError(f"the recipe {name} needs data of yours: --data {found.wanted}")
    for role, rows in found.read(load_recipe(folder / "recipe.yaml"), data).items():
        (folder / f"{role}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def _clinc(recipe: Recipe, path: Path) -> Roles:
    """CLINC150: `{"train": [[text, intent], …], "val": …, "test": …}`, of which the recipe's intents are taken."""
    data = _json(path)
    intents = tuple(recipe.task.answer.choices)
    splits: dict[str, dict[str, list[Row]]] = {}
    seen: set[str] = set()
    for split in ("test", "val", "train"):  # what stands in two splits is measured on, and not taught
        pairs = data.get(split) if isinstance(data, dict) else None
        if not isinstance(pairs, list) or not all(_is_pair(p) for p in pairs):
            raise UserError(Problem(f'no list of [text, intent] under "{split}"; --data {DATA["voice-intents"].wanted}', str(path)))
        kinds: dict[str, list[Row]] = {intent: [] for intent in intents}
        for number, (text, intent) in enumerate(pairs):
            if intent in kinds and text.strip() not in seen:
                seen.add(text.strip())
                kinds[intent].append({"id": f"{split}-{number}", "input": text.strip(), "target": intent})
        splits[split] = kinds
        _enough(kinds, 5 if split == "train" else 1, f"{path}: {split}")
    seeds, preference = _parted(splits["train"], 2, 3)
    return {"seeds": seeds, "preference": preference, "development": _in_turn(splits["val"]), "evaluation": _in_turn(splits["test"])}


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) and v.strip() for v in value)


def _parted(split: Split, *sizes: int) -> list[list[Row]]:
    """Parts with so many rows of each kind, none in two of them."""
    ordered = {kind: sorted(rows, key=_rule) for kind, rows in split.items()}
    parts, start = [], 0
    for size in sizes:
        parts.append(_in_turn({kind: rows[start : start + size] for kind, rows in ordered.items()}))
        start += size
    return parts


def _in_turn(split: Split) -> list[Row]:
    """One row of each kind, then the next of each; a kind's own in the order of the rule."""
    columns = (sorted(rows, key=_rule) for rows in split.values())
    return [row for turn in zip_longest(*columns) for row in turn if row]


def _rule(row: Row) -> str:
    return digest(row["input"])


def _enough(split: Split, least: int, where: str) -> None:
    """`UserError` where a kind has fewer rows than are taken of it."""
    if short := [f"{kind} ({len(rows)})" for kind, rows in split.items() if len(rows) < least]:
        raise UserError(Problem(f"too few of {', '.join(short)}; at least {least} of each are needed", where))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    except (ValueError, RecursionError) as error:
        raise UserError(Problem(f"not valid JSON: {error}", str(path))) from None


DATA = {
    "voice-intents": DataSet("FILE, CLINC150's data_full.json with train, val and test as [text, intent]", _clinc),
}
