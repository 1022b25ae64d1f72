"""Public data sets as the files that a packaged recipe names: `edgearte init NAME --from RECIPE --data PATH`.

The user brings the data set. What is taken from it follows a rule (the digest of each text), so everyone gets the same seeds from the same
files. Where there are kinds of questions (intents), they come in turn: any beginning of a file holds as many of each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from edgearte import catalogue
from edgearte.answers import AnswerFormat
from edgearte.errors import Problem, UserError
from edgearte.load import load_recipe
from edgearte.recipe import Recipe
from edgearte.store import digest
from edgearte.task import load_questions

Row = dict[str, str]  # id, input, target, and a rationale where the data has one
Roles = dict[str, list[Row]]  # role of the recipe (seeds, preference, development, evaluation, pool) -> its rows
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
        _enough(kinds, 6 if split == "train" else 1, f"{path}: {split}")
    seeds, preference, pool = _parted(splits["train"], 2, 3, len(seen))
    return {
        "seeds": seeds, "preference": preference, "development": _in_turn(splits["val"]), "evaluation": _in_turn(splits["test"]),
        # As they came in, before anyone said what was meant.
        "pool": [{"id": row["id"], "input": row["input"]} for row in sorted(pool, key=_rule)],
    }  # fmt: skip


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) and v.strip() for v in value)


def _snips(recipe: Recipe, path: Path) -> Roles:
    """Snips: `train_INTENT.json` and `validate_INTENT.json`, each `{INTENT: [{"data": [{"text", "entity"}, …]}, …]}`. The recipe's
    schema.json says which slots an intent has, and their order in a target."""
    schema = _json(catalogue.folder("recipes") / "intent-slots" / "schema.json")
    seen: set[str] = set()
    splits: dict[str, dict[str, list[Row]]] = {}
    for split in ("validate", "train"):  # what stands in both is measured on, and not taught
        splits[split] = {intent: _utterances(path, split, intent, keys, seen) for intent, keys in schema.items()}
        _enough(splits[split], 28 if split == "train" else 1, f"{path}: {split}")
    seeds, preference, development = _parted(splits["train"], 3, 5, 20)
    (evaluation,) = _parted(splits["validate"], 60)
    return {"seeds": seeds, "preference": preference, "development": development, "evaluation": evaluation}


def _utterances(folder: Path, split: str, intent: str, keys: Sequence[str], seen: set[str]) -> list[Row]:
    """The utterances of one intent that are not yet `seen`. Left out are the few that fill a slot twice, which an object cannot say."""
    file = _one(folder, f"{split}_{intent}.json", "intent-slots")
    data = _json(file)
    rows: list[Row] = []
    try:
        for number, utterance in enumerate(data[intent]):
            pieces = [(str(p["text"]), p.get("entity")) for p in utterance["data"]]
            said = "".join(text for text, _ in pieces).strip()
            slots = {name: text.strip() for text, name in pieces if name}
            if not slots.keys() <= set(keys):
                raise UserError(Problem(f"{intent} has the slots {', '.join(keys)}, not {', '.join(slots.keys() - set(keys))}", str(file)))
            if said not in seen and len(slots) == sum(bool(name) for _, name in pieces):
                seen.add(said)
                target = {"intent": intent, **{key: slots[key] for key in keys if key in slots}}
                rows.append({"id": f"{split}-{intent}-{number}", "input": said, "target": json.dumps(target, ensure_ascii=False)})
    except (KeyError, TypeError, AttributeError):
        wanted = f'expected {{"{intent}": [{{"data": [{{"text", "entity"}}, …]}}, …]}}'
        raise UserError(Problem(f"{wanted}; --data {DATA['intent-slots'].wanted}", str(file))) from None
    return rows


def _gsm8k(recipe: Recipe, path: Path) -> Roles:
    """GSM8K: `train*.jsonl` and `test*.jsonl` with question and answer; the answers' steps are the rationales."""
    answer = AnswerFormat(recipe.task.answer.kind)
    test = load_questions(_one(path, "test*.jsonl", "gsm8k"), answer)
    asked = {q.input for q in test}
    train = [q for q in load_questions(_one(path, "train*.jsonl", "gsm8k"), answer) if q.input not in asked]
    splits = {"train": {"": list(map(asdict, train))}, "test": {"": list(map(asdict, test))}}
    _enough(splits["train"], 184, f"{path}: train")
    _enough(splits["test"], 100, f"{path}: test")
    seeds, preference, development = _parted(splits["train"], 24, 40, 120)
    (evaluation,) = _parted(splits["test"], 300)
    return {"seeds": seeds, "preference": preference, "development": development, "evaluation": evaluation}


def _one(folder: Path, pattern: str, recipe: str) -> Path:
    """The file of a folder, or of a folder in it, whose name is so."""
    if not folder.is_dir():
        raise UserError(Problem(f"no such folder; --data {DATA[recipe].wanted}", str(folder)))
    found = sorted(folder.rglob(pattern))
    if len(found) != 1:
        raise UserError(Problem(f"{len(found) or 'no'} files {pattern} in it; --data {DATA[recipe].wanted}", str(folder)))
    return found[0]


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
    if short := [f"{kind or 'questions'} ({len(rows)})" for kind, rows in split.items() if len(rows) < least]:
        raise UserError(Problem(f"too few: {', '.join(short)}; at least {least} are needed", where))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    except (ValueError, RecursionError) as error:
        raise UserError(Problem(f"not valid JSON: {error}", str(path))) from None


DATA = {
    "voice-intents": DataSet("FILE, CLINC150's data_full.json with train, val and test as [text, intent]", _clinc),
    "intent-slots": DataSet("FOLDER, Snips' 2017-06-custom-intent-engines with train_INTENT.json and validate_INTENT.json", _snips),
    "gsm8k": DataSet("FOLDER, GSM8K's train.jsonl and test.jsonl", _gsm8k),
}
