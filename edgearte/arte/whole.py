"""Whole sentences: what a teacher did not finish must never be taught, for a student takes over where a text stops."""

from __future__ import annotations

import re

FEWEST = 3  # words of a reason

# A mark that ends a sentence, with what closes after it, before a space or the text's end: "3.5" and "play.now" end none.
_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]]*(?=\s|$)")


def sentences(text: str) -> str:
    """The text up to its last whole sentence; "" where it holds none."""
    ends = [found.end() for found in _END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def first(text: str) -> str:
    """Its first sentence, or all of it where none ends."""
    found = _END.search(text)
    return text[: found.end()] if found else text


def finished(text: str, *, cut: bool) -> str:
    """One explanation as it may be taught: of a text that was `cut` off the whole sentences; one that its writer ended gets the full stop
    it lacks. "" where nothing is left that explains: a word or two, such as the answer alone, say no why."""
    text = sentences(text) if cut else text.strip()
    if len(re.findall(r"\w+", text)) < FEWEST:
        return ""
    return text if _END.search(text[-4:]) else f"{text.rstrip(',;:-– ')}."


def bounded(text: str, most: int) -> bool:
    """Whether a pattern's bound on characters ended a text: it has them all, or so many that the next word had no room."""
    return len(text.strip()) >= most - min(12, most // 8)
