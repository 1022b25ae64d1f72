"""SmolLM2-135M in a real Chromium: transformers.js reads and writes with the exported folder what the checkpoint does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgearte.convert.make import Source, convert
from edgearte.convert.presets import load_preset
from edgearte.convert.reference import CONVERSATIONS, ordinary
from edgearte.convert.strings import awkward
from edgearte.lm.weights import Weights
from edgearte.store import Store
from tests import system

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.integration

# On which the checkpoint leads by a margin that four bits do not use up.
PROMPTS = ("1, 2, 3, 4, 5, 6,", "A, B, C, D, E, F,", "def add(a, b):\n    return", "Monday, Tuesday, Wednesday, Thursday,")


@pytest.fixture(scope="module")
def folder(source: Weights, store: Store) -> Path:
    return convert(Source(source.folder, source.identity, None, store), load_preset("onnx-int4-web"))


@pytest.fixture(scope="module")
def libraries() -> Path:
    """Before anything is converted: what the test needs of this system."""
    import in_browser

    system.need({"chromium": "chromium", "npm": "npm"})
    try:
        return in_browser.libraries()
    except subprocess.CalledProcessError:
        system.lacking(f"needs {' and '.join(in_browser.PACKAGES)}, which npm could not fetch")


@pytest.fixture(scope="module")
def page(libraries: Path, folder: Path) -> Iterator[Page]:
    import in_browser

    with in_browser.opened(folder, libraries) as page:
        yield page


def test_a_browser_reads_what_the_checkpoint_reads(page: Page, source: Weights) -> None:
    from in_browser import render, tokens
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    strings = [text for _, text in awkward(sorted(tokenizer.get_added_vocab()))]
    differing = [s for s, ids in zip(strings, tokens(page, strings), strict=True) if ids != tokenizer(s)["input_ids"]]
    assert [s for s in differing if ordinary(s, tokenizer)] == []
    for messages, prompt in CONVERSATIONS:
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert render(page, messages, prompt) == expected


def test_a_browser_writes_what_the_checkpoint_writes(page: Page, source: Weights) -> None:
    from in_browser import greedy
    from other_programs import checkpoint

    known = checkpoint(source.folder, PROMPTS)
    assert len(known) == len(PROMPTS)
    for prompt, start, ids, _ in known:
        assert greedy(page, prompt, len(ids)) == (start, ids), prompt
