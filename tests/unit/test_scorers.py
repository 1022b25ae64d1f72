"""What a student likes in a rationale besides its one-shot score: how natural it is, and how much a step on it helps."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgearte import steps
from edgearte.answers import AnswerFormat
from edgearte.arte import influence, naturalness, prompts
from edgearte.arte.prefer import rationale_scores
from edgearte.arte.preference_set import PreferenceSet
from edgearte.lm.base import Completion, Prompt, Sampling, Score
from edgearte.lm.hf import TransformersLM
from edgearte.records import Draft, Example, Question, Rationale
from edgearte.setup import opened
from edgearte.store import Store
from edgearte.task import Task
from edgearte.train import common
from tests import tiny

SEEDS = (
    Question("s0", "switch on the lamp", "lights", "It is about lights."),
    Question("s1", "play some jazz", "music", "It is about music."),
    Question("s2", "will it rain today", "weather"),
)
TASK = Task("t", "Say what a spoken command is about.", AnswerFormat("tag"), SEEDS, SEEDS, SEEDS)
DRAFTS = (
    Draft("d0", "it is dark in here", "lights", "draft/0", (), (
        Rationale("a", "It is about lights. <ans>lights</ans>", "lights"), Rationale("b", "So what.", None))),
    Draft("d1", "turn the song up", "music", "draft/1", (), (
        Rationale("a", "It is about music. <ans>music</ans>", "music"), Rationale("b", "", None))),
)  # fmt: skip


class Likes:
    """A student to which every continuation of n letters costs n + 1 nats over n tokens."""

    identity = "likes"

    def __init__(self) -> None:
        self.calls: list[list[tuple[Prompt, str]]] = []

    def generate(self, rows: Sequence[Prompt], sampling: Sampling) -> list[Completion]:
        raise AssertionError("nothing is generated")

    def loglikelihood(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Score]:
        self.calls.append(list(pairs))
        return [Score(-float(len(c) + 1), len(c)) for _, c in pairs]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        return "".join(f"[{m['role']}]{m['content']}" for m in messages) + "[assistant]"


def test_naturalness_is_the_mean_a_token_of_the_rationale_after_the_question_as_training_asks_it(tmp_path: Path) -> None:
    student = Likes()
    found = naturalness.score(student, TASK, DRAFTS, "system", Store(tmp_path))
    texts = {(d.id, r.strategy): r.text for d in DRAFTS for r in d.rationales if r.text}
    assert found == {key: -(len(text) + 1) / len(text) for key, text in texts.items()}, "without text, without score"
    (pairs,) = student.calls
    asked = [student.chat(m) for d in (0, 0, 1) if isinstance(m := prompts.asked(TASK.header, "system", DRAFTS[d].input), list)]
    assert [(p.prefix + p.text, c) for p, c in pairs] == list(zip(asked, texts.values(), strict=True))
    assert len({p.prefix for p, _ in pairs}) == 1
    assert TASK.header in pairs[0][0].prefix


def test_a_plain_question_and_its_rationale_are_joined_as_in_training(tmp_path: Path) -> None:
    student = Likes()
    naturalness.score(student, TASK, DRAFTS[:1], "plain", Store(tmp_path))
    prompt, text = student.calls[0][0]
    assert (prompt.prefix + prompt.text).endswith("Question: it is dark in here\nAnswer:")
    assert text == " It is about lights. <ans>lights</ans>"


def test_naturalness_is_kept_and_belongs_to_the_form_it_was_asked_in(tmp_path: Path) -> None:
    store, student = Store(tmp_path), Likes()
    first = naturalness.score(student, TASK, DRAFTS, "user", store)
    assert naturalness.score(student, TASK, DRAFTS, "user", store) == first
    assert len(student.calls) == 1
    naturalness.score(student, TASK, DRAFTS, "plain", store)
    assert len(student.calls) == 2


def test_the_tiny_model_finds_its_own_form_natural(tiny_model: Path, tmp_path: Path) -> None:
    """The tiny model was taught to say "It is about lights. <ans>lights</ans>" and the like."""
    lm = TransformersLM(tiny_model, "tiny", dtype="float32")
    jumble = Rationale("b", "about <ans> lights lights It. is</ans>", None)
    drafts = [replace(DRAFTS[0], rationales=(DRAFTS[0].rationales[0], jumble))]
    found = naturalness.score(lm, TASK, drafts, "system", Store(tmp_path))
    assert found["d0", "b"] < found["d0", "a"] < 0


ASKED = TASK.preference[:3]
SETTINGS = influence.Settings(learning_rate=1e-3, max_tokens=200)


def by_hand(folder: Path, how: str, settings: influence.Settings) -> dict[tuple[str, str], float]:
    """The influences as their definition says it: a copy, torch's own Adam, every loss alone."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()

    def loss(model: Any, text: str, completion: str, most: int | None = None) -> Any:
        asked = prompts.asked(TASK.header, how, text)
        if isinstance(asked, str):
            before, whole = asked, f"{asked} {completion}{tokenizer.eos_token}"
        else:
            before = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": completion}], tokenize=False)
        ids = tokenizer(whole, return_tensors="pt")["input_ids"][:, :most]
        labels = ids.clone()
        labels[:, : len(tokenizer(before)["input_ids"])] = -100
        return model(ids, labels=labels).loss

    def reference(model: Any) -> float:
        with torch.no_grad():
            return float(sum(loss(model, q.input, prompts.completion_of(TASK, q)) for q in ASKED)) / len(ASKED)

    before, found = reference(model), {}
    for d in DRAFTS:
        for r in d.rationales:
            taught = deepcopy(model)
            optimizer = torch.optim.AdamW(taught.parameters(), lr=settings.learning_rate, weight_decay=0.0)
            loss(taught, d.input, r.text, settings.max_tokens).backward()
            optimizer.step()
            found[d.id, r.strategy] = before - reference(taught)
    return found


@pytest.mark.parametrize("how", ["system", "plain"])
@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, max_tokens=50)])
def test_influence_is_what_one_step_of_adam_does_to_the_reference_loss(
    tiny_model: Path, tmp_path: Path, how: str, settings: influence.Settings
) -> None:
    found = influence.score(tiny_model, "tiny", TASK, ASKED, DRAFTS, how, settings, Store(tmp_path))
    assert found == pytest.approx(by_hand(tiny_model, how, settings), rel=0.02, abs=2e-4)
    assert len(set(found.values())) == 4


def test_an_example_cut_off_before_its_answer_teaches_nothing(tiny_model: Path, tmp_path: Path) -> None:
    found = influence.score(tiny_model, "tiny", TASK, ASKED, DRAFTS, "system", replace(SETTINGS, max_tokens=10), Store(tmp_path))
    assert set(found.values()) == {0.0}


def test_the_weights_are_put_back_bit_for_bit_even_after_a_failure(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    rows = influence._rows(TASK, "system", [Example(q.id, q.input, prompts.completion_of(TASK, q), "", "") for q in SEEDS])
    probe = influence.Probe(TransformersLM(tiny_model, "tiny", dtype="float32"), rows, replace(SETTINGS, learning_rate=0.1))
    before = {k: v.clone() for k, v in probe.student.model.state_dict().items()}
    first = probe.measure(rows[0])
    assert first["after"] != first["before"]
    assert probe.measure(rows[1])["before"] == first["before"]
    assert probe.measure(rows[0]) == first, "an example's influence does not depend on those before it"

    def fail() -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "loss", fail)
    with pytest.raises(KeyboardInterrupt):
        probe.measure(rows[2])
    for name, value in probe.student.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in probe.student.model.parameters())


def test_a_reference_question_itself_helps_and_garbage_does_not(tiny_model: Path, tmp_path: Path) -> None:
    asked = SEEDS[0]
    good = Rationale("good", prompts.completion_of(TASK, asked), asked.target)
    bad = Rationale("bad", "rain coat jazz </ans> <ans> track cold cold", None)
    drafts = [Draft("d", asked.input, asked.target, "", (), (good, bad))]
    found = influence.score(tiny_model, "tiny", TASK, ASKED, drafts, "system", replace(SETTINGS, learning_rate=1e-4), Store(tmp_path))
    assert found["d", "good"] > 0 > found["d", "bad"]


def test_chunks_do_not_change_an_influence_and_what_is_stored_loads_no_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "a")
    whole = influence.score(tiny_model, "tiny", TASK, ASKED, DRAFTS, "system", SETTINGS, store)
    assert influence.score(tmp_path / "gone", "tiny", TASK, ASKED, DRAFTS, "system", SETTINGS, store) == whole
    with pytest.raises(OSError):
        influence.score(tmp_path / "gone", "tiny", TASK, ASKED, DRAFTS, "system", replace(SETTINGS, learning_rate=1.0), store)
    monkeypatch.setattr(influence, "EXAMPLES", 1)
    assert influence.score(tiny_model, "tiny", TASK, ASKED, DRAFTS, "system", SETTINGS, Store(tmp_path / "b")) == whole


@pytest.mark.parametrize("how", ["system", "user", "plain"])
def test_an_example_is_the_tokens_that_training_makes_of_it(tiny_model: Path, tmp_path: Path, how: str) -> None:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    examples = [Example(d.id, d.input, r.text, d.target, "") for d in DRAFTS for r in d.rationales]
    rows = influence._rows(TASK, how, examples)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], completion_only_loss=True)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    trained = SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train_dataset
    for row, made in zip(rows, trained, strict=True):
        ids, first = influence.tokens_of(tokenizer, row)
        assert ids == made["input_ids"]
        assert [int(k >= first) for k in range(len(ids))] == [int(k != -100) for k in made["labels"]]
        question, answer = influence.text_of(tokenizer, row)
        assert tokenizer(question)["input_ids"] + tokenizer(answer, add_special_tokens=False)["input_ids"] == ids


def test_influence_asks_a_student_that_was_warmed_up_on_the_seeds_or_taught_before(tiny_model: Path, tmp_path: Path) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    with opened(recipe, ["train.epochs=1"], tmp_path / "runs", "-test") as (setup, _):
        warm = steps.warmed(setup, setup.student.folder)
        assert common.read_log(warm).examples == setup.recipe.tailor.questions + len(setup.task.seeds)
        assert steps.warmed(setup, warm) == warm
        asked = PreferenceSet(tuple(setup.task.seeds[:2]), "")
        reader = steps.student(setup, setup.student.folder)
        found = steps.preferences(setup, reader, reader.folder, DRAFTS, asked, "influence").preferences
        how = influence.Settings(setup.recipe.prefer.learning_rate, setup.recipe.train.max_tokens)
        of_the_warm = influence.score(warm, "warm", setup.task, asked.questions, DRAFTS, setup.form, how, Store(tmp_path / "other"))
    assert rationale_scores(found) == of_the_warm
