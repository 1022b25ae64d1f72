"""The awkward strings: the same each time, every kind there, all of them something a runtime can be asked to read."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter

from edgearte.convert.strings import PER_KIND, awkward

SPECIALS = ["<|im_start|>", "<|im_end|>"]


def test_there_are_a_few_thousand_of_every_kind() -> None:
    kinds = Counter(kind for kind, _ in awkward(SPECIALS))
    assert kinds.total() > 2500
    named = {"spaces", "digits", "code", "emoji", "control", "special", "long", "script", "combining", "words", "any"}
    assert named <= set(kinds)
    assert all(n >= PER_KIND for kind, n in kinds.items() if kind != "empty")


def test_most_are_different() -> None:
    texts = [text for _, text in awkward(SPECIALS)]
    assert len(set(texts)) > 0.8 * len(texts)


def test_the_same_in_another_process() -> None:
    code = (
        "import json, hashlib; from edgearte.convert.strings import awkward;"
        f"print(hashlib.sha256(json.dumps(awkward({SPECIALS!r})).encode()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == hashlib.sha256(json.dumps(awkward(SPECIALS)).encode()).hexdigest()


def test_all_can_be_given_to_a_runtime() -> None:
    for _, text in awkward(SPECIALS):
        assert "\0" not in text
        assert text.encode("utf-8").decode("utf-8") == text


def test_special_tokens_stand_inside_text() -> None:
    special = [text for kind, text in awkward(SPECIALS) if kind == "special"]
    assert any("<|im_end|>" in text and text != "<|im_end|>" for text in special)
    assert any("<|im_end" in text and "<|im_end|>" not in text for text in special)
