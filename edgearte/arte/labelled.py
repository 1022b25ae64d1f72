"""Drafting in a chat for one label at a time: how a teacher is asked for a list of texts of one label, and how the list is read.

A small teacher writes to a label better than it labels what it wrote, and keeps a numbered list where it loses tags. The label comes with
its meaning, the seeds of it as examples, and the other labels' names as what the texts must not be about.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from edgearte.lm.base import LM
from edgearte.records import Question
from edgearte.task import Task

MOST_WORDS = 4  # of a remark in brackets behind a text: "(polite)", "(temperature)"
_NUMBER = re.compile(r"\s*(?:\(?\d{1,3}[.):]\s*|[-*•–—]+\s+)")
_REMARK = re.compile(r"\s*[(\[]([^()\[\]]*)[)\]]\s*$")
_GAP = re.compile(r"\[[^\]]*\]|<[^>]*>|\{[^}]*\}|_{2,}|\.\.\.\s*\w|…\s*\w")  # "[song name]", "<time>": a form to be filled in
_TALK = re.compile(
    r"(?:sure|certainly|of course|here (?:are|is)|note|examples?|texts?|answers?|style|question|input|output|target|label)\b[^.?!]*:\s*$"
    r"|(?:sure|certainly|of course)[,!.]|here (?:are|is) (?:\w+ ){0,3}(?:texts?|examples?|questions?|sentences?)\b",
    re.I,
)  # fmt: skip
_PAIRS = {'"': '"', "'": "'", "“": "”", "‘": "’", "`": "`", "«": "»", "„": "“", "*": "*", "_": "_"}


def ask(lm: LM, task: Task, seeds: Sequence[Question], label: str, count: int, style: str) -> str:
    """The drafting prompt for `count` texts of one label, worded in a style. It ends within the assistant's turn, after the list's first
    number."""
    meaning = task.meanings.get(label, "")
    others = ", ".join(named(c) for c in task.answer.choices if c != label)
    about = f"“{named(label)}”" + (f": {meaning}" if meaning else "")
    parts = [f"{task.description}\n\nWrite {count} new texts for which the answer is {about}"]
    if seeds:
        parts.append("Examples of such texts:\n" + "\n".join(f"- {s.input}" for s in seeds))
    parts.append(f"None of the texts may be about something else, such as: {others}." if others else "")
    parts.append(
        (f"How they are worded: {style}. " if style else "")
        + "Each is what a real person would say or write, complete in itself, and about something else than the examples and the "
        "other texts. "
        f"Answer with a numbered list of {count} texts, one a line, and nothing else."
    )
    return lm.chat([{"role": "user", "content": "\n\n".join(filter(None, parts))}]) + "1."


def written(text: str) -> str:
    """What the teacher would have to write after `ask` to give this one text first."""
    return f" {text}\n"


def named(label: str) -> str:
    """A label as words: `update_playlist` is read as "update playlist"."""
    return label.replace("_", " ").strip() or label


def read(completion: str, task: Task, label: str, count: int, *, cut: bool) -> list[str]:
    """The texts of a list, at most `count`. Numbers, quotes, emphasis and remarks are taken off; lines that are talk about the list, that
    hold a label's name as it is spelled, or a gap to be filled in, are left out, and the last one where the list was cut off."""
    lines = completion.split("\n")
    if cut:
        lines = lines[:-1]
    cleaned = (_clean(line, label) for line in lines)
    return [text for text in cleaned if text and not _foreign(text, task)][:count]


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
    """Whether a line is no text of the task: a label as no person spells it, a tag, a gap, or talk about the list."""
    spelled = [c for c in task.answer.choices if "_" in c or (c != c.lower() and c != c.capitalize())]
    return (
        any(re.search(rf"(?<!\w){re.escape(c)}(?!\w)", text) for c in spelled)
        or bool(_GAP.search(text))
        or bool(_TALK.match(text))
        or text.endswith(":")
    )
