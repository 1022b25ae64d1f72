"""A teacher that llama.cpp writes for: which file, under which name, and that a row is written as if it were alone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgearte import steps
from edgearte.check import check
from edgearte.convert import converters
from edgearte.errors import UserError
from edgearte.lm import weights
from edgearte.lm.base import Prompt, Sampling
from edgearte.lm.hf import TransformersLM
from edgearte.lm.llamacpp import LlamaCpp
from edgearte.load import load_recipe, load_task
from edgearte.setup import Setup
from edgearte.store import Store
from tests import tiny

HEADER = "Task Description: Say what a spoken command is about.\n"
COMMANDS = [c for commands in tiny.COMMANDS.values() for c in commands]


@pytest.fixture(scope="module")
def file(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    converters.to_gguf(tiny_model, "tiny", out)
    return out


@pytest.fixture(scope="module")
def lm(file: Path) -> LlamaCpp:
    return LlamaCpp(file, "sha256", threads=1)


@pytest.fixture(scope="module")
def setup(file: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    place = tmp_path_factory.mktemp("setup")
    recipe = load_recipe(tiny.write_recipe(place, tiny_model), [f"teacher.model={file}", "teacher.runtime=llama.cpp"])
    store = Store(place / "store")
    teacher = weights.resolve(str(file), store)
    return Setup(recipe, load_task(recipe), teacher, weights.resolve(str(tiny_model), store), store)


def prompts(count: int, *, shared: bool = True) -> list[Prompt]:
    """Of many lengths; some begin alike and do not say so."""
    texts = [f"Question: {COMMANDS[k % len(COMMANDS)]}{', please' * (k % 4)}\nAnswer:" for k in range(count)]
    return [Prompt(text, HEADER, seed=k) if shared else Prompt(HEADER + text, seed=k) for k, text in enumerate(texts)]


def test_the_identity_names_the_file_and_what_runs_it(lm: LlamaCpp) -> None:
    assert lm.identity == "sha256:llama.cpp"


def test_a_sample_depends_neither_on_the_rows_beside_it_nor_on_what_is_shared(lm: LlamaCpp) -> None:
    sampling = Sampling(10, temperature=1.0, top_p=0.9)
    together = lm.generate(prompts(70), sampling)  # more rows than seats
    assert together == lm.generate(prompts(70, shared=False), sampling)
    assert [together[k] for k in (0, 33, 69)] == [lm.generate([prompts(70)[k]], sampling)[0] for k in (0, 33, 69)]
    assert len({c.text for c in together}) > 35


def test_one_prompt_many_times_is_sampled_by_its_seeds(lm: LlamaCpp) -> None:
    asked = [Prompt("Question: play some jazz\nAnswer:", seed=seed) for seed in range(40)]
    found = lm.generate([*asked, asked[0]], Sampling(6, temperature=1.2))
    assert found[40] == found[0]
    assert len({c.text for c in found}) > 10


def test_greedy_rows_and_likelihoods_are_those_of_transformers(lm: LlamaCpp, tiny_model: Path) -> None:
    other = TransformersLM(tiny_model, "tiny", dtype="float32")
    asked = prompts(12)
    ours, theirs = (model.generate(asked, Sampling(6)) for model in (lm, other))
    assert sum(a.text == b.text for a, b in zip(ours, theirs, strict=True)) >= 11  # one near-tie is forgiven
    pairs = [(p, f" It is about {label}. <ans>{label}</ans>") for p in asked for label in tiny.LABELS]
    for a, b in zip(lm.loglikelihood(pairs), other.loglikelihood(pairs), strict=True):
        assert a.tokens == b.tokens
        assert a.logprob == pytest.approx(b.logprob, abs=0.05)  # keys and values in f16
    empty = lm.loglikelihood([(asked[0], ""), pairs[0]])
    assert (empty[0].logprob, empty[0].tokens) == (0.0, 0)


def test_labels_are_read_as_a_tree(lm: LlamaCpp, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgearte.measure import llamacpp

    read = 0
    decode = llamacpp.Engine._run

    def counted(self: llamacpp.Engine, batch: Any) -> None:
        nonlocal read
        read += batch.n_tokens
        decode(self, batch)

    monkeypatch.setattr(llamacpp.Engine, "_run", counted)
    asked = prompts(8)
    lm.loglikelihood([(p, f" It is about {label}") for p in asked for label in tiny.LABELS])
    questions = {p.prefix + p.text for p in asked}
    assert read <= 1.5 * sum(len(lm.engine.tokens(q)) for q in questions)


def test_patterns_hold_beside_stop_strings(lm: LlamaCpp) -> None:
    bound = [replace(p, pattern=r" (yes|no)<end>") for p in prompts(5)]
    for temperature in (0.0, 1.3):
        *held, stopped = lm.generate([*bound, Prompt(HEADER, seed=3)], Sampling(20, temperature, stop=("e",)))
        assert all(re.fullmatch(r" (ye|no<e)", c.text) and c.ended == "stop" for c in held)
        assert stopped.text.endswith("e") or stopped.ended in ("length", "eos")


def test_a_teacher_as_it_came_is_its_own_file(setup: Setup, file: Path) -> None:
    made = steps.teacher(setup, setup.teacher.folder)
    assert isinstance(made, LlamaCpp)
    assert (made.path, made.identity) == (file, f"{weights.of_file(file, setup.store)}:llama.cpp")


def test_what_is_compared_is_written_in_one_type(setup: Setup, tiny_model: Path) -> None:
    aligned, own = (steps.teacher(setup, folder, compared=True) for folder in (tiny_model, setup.teacher.folder))
    for made in (aligned, own):
        assert isinstance(made, LlamaCpp)
        assert made.path.is_relative_to(setup.store.root)
        assert made.generate(prompts(3), Sampling(4))[0].new_tokens
    done = len(setup.store.ledger)
    assert steps.teacher(setup, tiny_model).identity == aligned.identity
    assert all(entry.cached == entry.rows for entry in setup.store.ledger[done:]), "it is made once"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.runtime=llama.cpp"], "teacher.runtime: llama.cpp runs a .gguf file"),
        (
            ["teacher.runtime=llama.cpp", "teacher.endpoint.url=http://localhost:1/v1", "teacher.style=chat",
             "align.question_pairs=0", "align.rationale_pairs=0"],
            "teacher.runtime: an endpoint",
        ),
    ],
)  # fmt: skip
def test_llama_cpp_wants_a_gguf_file(overrides: list[str], message: str, tiny_model: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny.write_recipe(tmp_path, tiny_model), overrides)
    with pytest.raises(UserError) as caught:
        check(recipe, load_task(recipe))
    assert [p.message for p in caught.value.problems if "runtime" in p.message and message in p.message]
    assert len([p for p in caught.value.problems if "runtime" in p.message]) == 1


def test_a_gguf_file_is_taken(file: Path, tiny_model: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny.write_recipe(tmp_path, tiny_model), ["teacher.runtime=llama.cpp", f"teacher.model={file}"])
    check(recipe, load_task(recipe))
