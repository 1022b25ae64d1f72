"""Whole sentences: what a teacher did not finish must never be taught, for a student takes over where a text stops."""

from __future__ import annotations

import re

# A mark that ends a sentence, with what closes after it, before a space or the text's end: "3.5" and "play.now" end none.
_END = re.compile(r"[.!?…。！？]+[\"'”’»)\]]*(?=\s|$)")


def sentences(text: str) -> str:
    """The text up to its last whole sentence; "" where it holds none."""
    ends = [found.end() for found in _END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def finished(text: str, *, cut: bool) -> str:
    """One explanation as it may be taught: of a text that was `cut` off the whole sentences; one that its writer ended gets the full stop
    it lacks. "" where nothing is left."""
    text = text.strip()
    if cut:
        return sentences(text)
    if not any(c.isalnum() for c in text):
        return ""
    return text if _END.search(text[-4:]) else f"{text.rstrip(',;:-– ')}."


def bounded(text: str, most: int) -> bool:
    """Whether a pattern's bound on characters ended a text: it has them all, or so many that the next word had no room."""
    return len(text.strip()) >= most - min(12, most // 8)
