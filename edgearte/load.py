"""Reads a recipe file: YAML, `${NAME}` from the environment, `key=value` overrides; every mistake at once, with file, line and key."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from edgearte.answers import AnswerFormat
from edgearte.errors import Problem, UserError
from edgearte.recipe import Recipe
from edgearte.records import Question
from edgearte.store import digest
from edgearte.task import Task, load_questions

Place = tuple[str | int, ...]
ROLES = ("seeds", "preference", "development", "evaluation", "pool")  # of files of questions
ENOUGH = 150  # evaluation questions from which a third may be spared for development


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a file with overrides such as `train.epochs=2`; `UserError` names every mistake."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(Problem(f"not UTF-8 at byte {error.start}", f"{path}:{line}")) from None
    except OSError as error:
        raise UserError(Problem(f"cannot be read: {error.strerror}", str(path))) from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(Problem(f"not valid YAML: {getattr(error, 'problem', None) or error}", where)) from None
    if not isinstance(data, dict):
        raise UserError(Problem("a recipe is a mapping of keys to values", str(path)))
    lines = _lines(root)
    problems = [Problem(f"the key {_dotted(p)} stands twice", f"{path}:{n}") for p, n in _doubles(root)]
    for text_override in overrides:
        _override(data, lines, text_override, problems)
    data = _expand(data, (), path, lines, problems)
    recipe = _validated(data, path, lines, problems)
    if problems or recipe is None:
        raise UserError(problems)
    return _anchored(recipe, path.parent)


def _anchored(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with its paths made absolute, so that the copy in the run folder can be built again from anywhere."""

    def absolute(path: str) -> str:
        here = base / Path(path).expanduser()
        return str(here.resolve()) if here.exists() else path

    files = {
        role: section.model_copy(update={"file": str((base / Path(section.file).expanduser()).resolve())})
        for role in ROLES
        if (section := getattr(recipe.task, role)) is not None
    }

    def named(section: Any) -> Any:
        here = getattr(section, "endpoint", None) is None  # a server's name for a model is no path
        return section.model_copy(update={"model": absolute(section.model)}) if here else section

    models = {"teacher": named(recipe.teacher), "student": named(recipe.student)}
    if how := recipe.assist:
        several = how.several and how.several.model_copy(update={"teachers": tuple(map(named, how.several.teachers))})
        models["assist"] = named(how).model_copy(update={"several": several})
    responders = tuple(r.model_copy(update={"model": absolute(r.model)}) for r in recipe.prefer.responders)
    checker = tuple(absolute(part) for part in recipe.verify.checker)
    general = recipe.export.general and recipe.export.general.model_copy(update={"file": absolute(recipe.export.general.file)})
    changed = {
        "task": recipe.task.model_copy(update=files),
        "prefer": recipe.prefer.model_copy(update={"responders": responders}),
        "verify": recipe.verify.model_copy(update={"checker": checker}),
        "export": recipe.export.model_copy(update={"general": general}),
    }
    return recipe.model_copy(update={**changed, **models})


def load_task(recipe: Recipe) -> Task:
    """The task of a recipe; the problems of all its files at once."""
    section = recipe.task
    choices = section.answer.choices
    fmt = AnswerFormat(**section.answer.model_dump(exclude={"choices"}), choices=tuple(choices))
    problems: list[Problem] = []
    read: dict[str, tuple[Question, ...]] = {}
    for role in ROLES:
        if (source := getattr(section, role)) is not None:
            try:
                read[role] = load_questions(Path(source.file), fmt, source.take, labelled=role != "pool")
            except UserError as error:
                problems += [Problem(f"task.{role}: {p.message}", p.where) for p in error.problems]
    if not problems:
        for held, reason in (("evaluation", "what is measured on must not be taught"), ("development", "what decides must not be taught")):
            held_out = {q.input: q.id for q in read.get(held, ())}
            others = ("seeds", "preference", "pool", *(["development"] if held == "evaluation" else []))
            problems += [
                Problem(f"task.{role}: {q.id!r} is also {held} question {held_out[q.input]!r}; {reason}")
                for role in others for q in [q for q in read.get(role, ()) if q.input in held_out][:5]
            ]  # fmt: skip
    if problems:
        raise UserError(problems)
    development, evaluation = read.get("development", ()), read["evaluation"]
    notes: tuple[str, ...] = ()
    if section.development is None and len(evaluation) >= ENOUGH:
        development, evaluation = split_off(evaluation)
        notes = (
            f"The recipe names no development questions: {len(development)} of the {len(read['evaluation'])} evaluation questions were "
            "split off to decide what is delivered, and are not measured on.",
        )
    return Task(
        name=section.name or recipe.name,
        description=section.description.strip(),
        instruction=section.instruction.strip(),
        answer=fmt,
        seeds=read.get("seeds", ()),
        preference=read.get("preference", read.get("seeds", ())),
        evaluation=evaluation,
        pool=read.get("pool", ()),
        development=development,
        meanings=dict(choices) if isinstance(choices, dict) else {},
        notes=notes,
    )


def split_off(questions: Sequence[Question]) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """A third of the questions for development, and the rest, both in their order. Which ones follows from a question's text, not from its
    place in the file; a text that stands there twice stays on one side."""
    by_digest = sorted(digest(q.input) for q in questions)
    chosen = set(by_digest[: len(questions) // 3])
    apart = tuple(q for q in questions if digest(q.input) in chosen)
    return apart, tuple(q for q in questions if digest(q.input) not in chosen)


def _validated(data: Any, path: Path, lines: dict[Place, str], problems: list[Problem]) -> Recipe | None:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        for found in error.errors():
            place = tuple(found["loc"])
            where = _where(place, path, lines)
            key = _dotted(place)
            match found["type"]:
                case "extra_forbidden":
                    known = _keys(place[:-1])
                    near = difflib.get_close_matches(str(place[-1]), known, 1)
                    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
                    problems.append(Problem(f"{key}: unknown key; {hint}", where))
                case "missing":
                    problems.append(Problem(f"{key}: missing", where))
                case _:
                    message = found["msg"].removeprefix("Value error, ")
                    given = found["input"]
                    plain = isinstance(given, str | int | float | bool) and not _secret(place)
                    shown = f", not {given!r}" if plain else ""
                    problems.append(Problem(f"{key}: {message[:1].lower()}{message[1:]}{shown}", where))
        return None


def _secret(place: Place) -> bool:
    """Whether what was written there could be a key that was put in the wrong place: it is never repeated."""
    return "endpoint" in place


def _keys(place: Place) -> list[str]:
    """The keys a section of the recipe knows."""
    model: Any = Recipe
    steps = iter(place)
    for step in steps:
        field = model.model_fields.get(str(step)) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        if get_origin(field.annotation) is dict:
            next(steps, None)  # the user's own name of an entry
        options = [field.annotation, *get_args(field.annotation)]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _dotted(place: Place) -> str:
    return ".".join(map(str, place))


def _where(place: Place, path: Path, lines: Mapping[Place, str]) -> str:
    """`file:line` of a key, or of the nearest section that is there."""
    for cut in range(len(place), -1, -1):
        if place[:cut] in lines:
            spot = lines[place[:cut]]
            return f"{path}:{spot}" if spot.isdigit() else spot
    return str(path)


def _lines(root: yaml.Node | None) -> dict[Place, str]:
    """Where every key stands, as line numbers."""
    found: dict[Place, str] = {}

    def walk(node: yaml.Node | None, place: Place) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*place, key.value)] = str(key.start_mark.line + 1)
                walk(value, (*place, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                found[(*place, i)] = str(value.start_mark.line + 1)
                walk(value, (*place, i))

    found[()] = "1"
    walk(root, ())
    return found


def _doubles(node: yaml.Node | None, place: Place = ()) -> list[tuple[Place, int]]:
    """Keys that stand twice in one mapping: YAML would silently keep the last."""
    found: list[tuple[Place, int]] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            here = (*place, key.value)
            if key.value in seen:
                found.append((here, key.start_mark.line + 1))
            seen.add(key.value)
            found += _doubles(value, here)
    return found


def _override(data: dict[str, Any], lines: dict[Place, str], text: str, problems: list[Problem]) -> None:
    key, equals, value = text.partition("=")
    place = tuple(key.strip().split("."))
    where = f"override {(key if _secret(place) else text)!r}"
    if not equals or not all(place):
        problems.append(Problem("overrides are written key=value, such as train.epochs=2", where))
        return
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        parsed = value
    section = data
    for step in place[:-1]:
        inner = section.setdefault(step, {})
        if not isinstance(inner, dict):
            problems.append(Problem(f"{step} is a value, not a section", where))
            return
        section = inner
    section[place[-1]] = parsed
    lines[place] = where


def _expand(value: Any, place: Place, path: Path, lines: dict[Place, str], problems: list[Problem]) -> Any:
    """Replace `${NAME}` in every text by the environment's value."""
    if isinstance(value, dict):
        return {k: _expand(v, (*place, k), path, lines, problems) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, (*place, i), path, lines, problems) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            problem = f"{_dotted(place)}: the environment has no {name}; set it, or override this key"
            problems.append(Problem(problem, _where(place, path, lines)))
        return os.environ.get(name, "")

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", replace, value)
