"""Public data sets made into a recipe's files, in small ones made for these tests."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgearte import catalogue
from edgearte.answers import AnswerFormat
from edgearte.arte import checker, prompts
from edgearte.cli import main
from edgearte.load import load_recipe, load_task
from edgearte.records import Draft
from edgearte.task import Task

INTENTS = list(load_recipe(catalogue.find("recipes", "voice-intents")).task.answer.choices)
SCHEMA = json.loads((catalogue.folder("recipes") / "intent-slots" / "schema.json").read_text("utf-8"))


def clinc() -> dict[str, list[list[str]]]:
    """Data of CLINC150's form, with an intent of another domain, and a text that stands in two splits."""
    data = {
        split: [[f"{split} number {i} about {intent}", intent] for intent in [*INTENTS, "translate"] for i in range(count)]
        for split, count in (("train", 7), ("val", 2), ("test", 3))
    }
    data["train"] += data["test"][:1]
    return data


def snips(folder: Path) -> Path:
    folder.mkdir()
    for split, count in (("train", 30), ("validate", 4)):
        for intent, (first, *_, last) in SCHEMA.items():
            pieces = [[(f"{split} {intent} {i} ", None), ("blue", last), (" and ", None), ("green ", first)] for i in range(count)]
            pieces.append([("twice ", None), ("red", first), (" or ", None), ("black", first)])
            records = [{"data": [{"text": t, **({"entity": e} if e else {})} for t, e in one]} for one in pieces]
            (folder / f"{split}_{intent}.json").write_text(json.dumps({intent: records}), "utf-8")
    return folder


def gsm8k(folder: Path) -> Path:
    folder.mkdir()
    for split, count in (("train", 190), ("test", 110)):
        rows = [{"question": f"{split} {i} and 1?", "answer": f"{i} + 1 = <<{i}+1={i + 1}>>{i + 1}.\n#### {i + 1}"} for i in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    return folder


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), "utf-8")
    return path


def prepared(folder: Path, recipe: str, data: Path) -> Task:
    assert main(["init", str(folder), "--from", recipe, "--data", str(data)]) == 0
    return load_task(load_recipe(folder / "recipe.yaml"))


def test_intents_get_their_seeds_and_everything_else_is_held_apart(tmp_path: Path) -> None:
    data = clinc()
    task = prepared(tmp_path / "a", "voice-intents", write(tmp_path / "data.json", data))
    assert [q.target for q in task.seeds] == INTENTS * 2
    assert [q.target for q in task.preference] == INTENTS * 3
    assert sorted(q.input for q in task.evaluation) == sorted(t for t, intent in data["test"] if intent in INTENTS)
    assert {q.input for q in task.development} == {t for t, intent in data["val"] if intent in INTENTS}
    assert all(q.input.startswith("train") for q in (*task.seeds, *task.preference))
    assert len({q.input for q in (*task.seeds, *task.preference)}) == 5 * len(INTENTS)
    assert set(task.meanings) == set(INTENTS)
    assert len(task.pool) == 2 * len(INTENTS), "the rest of train"
    assert {q.target for q in task.pool} == {""}, "nobody said what is meant"
    assert not {q.input for q in task.pool} & {q.input for q in (*task.seeds, *task.preference, *task.evaluation, *task.development)}
    assert [q.input.split(" about ")[1] for q in task.pool[:15]] != INTENTS, "nor does the order tell"


def test_the_seeds_do_not_depend_on_the_order_of_the_file(tmp_path: Path) -> None:
    data = clinc()
    once = prepared(tmp_path / "a", "voice-intents", write(tmp_path / "data.json", data))
    for split in data.values():
        random.Random(1).shuffle(split)
    again = prepared(tmp_path / "b", "voice-intents", write(tmp_path / "data.json", data))
    assert [q.input for q in once.seeds] == [q.input for q in again.seeds]
    assert [q.input for q in once.evaluation] == [q.input for q in again.evaluation]
    assert [q.input for q in once.pool] == [q.input for q in again.pool]


def test_slots_become_objects_with_keys_in_the_order_of_the_schema(tmp_path: Path) -> None:
    task = prepared(tmp_path / "a", "intent-slots", snips(tmp_path / "data"))
    assert [len(task.seeds), len(task.preference), len(task.development), len(task.evaluation)] == [3 * 7, 5 * 7, 20 * 7, 4 * 7]
    for question in (*task.seeds, *task.evaluation):
        target = json.loads(question.target)
        keys = SCHEMA[target["intent"]]
        assert list(target.items()) == [("intent", target["intent"]), (keys[0], "green"), (keys[-1], "blue")]
        assert question.input.endswith("blue and green")


def test_sums_bring_their_steps_as_rationales(tmp_path: Path) -> None:
    task = prepared(tmp_path / "a", "gsm8k", gsm8k(tmp_path / "data"))
    assert [len(task.seeds), len(task.preference), len(task.development), len(task.evaluation)] == [24, 40, 120, 110]
    number = int(task.seeds[0].target)
    assert (task.seeds[0].input, task.seeds[0].rationale) == (f"train {number - 1} and 1?", f"{number - 1} + 1 = {number}.")


@pytest.mark.parametrize(
    ("recipe", "data", "said"),
    [
        ("voice-intents", None, "needs data of yours: --data FILE, CLINC150"),
        ("voice-intents", "missing.json", "cannot be read: No such file"),
        ("voice-intents", {"examples": []}, 'no list of [text, intent] under "test"'),
        ("voice-intents", {**clinc(), "val": [["one", "two", "three"]]}, 'no list of [text, intent] under "val"'),
        ("voice-intents", {**clinc(), "train": clinc()["train"][3:]}, f"data.json: train: too few: {INTENTS[0]} (4)"),
        ("intent-slots", "data", "no files validate_AddToPlaylist.json in it; --data FOLDER, Snips"),
        ("intent-slots", "missing", "no such folder; --data FOLDER, Snips"),
        ("gsm8k", "data", "no files test*.jsonl in it; --data FOLDER, GSM8K"),
        ("quickstart", "data", "the recipe quickstart brings its data"),
    ],
)
def test_other_data_is_one_message_and_leaves_nothing(
    recipe: str, data: Any, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    path = write(tmp_path / "data.json", data) if isinstance(data, dict) else tmp_path / str(data)
    before = sorted(tmp_path.iterdir())
    assert main(["init", str(tmp_path / "new"), "--from", recipe, *(["--data", str(path)] if data else [])]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert said in message
    assert sorted(tmp_path.iterdir()) == before


def test_utterances_of_another_shape_are_named_with_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = snips(tmp_path / "data")
    write(folder / "train_PlayMusic.json", {"PlayMusic": [{"text": "play"}]})
    assert main(["init", str(tmp_path / "new"), "--from", "intent-slots", "--data", str(folder)]) == 2
    assert f"{folder}/train_PlayMusic.json: expected" in capsys.readouterr().err


def test_a_recipe_without_its_data_says_how_to_bring_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "voice-intents"]) == 2
    assert "edgearte init my-voice-intents --from voice-intents --data FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "target", "ok", "better"),
    [
        ("Play jazz on Vimeo", {"intent": "PlayMusic", "genre": "jazz", "service": "Vimeo"}, True, None),
        ("Play Jazz on vimeo", {"service": "Vimeo", "intent": "PlayMusic", "genre": "jazz", "year": "", "track": "Unknown"}, False,
         {"intent": "PlayMusic", "genre": "Jazz", "service": "vimeo"}),
        ("Play jazz on Vimeo", {"intent": "PlayMusic", "genre": "rock"}, False, None),
        ("book a cafe in OK", {"intent": "BookRestaurant", "restaurant_type": "cafe", "state": "ok"}, False,
         {"intent": "BookRestaurant", "restaurant_type": "cafe", "state": "OK"}),
        ("a bookshop", {"intent": "RateBook", "object_type": "book"}, False, None),
        ("Play jazz", {"intent": "PlayMusic", "city": "jazz"}, False, None),
        ("Play jazz", {"intent": "Dance", "genre": "jazz"}, False, None),
        ("Play jazz", {"intent": "PlayMusic"}, False, None),
        ("Play jazz", ["PlayMusic", "jazz"], False, None),
        ("Play 7", {"intent": "PlayMusic", "track": 7}, False, None),
    ],
)  # fmt: skip
def test_drafted_slots_must_stand_in_what_is_said(said: str, target: Any, ok: bool, better: Any) -> None:
    folder = catalogue.folder("recipes") / "intent-slots"
    task = Task("slots", "Say the slots.", AnswerFormat("json"), (), (), ())
    draft = Draft("d", said, json.dumps(target), "test", ())
    (verdict,) = checker.check(("python3", "check.py"), task, [draft], folder, 60)
    assert verdict.stands == ok
    assert verdict.better == (json.dumps(better) if better else "")


def test_drafts_whose_target_is_an_object_are_read_whole() -> None:
    target = '{"intent": "PlayMusic", "artist": "Nina Simone"}'
    written = f"play Nina Simone</input>\n<target>{target}\n</target>\n</Question_5>\n<Question_6>\n<input>cut</input>\n<target>{{"
    assert prompts.read_questions(written, 5) == [("play Nina Simone", target)]
