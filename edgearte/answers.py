"""Finding the answer in what a model wrote, and deciding whether it is right. The one place where that is done.

An output in which no answer is found is *unextracted*, which is counted apart from a wrong answer: learning a format must
never be mistaken for learning a task (the paper's near-zero zero-shot baselines are mostly missing `<ans>` tags).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from edgearte.errors import UserError
from edgearte.records import Accuracy

KINDS = ("tag", "choice", "yesno", "number", "text", "json")


@dataclass(frozen=True)
class AnswerFormat:
    """What an answer looks like.

    kind: `tag` any text between the tags; `choice` an option letter; `yesno`; `number`; `text` the whole output; `json` a value.
    choices: the closed set of labels or letters, if there is one.
    tag: the tag's name. strict: only what stands between the tags counts, as in the paper; otherwise the usual other places
    (`\\boxed{}`, `####`, "the answer is …", the last number) are searched when the tag is missing.
    """

    kind: str = "tag"
    choices: tuple[str, ...] = ()
    tag: str = "ans"
    strict: bool = True

    @property
    def open(self) -> str:
        return f"<{self.tag}>"

    @property
    def close(self) -> str:
        return f"</{self.tag}>"

    @property
    def tagged(self) -> bool:
        """Whether answers are asked for between tags."""
        return self.kind != "text"


@dataclass(frozen=True)
class Grade:
    """One graded output. `answer` is None when nothing could be extracted."""

    answer: str | None
    correct: bool


def named(label: str) -> str:
    """A label as words: `update_playlist` is read as "update playlist"."""
    return label.replace("_", " ").strip() or label


def extract(output: str, fmt: AnswerFormat) -> str | None:
    """The answer in normal form, or None. Of several tagged answers the last complete one counts."""
    if fmt.kind == "text":
        return _clean(output) or None
    tagged = re.findall(rf"<\s*{fmt.tag}\s*>(.*?)<\s*/\s*{fmt.tag}\s*>", output, re.I | re.S)
    if tagged:
        # A model that repeats the opening tag means the innermost text.
        inner = re.split(rf"<\s*{fmt.tag}\s*>", tagged[-1], flags=re.I)[-1]
        return _normal(inner, fmt)
    if fmt.strict or fmt.kind == "tag":
        return None
    return _search(output, fmt)


def matches(answer: str | None, target: str, fmt: AnswerFormat) -> bool:
    """Whether an extracted answer equals the target, both in normal form."""
    if answer is None:
        return False
    wanted = _normal(target, fmt)
    if wanted is None:
        return False
    return answer == wanted if fmt.kind in ("json", "number") else answer.casefold() == wanted.casefold()


def grade(output: str, target: str, fmt: AnswerFormat) -> Grade:
    answer = extract(output, fmt)
    return Grade(answer, matches(answer, target, fmt))


def valid_target(target: str, fmt: AnswerFormat) -> bool:
    """Whether a text can be a target of this format at all."""
    normal = _normal(target, fmt)
    return normal is not None and (not fmt.choices or spelled(target, fmt) in fmt.choices)


def spelled(target: str, fmt: AnswerFormat) -> str:
    """The choice that a target means, as the task spells it; the target itself where it means none."""
    meant = (_normal(target, fmt) or "").casefold()
    return next((c for c in fmt.choices if (_normal(c, fmt) or "").casefold() == meant), target)


def accuracy(grades: Iterable[Grade]) -> Accuracy:
    """Fraction correct with Wilson's 95 % interval (scipy). Zero outputs are a mistake of the caller."""
    from scipy.stats import binomtest

    graded = list(grades)
    if not graded:
        raise UserError("there is nothing to grade: the evaluation set is empty")
    correct = sum(g.correct for g in graded)
    interval = binomtest(correct, len(graded)).proportion_ci(0.95, method="wilson")
    return Accuracy(
        n=len(graded),
        correct=correct,
        unextracted=sum(g.answer is None for g in graded),
        accuracy=correct / len(graded),
        low=float(interval.low),
        high=float(interval.high),
    )


def _clean(text: str) -> str:
    """Unicode-normalised, one-line, without markdown emphasis, surrounding quotes or a closing full stop."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    text = text.strip("*_`\"'“”‘’ ")
    return text[:-1].rstrip() if text.endswith(".") and not text.endswith("..") else text


def _normal(text: str, fmt: AnswerFormat) -> str | None:
    match fmt.kind:
        case "number":
            return _number(text)
        case "choice":
            return _letter(text)
        case "yesno":
            word = _clean(text).casefold().rstrip(".,;!")
            return {"yes": "yes", "no": "no", "true": "yes", "false": "no"}.get(word)
        case "json":
            return _json(text)
        case _:
            return _clean(text) or None


def _search(output: str, fmt: AnswerFormat) -> str | None:
    """The usual places outside tags, most explicit first."""
    places = re.findall(r"\\boxed\{([^{}]*)\}", output) or re.findall(r"####\s*(.+)", output)
    places = places or re.findall(r"answer\s*(?:is|:)\s*:?\s*([^\n]+)", output, re.I)
    for place in reversed(places):
        if (found := _normal(place, fmt)) is not None:
            return found
    match fmt.kind:
        case "number":
            numbers = re.findall(_NUMBER, _ascii(output))
            return _number(numbers[-1]) if numbers else None
        case "choice":
            letters = re.findall(r"\(([A-Z])\)", output)
            return letters[-1] if letters else _letter(output)
        case "yesno":
            words = re.findall(r"\b(yes|no|true|false)\b", output, re.I)
            return _normal(words[-1], fmt) if words else None
        case _:
            return _json(output)


_NUMBER = r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+"


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("−", "-").replace("–", "-")


def _number(text: str) -> str | None:
    """The one number in a text ("$1,234.50", "8 apples", "−3") in shortest decimal form; None if there is none or several."""
    found = re.findall(_NUMBER, _ascii(text))
    if "=" in text and found:  # "3 + 5 = 8": what it comes to
        found = found[-1:]
    if len(found) != 1:
        return None
    try:
        value = Decimal(found[0].replace(",", ""))
    except InvalidOperation:
        return None
    return format(value.normalize() + 0, "f")


def _letter(text: str) -> str | None:
    """An option letter: "B", "(b)", "B.", "(B) a long option", "Option C"."""
    text = _clean(text)
    hit = re.fullmatch(r"\(?([A-Za-z])\)?[.:)]?", text) or re.match(r"\(([A-Za-z])\)", text)
    hit = (
        hit
        or re.match(r"([A-Z])[.:)]\s", text)
        or re.fullmatch(r"(?:option|choice|answer)\s*\(?([A-Za-z])\)?", text, re.I)
    )
    return hit.group(1).upper() if hit else None


def _json(text: str) -> str | None:
    """The first JSON object or array in a text (a whole scalar also counts), with sorted keys."""

    def canonical(value: Any) -> str:
        return json.dumps(value, sort_keys=True, ensure_ascii=False)

    bare = re.sub(r"^```\w*\s*|\s*```$", "", text.strip())
    try:
        return canonical(json.loads(bare))
    except (ValueError, RecursionError):
        pass
    decoder = json.JSONDecoder()
    for start in (m.start() for m in re.finditer(r"[\[{]", text)):
        try:
            return canonical(decoder.raw_decode(text, start)[0])
        except (ValueError, RecursionError):
            continue
    return None
