"""Drafting in a chat for one label at a time: how a teacher is asked for a list of texts of one label, and how the list is read.

A small teacher writes to a label better than it labels what it wrote, and keeps a numbered list where it loses tags. The label comes with
its meaning, the seeds of it as examples, and the other labels as what the texts must not be about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgearte.answers import named
from edgearte.lm.base import LM
from edgearte.records import Question
from edgearte.task import Task

MOST_WORDS = 4  # of a remark in brackets behind a text: "(polite)", "(temperature)"
_NUMBER = re.compile(r"\s*(?:\(?\d{1,3}[.):]\s*|[-*•–—]+\s+)")
_REMARK = re.compile(r"\s*\(([^()]*)\)\s*$")
_GAP = re.compile(r"\[[^\]]*\]|<[^>]*>|\{[^}]*\}|_{2,}|\.\.\.\s*\w|…\s*\w")  # "[song name]", "<time>": a form to be filled in
_TALK = re.compile(
    r"(?:sure|certainly|of course|here (?:are|is)|note|examples?|texts?|answers?|style|question|input|output|target|label)\b[^.?!]*:\s*$"
    r"|note\s*:|(?:sure|certainly|of course)[,!.]|here (?:are|is) (?:\w+ ){0,3}(?:texts?|examples?|questions?|sentences?)\b",
    re.I,
)  # fmt: skip
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "«": "»", "„": "“", "*": "*", "_": "_"}


def ask(lm: LM, task: Task, seeds: Sequence[Question], label: str, count: int, style: str) -> str:
    """The drafting prompt for `count` texts of one label, worded in a style.

    All labels with their meanings come first, so that prompts for different labels begin alike, and that much is read once. The label's
    own meaning stands within the request, and the seeds of it are the first texts of the assistant's own list, which breaks off after the
    next number: a small teacher goes on with what it seems to have begun, where it loses sight of examples that it is only told of.
    """
    kinds = "\n".join(f"- {named(c)}" + (f": {task.meanings[c]}" if task.meanings.get(c) else "") for c in task.answer.choices)
    meaning = f" ({task.meanings[label]})" if task.meanings.get(label) else ""
    since = f"From number {len(seeds) + 1} on they are" if seeds else "They are"
    request = (
        f"{task.description} The possible answers:\n{kinds}\n\n"
        f"Write {len(seeds) + count} different texts whose answer is “{named(label)}”{meaning} and could be no other. "
        + (f"{since} {style}. " if style else "")
        + "Each is what a real person would say or write, complete in itself, about other things and with other names and words than the "
        "rest. Answer with a numbered list, one text a line, and nothing else."
    )
    begun = "".join(f"{number}. {s.input}\n" for number, s in enumerate(seeds, 1))
    return lm.chat([{"role": "user", "content": request}]) + f"{begun}{len(seeds) + 1}."


def written(text: str) -> str:
    """What the teacher would have to write after `ask` to give this one text first."""
    return f" {text}\n"


def read(completion: str, task: Task, label: str, count: int, *, cut: bool) -> list[str]:
    """The texts of a list, at most `count`. Numbers, quotes, emphasis and remarks are taken off; lines that are talk about the list, that
    hold a label's name as it is spelled, or a gap to be filled in, are left out, and the last one where the list was cut off."""
    lines = completion.split("\n")
    if cut:
        lines = lines[:-1]
    cleaned = (_clean(line, label) for line in lines if not _GAP.search(line))
    return [text for text in cleaned if not _foreign(text, task)][:count]


def reason(completion: str) -> str:
    """The one line of why that a completion gives: without what introduces it, tags, emphasis or quotes."""
    line = next((x for x in completion.split("\n") if x.strip()), "")
    line = re.sub(r"\*\*|__|`", "", re.split(r"<", line)[0])
    line = re.sub(r"^\s*(?:why|answer|reason|explanation)\s*:\s*", "", line, flags=re.I)
    return " ".join(_unquoted(line).split())


def as_seeds(text: str, seeds: Iterable[Question]) -> str:
    """The text with the capitals and the final mark that the seeds have: people who type to a machine often use none, and a student that
    is asked by them should be taught so. Where the seeds differ among themselves the text stays as it is."""
    shown = [s.input for s in seeds if any(c.isalpha() for c in s.input)]
    if not shown:
        return text
    if all(s == s.lower() for s in shown):
        text = text.lower()
    if not any(s.rstrip().endswith((".", "!", "?")) for s in shown):
        text = text.rstrip(".!? ")
    elif all(s.rstrip().endswith((".", "!", "?")) for s in shown) and text[-1:].isalnum():
        text += "."
    return text


def _clean(line: str, label: str) -> str:
    text = line.strip()
    while (found := _NUMBER.match(text)) and found.end():
        text = text[found.end() :]
    text = re.sub(r"\*\*|__", "", text).strip()
    head = re.match(rf"(?:{re.escape(label)}|{re.escape(named(label))})\s*[:–—-]\s+", text, re.I)
    text = _unquoted(text[head.end() :] if head else text)
    while (remark := _REMARK.search(text)) and len(remark.group(1).split()) <= MOST_WORDS and remark.start():
        text = _unquoted(text[: remark.start()])
    return " ".join(text.split())


def _unquoted(text: str) -> str:
    """The text without the quotes around it, and what a quoted text is followed by: `"Play it." - polite`."""
    text = text.strip(" \t,;")
    close = _PAIRS.get(text[:1], "")
    if close and text.endswith(close) and len(text) > 1:
        return text[1:-1].strip()
    if close and close not in "'’*_" and (end := text.rfind(close)) > 1 and len(text) - end < 40:
        return text[1:end].strip()
    if close and close not in text[1:]:
        return text[1:].strip()
    return text


def _foreign(text: str, task: Task) -> bool:
    """Whether a line is no text of the task: empty, a label as no person spells it, or talk about the list."""
    spelled = [c for c in task.answer.choices if "_" in c or (c != c.lower() and c != c.capitalize())]
    return (
        not any(c.isalnum() for c in text)
        or any(re.search(rf"(?<!\w){re.escape(c)}(?!\w)", text) for c in spelled)
        or bool(_TALK.match(text))
        or text.endswith(":")
    )
