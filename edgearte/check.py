"""Everything that would stop a build later, said before it begins."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from edgearte.convert.presets import load_preset
from edgearte.destination import destinations
from edgearte.errors import Problem, UserError
from edgearte.files import read_texts
from edgearte.lm import endpoint, weights
from edgearte.measure.suite import load_suite
from edgearte.recipe import Recipe
from edgearte.setup import address
from edgearte.task import Task


def check(recipe: Recipe, task: Task) -> None:
    """Models, presets, suite, and parts of the recipe that do not go together. `forecast.room` checks memory and disk."""
    named = [(f"{role}.model", m.model, m.revision) for role, m in (("teacher", recipe.teacher), ("student", recipe.student))]
    named = named[1:] if recipe.teacher.endpoint else named
    if recipe.assist:
        named.append(("assist.model", recipe.assist.model, recipe.assist.revision))
        others = enumerate(recipe.assist.several.teachers if recipe.assist.several else ())
        named += [(f"assist.several.teachers.{i}.model", t.model, t.revision) for i, t in others if not t.endpoint]
    named += [(f"prefer.responders.{i}.model", r.model, "") for i, r in enumerate(recipe.prefer.responders)]
    problems = [
        Problem(f"{key}: {p.message}", p.where)
        for key, model, revision in named
        for p in weights.check(model, revision=revision)
    ]
    problems += _endpoint_problems(recipe)
    problems += _runtime_problems(recipe)
    presets = dict.fromkeys((*recipe.export.presets, *(recipe.close.cures if recipe.devices else ())))
    for load, name in (*((load_preset, name) for name in presets), (load_suite, recipe.measure.suite)):
        try:
            load(name)
        except UserError as error:
            problems += error.problems
    if recipe.export.general:
        try:
            read_texts(Path(recipe.export.general.file))
        except UserError as error:
            problems += [Problem(f"export.general.file: {p.message}") for p in error.problems]
    problems += _device_problems(recipe, task)
    problems += _assist_problems(recipe, task)
    problems += _seed_problems(recipe, task)
    if recipe.teacher.style == "continuation" and not any(q.rationale for q in task.seeds):
        problems.append(
            Problem("teacher.style: continuation goes on with a pattern, so at least one seed needs a rationale")
        )
    if recipe.teacher.style == "continuation" and recipe.align.rationale_prompt == "strategy":
        problems.append(
            Problem("align.rationale_prompt: strategy needs a teacher in style: chat; a continuation begins with its strategy's words")
        )
    if recipe.train.teach == "meaning" and not task.meanings:
        problems.append(Problem("train.teach: meaning needs task.answer.choices with what each label means, written as label: meaning"))
    if recipe.train.search and not task.development:
        problems.append(Problem("train.search: settings are tried on development questions, of which there are none (task.development)"))
    if recipe.verify.samples and recipe.teacher.style == "continuation" and task.answer.choices:
        problems.append(
            Problem("verify.samples: a continuation with a closed set of answers explains a given answer and finds none; use draft.vote")
        )
    if problems:
        raise UserError(problems)


def _runtime_problems(recipe: Recipe) -> list[Problem]:
    """What keeps llama.cpp from writing for a teacher."""
    several = recipe.assist and recipe.assist.several
    named = [("teacher", recipe.teacher), *((f"assist.several.teachers.{i}", t) for i, t in enumerate(several.teachers if several else ()))]
    found = []
    for key, teacher in named:
        if teacher.runtime != "llama.cpp":
            continue
        if teacher.endpoint:
            found.append(f"{key}.runtime: an endpoint's server decides what runs its model; leave this out")
        elif not _gguf(teacher.model):
            found.append(f"{key}.runtime: llama.cpp runs a .gguf file, or package:NAME that carries one, and {teacher.model} is none; "
                         "name such a file, or set it to transformers")  # fmt: skip
        elif not find_spec("llama_cpp"):
            found.append(f"{key}.runtime: llama.cpp is not installed: pip install 'edgearte[llamacpp]'")
    return [Problem(text) for text in found]


def _gguf(model: str) -> bool:
    try:
        return weights.is_gguf(model)
    except UserError:  # there is no such model, which is said already
        return True


def _device_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """What is wrong with the devices a recipe is for, whether they answer or not."""
    if not recipe.devices:
        return []
    problems = []
    if not task.development and any(limits.accuracy for limits in recipe.devices.values()):
        problems.append(
            Problem("task.development: a device's accuracy is decided on questions of their own; the evaluation set only reports")
        )
    try:
        destinations(recipe)
    except UserError as error:
        problems += error.problems
    return problems


def _seed_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """What cannot be done with a description alone."""
    if task.seeds:
        return []
    found = []
    if not (recipe.assist and recipe.assist.budget) and not task.preference:
        found.append("task.preference: without seeds the student needs other questions to be scored on")
    if recipe.measure.shots:
        found.append("measure.shots: examples are shown from task.seeds, which this recipe has not")
    if recipe.draft.vote:
        found.append("draft.vote: the teacher is asked anew with task.seeds as examples, which this recipe has not")
    if recipe.prefer.scorer == "influence" or recipe.train.weights != "alike":
        found.append("influence: the student is warmed up on task.seeds, which this recipe has not")
    return [Problem(text) for text in found]


def _assist_problems(recipe: Recipe, task: Task) -> list[Problem]:
    """What keeps a budget from being spent with an assistant."""
    if (how := recipe.assist) is None or how.budget is None:
        return []
    found, e = [], recipe.teacher.endpoint
    if how.budget.money and not (e and (e.price_in or e.price_out)):
        found.append("assist.budget.money: the teacher has no price; set teacher.endpoint.price_in and price_out")
    if "questions" in how.pool and not task.pool:
        found.append("assist.pool: questions are those of task.pool, which this recipe has not")
    elif how.pool == ("questions",) and (problem := too_few(how.budget.calls, len(task.pool))):
        found.append(problem)
    return [Problem(text) for text in found]


def too_few(calls: int, pool: int) -> str:
    """What is wrong with a pool that has fewer questions than a budget buys answers, or ""."""
    if pool >= calls:
        return ""
    return f"assist.budget.calls: {calls} answers are to be bought, and the pool has {pool} questions; give it more, or a smaller budget"


def _endpoint_problems(recipe: Recipe) -> list[Problem]:
    """What teachers behind endpoints cannot do, and what is wrong with how they are named."""
    several = recipe.assist and recipe.assist.several
    others = enumerate(several.teachers if several else ())
    found = []
    for key, teacher in (("teacher", recipe.teacher), *((f"assist.several.teachers.{i}", t) for i, t in others)):
        if asked := address(teacher):
            found += [f"{key}.endpoint: {p.message}" for p in endpoint.problems(asked)]
            if teacher.style == "continuation":
                found.append(
                    f"{key}.style: an endpoint is asked in style: chat; a continuation needs a pattern, which servers take differently"
                )
    if several and several.familiarity and any(t.endpoint for t in (recipe.teacher, *several.teachers)):
        found.append("assist.several.familiarity: an endpoint does not tell how probable a question is; set it to false")
    if recipe.teacher.endpoint is None:
        return [Problem(text) for text in found]
    if not (recipe.assist and recipe.assist.budget) and (recipe.align.question_pairs or recipe.align.rationale_pairs):
        found.append("align: an endpoint cannot be aligned, since its weights are not at hand; "
                     "set align.question_pairs and align.rationale_pairs to 0")  # fmt: skip
    if recipe.on_policy.when != "never":
        found.append("on_policy: an endpoint cannot be distilled from on-policy, since its weights are not at hand")
    if recipe.train.match:
        found.append("train.match: an endpoint's hidden states cannot be matched, since its weights are not at hand; set it to 0")
    return [Problem(text) for text in found]
