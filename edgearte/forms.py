"""The forms in which people have questions: how each is recognised by what its records hold, and how it is read.

A reader gives `input` and `target`, and `id` and `rationale` where the form has them, as text. A choice is always a letter: the
options stand in the input as `Options:` with a line `(A) …` each, the wording of BIG-Bench-Hard.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """One form. `read` raises `ValueError` with what is wrong with a record."""

    name: str
    holds: str  # what its records hold, for a user to compare with
    recognise: Callable[[Record], bool]
    read: Callable[[Record], dict[str, str]]


def recognised(record: Record) -> Form | None:
    return next((form for form in FORMS if form.recognise(record)), None)


def known() -> str:
    """What records may hold, for a message."""
    return "; ".join(f"{form.name} ({form.holds})" for form in FORMS)


def with_options(question: str, options: Sequence[str]) -> str:
    """A question followed by its options, a letter each."""
    if not 2 <= len(options) <= len(ascii_uppercase):
        raise ValueError(f"{len(options)} options; there must be 2 to {len(ascii_uppercase)}")
    lines = [f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False)]
    return "\n".join([question, "Options:", *lines])


def worked(answer: str) -> tuple[str, str]:
    """Rationale and final number of an answer in GSM8K's way: reasoning with `<<48/2=24>>` marks, then `#### 24`."""
    reasoning, _, final = answer.rpartition("####")
    return re.sub(r"<<.*?>>", "", reasoning).strip(), final.strip().replace(",", "")


def _plain(record: Record) -> dict[str, str]:
    return {key: text(record.get(key)).strip() for key in ("id", "input", "target", "rationale")}


def _svamp(record: Record) -> dict[str, str]:
    body = str(record["Body"]).strip()
    joined = f"{body}{'' if body.endswith(('.', '?', '!', ',')) else '.'} {str(record['Question']).strip()}"
    return {"id": text(record.get("ID")), "input": joined, "target": text(record["Answer"])}


def _scored(record: Record) -> dict[str, str]:
    """BIG-bench: the target is what has the highest score; a longer `target` that begins with it explains it."""
    scores = record["target_scores"]
    if not all(isinstance(score, int | float) for score in scores.values()):
        raise ValueError("target_scores are not numbers")
    best = [name for name, score in scores.items() if score == max(scores.values())] if scores else []
    if len(best) != 1:
        raise ValueError(f"target_scores has {len(best)} best answers, not one")
    told = text(record.get("target")).strip()
    rest = told[len(best[0]) :].lstrip(".,:; ") if told.casefold().startswith(best[0].casefold()) else ""
    target = best[0].lower() if {name.casefold() for name in scores} == {"yes", "no"} else best[0]
    return {"id": text(record.get("id")), "input": text(record.get("input")).strip(), "target": target, "rationale": rest}


def _aqua(record: Record) -> dict[str, str]:
    # Some options bring their letter twice.
    options = [re.sub(r"^(?:\(?[A-Z]\)\s*)+", "", str(option)).strip() for option in record["options"]]
    correct = text(record["correct"]).strip().upper()
    if len(correct) != 1 or correct not in ascii_uppercase[: len(options)]:
        raise ValueError(f"correct is {correct!r}, but there are {len(options)} options")
    question = with_options(text(record["question"]).strip(), options)
    return {"id": text(record.get("id")), "input": question, "target": correct, "rationale": text(record.get("rationale"))}


def _stem(record: Record) -> dict[str, str]:
    question = record["question"]
    labels = [text(choice.get("label")) for choice in question["choices"]]
    options = [text(choice.get("text")) for choice in question["choices"]]
    return _chosen(record, text(question["stem"]), labels, options)


def _columns(record: Record) -> dict[str, str]:
    labels, options = ([text(value) for value in record["choices"][key]] for key in ("label", "text"))
    if len(labels) != len(options):
        raise ValueError(f"{len(labels)} labels for {len(options)} options")
    return _chosen(record, text(record["question"]), labels, options)


def _chosen(record: Record, question: str, labels: Sequence[str], options: Sequence[str]) -> dict[str, str]:
    """Options under any labels (ARC has letters and digits) become letters in their order."""
    key = text(record.get("answerKey")).strip()
    if not key:
        raise ValueError("no answerKey")
    if labels.count(key) != 1:
        raise ValueError(f"answerKey is {key!r}, but the options are {', '.join(labels)}")
    asked = with_options(question.strip(), [option.strip() for option in options])
    return {"id": text(record.get("id")), "input": asked, "target": ascii_uppercase[labels.index(key)]}


def _gsm8k(record: Record) -> dict[str, str]:
    rationale, target = worked(record["answer"])
    found = {"id": text(record.get("id")), "input": text(record["question"]).strip(), "target": target}
    return {**found, "rationale": rationale}


def _is_aqua(record: Record) -> bool:
    return {"question", "correct"} <= record.keys() and isinstance(record.get("options"), list)


def _is_stem(record: Record) -> bool:
    question = record.get("question")
    return (
        isinstance(question, dict)
        and "stem" in question
        and isinstance(question.get("choices"), list)
        and all(isinstance(choice, dict) for choice in question["choices"])
    )


def _is_columns(record: Record) -> bool:
    choices = record.get("choices")
    return (
        isinstance(record.get("question"), str)
        and isinstance(choices, dict)
        and all(isinstance(choices.get(key), list) for key in ("label", "text"))
    )


def _is_gsm8k(record: Record) -> bool:
    return "question" in record and isinstance(record.get("answer"), str) and "####" in record["answer"]


# The first that recognises a record reads it; the plain form is last, since BIG-bench's records have an input too.
FORMS = (
    Form("SVAMP", "Body, Question, Answer", lambda r: {"Body", "Question", "Answer"} <= r.keys(), _svamp),
    Form("BIG-bench", "input, target_scores", lambda r: isinstance(r.get("target_scores"), dict), _scored),
    Form("AQuA", "question, options, correct", _is_aqua, _aqua),
    Form("CommonsenseQA and ARC", "question with stem and choices, answerKey", _is_stem, _stem),
    Form("ARC of the hub", "question, choices with text and label, answerKey", _is_columns, _columns),
    Form("GSM8K", "question, answer with ####", _is_gsm8k, _gsm8k),
    Form("JSONL or BIG-Bench-Hard", "input, target", lambda r: "input" in r or "target" in r, _plain),
)


def text(value: Any) -> str:
    """A value of a record as text: nothing as the empty text, 51.0 as 51, an object as JSON."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
