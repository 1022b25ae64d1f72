"""The stages of the loop as a recipe sets them: each step is a stage called with the recipe's options, over the store.

`loop.py` and `ablate.py` are made of these, so that what an arm has in common with another is the same result in the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgearte import evaluate
from edgearte.answers import matches
from edgearte.arte import (
    align,
    checker,
    consistency,
    draft,
    influence,
    judge,
    naturalness,
    prefer,
    preference_set,
    probability,
    prompts,
    select,
    share,
    sieve,
    tailor,
    vote,
)
from edgearte.arte.preference_set import PreferenceSet
from edgearte.arte.verify import Check, Verdict
from edgearte.errors import UserError
from edgearte.evaluate import Answer
from edgearte.lm import hidden, weights
from edgearte.lm.base import LM, rendered
from edgearte.lm.calls import Calls
from edgearte.lm.endpoint import Endpoint
from edgearte.lm.hf import TransformersLM, form
from edgearte.lm.llamacpp import LlamaCpp, as_gguf
from edgearte.measure.suite import TASK, Suite, load_suite
from edgearte.recipe import Recipe
from edgearte.records import Draft, Example, Judged, Moved, Pair, Preference, Question, Rationale
from edgearte.setup import Setup, address
from edgearte.store import seed_of
from edgearte.task import Task
from edgearte.train import distill, dpo, match, sft

SEEDS = "seeds alone"  # the arm's name
MOVED = 24  # texts over which it is told how far a teacher moved, at most
JUDGING = 24  # questions that an alignment is judged by, at most
REFUSED = "target not confirmed by a vote"
TIMED = 8  # evaluation questions that a suite of the task's own prompts reads
CHECKER_TIMEOUT = 600.0  # seconds a user's program may take for one round of drafts


def teacher(setup: Setup, folder: Path, number: int = 0, *, compared: bool = False) -> TransformersLM | LlamaCpp | Endpoint:
    """A teacher: as it came, where `folder` is its own, or aligned. `number` is that of `Setup.author`.

    Under `runtime: llama.cpp` a teacher as it came is its own GGUF file, in that file's types, and an aligned one is its checkpoint in
    q8_0. What two teachers write can be `compared` only where both are of one kind: then the one as it came is in q8_0, too.
    """
    named, found = setup.author(number)
    asked = address(named)
    if asked and folder == found.folder:
        return Endpoint(asked, Calls(setup.store), setup.recipe.name)
    if named.runtime == "llama.cpp":
        own = found.gguf if folder == found.folder and not compared else None
        texts = [f"{q.input}\n{q.rationale or ''}\n{q.target}\n" for q in setup.task.seeds or setup.task.evaluation]
        file = own or as_gguf(folder, weights.identity(folder, setup.store), texts, setup.store)
        return LlamaCpp(file, weights.of_file(file, setup.store))
    return TransformersLM(folder, weights.identity(folder, setup.store), dtype=named.dtype)


def student(setup: Setup, folder: Path) -> TransformersLM:
    return TransformersLM(folder, weights.identity(folder, setup.store), dtype=setup.recipe.student.dtype)


def suite(setup: Setup) -> Suite:
    """What is timed. A suite that reads the task's own prompts gets them: questions as the student is asked them."""
    found = load_suite(setup.recipe.measure.suite)
    if found.prompts != TASK:
        return found
    model = student(setup, setup.student.folder)
    texts = rendered(model, [setup.asked(q.input) for q in setup.task.evaluation[:TIMED]])
    lengths = sorted(len(model.tokenizer(text)["input_ids"]) for text in texts)
    if lengths[-1] > found.prompt_tokens:
        raise UserError(f"suite {found.name}: a question is asked in {lengths[-1]} tokens, and prompt_tokens cuts at {found.prompt_tokens}")
    return replace(found, prompts=tuple(texts), prompt_tokens=lengths[-1])


def not_at_hand(setup: Setup) -> str:
    """Why the teacher's weights cannot be changed or looked into, or ""."""
    return "the teacher is an endpoint: its weights are not at hand" if setup.recipe.teacher.endpoint else ""


def settings(recipe: Recipe, task: Task, style: str = "") -> draft.Settings:
    """How this recipe's teacher, or one of another style, is asked for drafts."""
    d = recipe.draft
    return draft.Settings(
        style=style or recipe.teacher.style, shots=min(d.shots, len(task.seeds)), per_prompt=d.per_prompt, temperature=d.temperature,
        top_p=d.top_p, question_tokens=d.question_tokens, rationale_tokens=d.rationale_tokens,
        rationale_temperature=d.rationale_temperature, near_copy=d.near_copy, attempts=d.attempts, seed=recipe.seed, styles=d.styles,
    )  # fmt: skip


def checks(setup: Setup, author: LM, label: str) -> list[Check]:
    """What a drafted target must stand up to, cheapest first."""
    v, task, store = setup.recipe.verify, setup.task, setup.store
    at_least = setup.recipe.draft.vote

    s = setup.recipe.sieve

    def by_program(drafts: Sequence[Draft]) -> list[Verdict]:
        return checker.check(v.checker, task, drafts, Path.cwd(), CHECKER_TIMEOUT)

    def by_likelihood(drafts: Sequence[Draft]) -> list[Verdict]:
        return sieve.plausible(author, task, drafts, s.plausible, store, label=f"{label}: plausible")

    def by_vote(drafts: Sequence[Draft]) -> list[Verdict]:
        return [Verdict(p >= at_least) for p in vote.shares(author, task, drafts, store, label=f"{label}: vote")]

    def by_samples(drafts: Sequence[Draft]) -> list[Verdict]:
        ask = settings(setup.recipe, task)
        found = consistency.agree(
            author, task, ask, drafts, v.samples, v.temperature, store, label=f"{label}: self-consistency"
        )
        return [
            Verdict(x.share >= v.agreement, x.majority or "" if v.relabel and x.majority_share >= v.agreement else "")
            for x in found
        ]

    def by_student(drafts: Sequence[Draft]) -> list[Verdict]:
        bare = setup.teaching("answer")
        reader = student(setup, taught(bare, seeds_alone(bare, _size(setup)), f"{SEEDS}, answer"))
        found = sieve.known(reader, task, setup.asked, drafts, s.known, setup.recipe.measure.max_tokens, store, label=f"{label}: known")
        reader.release()
        return found

    return [
        Check("nothing a person would say", lambda drafts: sieve.form(task, drafts)),
        *([Check("longer or shorter than the seeds", lambda drafts: sieve.length(task, drafts, s.length))] if s.length else []),
        *([Check("target refused by the checker", by_program)] if v.checker else []),
        *([Check("unlikely to the teacher, beside the seeds", by_likelihood)] if s.plausible and not not_at_hand(setup) else []),
        *([Check(REFUSED, by_vote)] if at_least and task.answer.choices else []),
        *([Check("target not confirmed by the teacher's own samples", by_samples)] if v.samples else []),
        *([Check("known to a student taught on the seeds", by_student)] if s.known and task.seeds else []),
    ]


def drafted(setup: Setup, author: LM, purpose: str) -> draft.Drafted:
    """The teacher's questions."""
    found = draft.draft_questions(
        author, setup.drawn, settings(setup.recipe, setup.drawn), setup.recipe.draft.questions, setup.store, purpose=purpose,
        label=f"{purpose}: questions", checks=checks(setup, author, purpose),
    )  # fmt: skip
    if not found.drafts:
        raise UserError(_nothing_drafted(found))
    return found


def explained(setup: Setup, author: LM, drafts: Sequence[Draft], purpose: str) -> tuple[Draft, ...]:
    """The drafts with a rationale of each strategy; where no rationale is taught, with what is in its place."""
    if not setup.recipe.train.reasons:
        told = {target: tailor.unreasoned(setup.task, target, setup.teach) for target in {d.target for d in drafts}}
        return tuple(replace(d, rationales=(Rationale(setup.teach, told[d.target], d.target),)) for d in drafts)
    ask, strategies = settings(setup.recipe, setup.task), setup.recipe.draft.strategies
    return draft.draft_rationales(
        author, setup.task, ask, drafts, strategies, setup.store, label=f"{purpose}: rationales"
    )


def preference_questions(setup: Setup) -> PreferenceSet:
    """The questions drafts are scored on."""
    p = setup.recipe.prefer
    if not p.responders:
        return preference_set.first(setup.task, p.questions)
    models = [(weights.resolve(r.model, setup.store), r.shots) for r in p.responders]
    responders = [
        (TransformersLM(w.folder, w.identity, dtype=setup.recipe.student.dtype), shots) for w, shots in models
    ]
    pairs = [(lm, n) for lm, shots in responders for n in shots]
    found = preference_set.discriminating(pairs, setup.task, p.questions, p.max_tokens, setup.store)
    for lm, _ in responders:
        lm.release()
    return found


def by_asking(setup: Setup) -> str:
    """The scorer for a student that is deployed: the recipe's, or where that reads a checkpoint, the paper's."""
    return setup.recipe.prefer.scorer if setup.recipe.prefer.scorer.startswith("icl") else "icl"


def preferences(
    setup: Setup, reader: LM, folder: Path, drafts: Sequence[Draft], asked: PreferenceSet, scorer: str = ""
) -> prefer.Preferred:
    """What the student in `folder` prefers, by the recipe's scorer or another one; `reader` is that student, as a checkpoint or as it is
    deployed."""
    p, task, store = setup.recipe.prefer, setup.task, setup.store
    match scorer or p.scorer:
        case "probability":
            return probability.score(reader, task, drafts, asked.questions, store)
        case "naturalness":
            scores = naturalness.score(reader, task, drafts, setup.form, store)
        case "influence":
            how = influence.Settings(p.learning_rate, setup.recipe.train.max_tokens)
            warm = warmed(setup, folder)
            identity = weights.identity(warm, store)
            scores = influence.score(warm, identity, task, asked.questions, drafts, setup.form, how, store)
        case kind:
            if p.confidence:
                found = prefer.adaptive(
                    reader, task, drafts, asked.questions, p.max_tokens, store, confidence=p.confidence,
                    by_target=draft.for_targets(task, settings(setup.recipe, task)), seed=seed_of(setup.recipe.seed, "prefer"),
                )  # fmt: skip
            else:
                found = prefer.exact(reader, task, drafts, asked.questions, p.max_tokens, store)
            if kind == "icl":
                return found
            right = prefer.of_the_right(found.preferences, drafts, task)
            return prefer.Preferred(right, found.generations, found.exact, found.said)
    return prefer.Preferred(tuple(Preference(d, s, score) for (d, s), score in scores.items()))


def pairs_wanted(setup: Setup, kinds: Sequence[str]) -> tuple[int, int]:
    """How many question pairs and rationale pairs are wanted, of these kinds; none of rationales where no rationale is taught."""
    a, reasons = setup.recipe.align, setup.recipe.train.reasons
    return a.question_pairs if "question" in kinds else 0, a.rationale_pairs if "rationale" in kinds and reasons else 0


def pairs(
    setup: Setup, author: LM, drafts: Sequence[Draft], preferred: Sequence[Preference],
    kinds: Sequence[str] = ("question", "rationale"),
) -> tuple[Pair, ...]:  # fmt: skip
    """Preference pairs for the teacher."""
    a, ask, task = setup.recipe.align, settings(setup.recipe, setup.drawn), setup.drawn
    questions, rationales = pairs_wanted(setup, kinds)
    found: list[Pair] = []
    if questions:
        extremes = a.questions_from == "extremes"
        found += align.question_pairs(author, task, ask, drafts, preferred, questions, extremes=extremes, held_out=a.held_out)
    if rationales:
        strategies = setup.recipe.draft.strategies if a.rationale_prompt == "strategy" else None
        found += align.rationale_pairs(
            author, task, ask, drafts, preferred, rationales, strategies=strategies, held_out=a.held_out
        )
    return tuple(found)


def aligned(setup: Setup, folder: Path, found: Sequence[Pair], label: str = "align the teacher") -> Path:
    """The teacher in `folder`, after DPO on these pairs; as it was where the held-out ones gained nothing (`best_step` of its log)."""
    a = setup.recipe.align
    how = dpo.Settings(
        beta=a.beta, learning_rate=a.learning_rate, min_steps=a.min_steps, max_steps=a.max_steps, patience=a.patience, batch=a.batch,
        micro_batch=a.micro_batch, lora_rank=a.lora_rank, sft=a.sft, length_normalised=a.length_normalised,
        label_smoothing=a.label_smoothing, dtype=setup.recipe.teacher.dtype, seed=seed_of(setup.recipe.seed, "align"),
    )  # fmt: skip
    return dpo.align(folder, weights.identity(folder, setup.store), found, how, setup.store, label=label)


def tailored(setup: Setup, folder: Path, arm: str, purpose: str = "tailor", count: int = 0) -> tailor.Tailored:
    """The training set that the teacher in `folder` writes: `count` examples, or as many as the recipe says."""
    author, t = teacher(setup, folder, compared=True), setup.recipe.tailor
    ask = replace(
        settings(setup.recipe, setup.drawn), temperature=t.temperature, rationale_temperature=t.rationale_temperature
    )
    found = tailor.tailor(author, setup.task, ask, count or t.questions, setup.store, purpose=purpose, arm=arm,
                          checks=checks(setup, author, f"tailor, {arm}"), drawn=setup.drawn, teach=setup.teach)  # fmt: skip
    if at_least := setup.recipe.draft.vote if setup.task.answer.choices and setup.task.seeds else 0.0:
        told = share.of_voted(author, setup.task, found.stood.get(REFUSED, 0), found.dropped.get(REFUSED, 0), at_least, setup.store,
                              label=f"tailor, {arm}: right")  # fmt: skip
        found = replace(found, right=told.said if told else "")
    author.release()
    return found


def judged(
    setup: Setup, folder: Path, asked: PreferenceSet, skipped: str, plain: tailor.Tailored, ours: tailor.Tailored
) -> Judged | None:
    """What the student in `folder` makes of both teachers' training sets, by questions that made no pair; None where nothing was aligned
    (`skipped`), or there is nothing to judge by."""
    count, task = setup.recipe.align.judge, setup.task
    questions = judge.judging_questions(task, asked.questions, JUDGING)
    one, other = (judge.taught(t.drafts, t.examples)[:count] for t in (ours, plain))
    if skipped or not questions or not one or not other:
        return None
    reader = student(setup, folder)
    found = judge.judge(
        one, other, lambda drafts: probability.score(reader, task, drafts, questions, setup.store).preferences, questions
    )
    reader.release()
    return found


def moved(setup: Setup, aligned: Path, plain: tailor.Tailored, ours: tailor.Tailored) -> Moved:
    """How far the aligned teacher is from the one it was, over what it wrote for the training set."""
    count, found = min(setup.recipe.align.judge, MOVED), setup.teacher
    before = TransformersLM(found.folder, found.identity, dtype=setup.recipe.teacher.dtype)
    after = TransformersLM(aligned, weights.identity(aligned, setup.store), dtype=setup.recipe.teacher.dtype)
    one, other = ours.drafts[:count], plain.drafts[:count]
    texts = align.as_written(before, setup.drawn, settings(setup.recipe, setup.drawn), one)
    told = judge.moved(before, after, texts, one, other, setup.store)
    before.release()
    after.release()
    return told


def prepared(setup: Setup) -> Setup:
    """The setup with what all arms have in common: the teacher's rationales for seeds that have none, and the form of a completion."""
    how = setup.recipe.train.teach
    if not setup.task.seeds:
        return setup.teaching(setup.teach)
    bought = setup.recipe.assist and setup.recipe.assist.budget  # then every answer of the teacher's is paid for out of that
    setup = setup if not setup.recipe.train.reasons or bought else seeds_explained(setup)
    if how != "auto":
        return setup.teaching(how)
    if not setup.task.development:
        return setup.teaching("rationale")
    forms: list[tailor.Teach] = ["rationale"] if any(q.rationale for q in setup.task.seeds) else []
    forms += ["meaning", "answer"] if setup.task.meanings else ["answer"]
    tried = {form: setup.teaching(form) for form in forms}
    right = {form: _right(developed(one, taught(one, seeds_alone(one, _size(one)), f"{SEEDS}, {form}"), f"{SEEDS}, {form}"))
             for form, one in tried.items()}  # fmt: skip
    return tried[max(right, key=lambda form: right[form])]  # of equals the first


def _size(setup: Setup) -> int:
    """About as many examples as an arm will have."""
    return setup.recipe.tailor.questions * setup.recipe.rounds + setup.recipe.train.seeds * len(setup.task.seeds)


def _right(answers: Sequence[Answer]) -> int:
    return sum(a.grade.correct for a in answers)


def seeds_explained(setup: Setup) -> Setup:
    """The setup with a rationale for every seed: the user's own, or one by the teacher that ends in the seed's target."""
    missing = [q for q in setup.task.seeds if not q.rationale]
    if not missing:
        return setup
    author = teacher(setup, setup.teacher.folder)
    drafts = [Draft(q.id, q.input, q.target, "seed", ()) for q in missing]
    ask = settings(setup.recipe, setup.task)
    told = draft.draft_rationales(author, setup.task, ask, drafts, {"naive": draft.naive(ask)}, setup.store, label="explain the seeds")
    author.release()
    written = {d.id: _reasoning(setup.task, r) for d in told for r in d.rationales if matches(r.answer, d.target, setup.task.answer)}
    seeds = tuple(replace(q, rationale=q.rationale or written.get(q.id, "")) for q in setup.task.seeds)
    return replace(setup, task=replace(setup.task, seeds=seeds))


def _reasoning(task: Task, rationale: Rationale) -> str:
    """A rationale without the answer it ends in, as seeds bring theirs."""
    return rationale.text.rpartition(task.answer.open)[0].strip() if task.answer.tagged else rationale.text


def seeds_alone(setup: Setup, size: int) -> tuple[Example, ...]:
    """The arm of the user's own seeds."""
    return tailor.seeds_alone(setup.task, size, setup.teach)


def with_seeds(setup: Setup, examples: Sequence[Example]) -> tuple[Example, ...]:
    """A set with the user's own seeds, as often as the recipe has them in it."""
    return tailor.with_seeds(examples, setup.task, setup.teach, setup.recipe.train.seeds)


def missed(setup: Setup, folder: Path, drafts: Sequence[Draft], arm: str) -> tuple[Question, ...]:
    """The seeds and drafts that a taught student still gets wrong: what the next round is about (LLM2LLM, arXiv 2403.15042)."""
    written = [Question(d.id, d.input, d.target, _reasoning(setup.task, r)) for d in drafts for r in d.rationales[:1]]
    found = _answered(setup, folder, [*setup.task.seeds, *written], f"ask what it was taught: {arm}")
    return tuple(a.question for a in found if not a.grade.correct)


def selected(setup: Setup, asked: PreferenceSet, arm: str) -> tailor.Tailored:
    """What the student prefers of several times as much as the unaligned teacher writes for a set."""
    how, count = setup.recipe.select, setup.recipe.tailor.questions
    found = tailored(setup, setup.teacher.folder, arm, count=how.factor * count)
    reader = student(setup, setup.student.folder)
    drafts = judge.taught(found.drafts, found.examples)
    scores = preferences(setup, reader, setup.student.folder, drafts, asked, how.by).preferences
    reader.release()
    kept = select.preferred(found.examples, {p.draft: p.score for p in scores}, count, how.diversity)
    dropped = {**found.dropped, "not preferred by the student": len(found.examples) - len(kept)}
    return replace(found, examples=kept, dropped=dropped)


def taught(setup: Setup, examples: Sequence[Example], arm: str) -> Path:
    """The student after SFT on these examples."""
    t = setup.recipe.train
    how = sft.Settings(
        learning_rate=t.learning_rate, epochs=t.epochs, batch=t.batch, lora_rank=t.lora_rank, warmup=t.warmup,
        max_tokens=t.max_tokens, seed=seed_of(setup.recipe.seed, "train"),
    )  # fmt: skip
    rows = sft.rows(examples, setup.asked)
    return sft.train(
        setup.student.folder, setup.student.identity, rows, how, setup.store, label=f"train: {arm}", matched=_matched(setup, examples)
    )


def as_read(setup: Setup, model: TransformersLM, examples: Sequence[Example]) -> dict[tuple[str, str], tuple[str, str]]:
    """Each example once, by its question and answer: the prompt as this model is asked, and the answer."""
    apart = list(dict.fromkeys((e.input, e.completion) for e in examples))
    how = form(model.folder)
    asked = rendered(model, [prompts.asked(setup.task.header, how, text) for text, _ in apart])
    return {(text, answer): (prompt, answer) for (text, answer), prompt in zip(apart, asked, strict=True)}


def _matched(setup: Setup, examples: Sequence[Example]) -> match.Match | None:
    """What the recipe's teacher makes of the examples, where the student is to take it over."""
    weight, found = setup.recipe.train.match, setup.teacher
    if not weight:
        return None
    model = TransformersLM(found.folder, found.identity, dtype=setup.recipe.teacher.dtype)
    read = as_read(setup, model, examples)
    states = dict(zip(read, hidden.pooled(model, list(read.values()), setup.store), strict=True))
    model.release()
    return match.Match([states[e.input, e.completion] for e in examples], weight, found.identity)


def warmed(setup: Setup, folder: Path) -> Path:
    """The student whose influence is measured: one that knows the form of an answer. Taught in an earlier round, or on the seeds."""
    if folder != setup.student.folder:
        return folder
    return taught(setup, seeds_alone(setup, _size(setup)), "warm-up on the seeds")


def distilled(setup: Setup, start: Path, author: Path, examples: Sequence[Example], arm: str) -> Path:
    """The student in `start` after on-policy distillation from the teacher in `author`, on these examples' questions."""
    o = setup.recipe.on_policy
    how = distill.Settings(
        learning_rate=o.learning_rate, epochs=o.epochs, batch=o.batch, lora_rank=o.lora_rank, warmup=o.warmup, beta=o.beta,
        temperature=o.temperature, max_tokens=o.max_tokens, teacher_dtype=setup.recipe.teacher.dtype,
        seed=seed_of(setup.recipe.seed, "on-policy"),
    )  # fmt: skip
    asked = [setup.asked(e.input) for e in examples]
    identity = weights.identity(start, setup.store), weights.identity(author, setup.store)
    return distill.distill(
        start, identity[0], author, identity[1], asked, how, setup.store, label=f"on-policy: {arm}"
    )


def answers(setup: Setup, folder: Path, arm: str, shots: int = 0) -> list[Answer]:
    """What a checkpoint answers to the evaluation questions after `shots` seeds."""
    task = setup.task
    shown = [(s.input, prompts.completion_of(task, s)) for s in task.seeds[:shots]]
    return _answered(setup, folder, task.evaluation, f"evaluate: {arm}" + (f", {shots}-shot" if shots else ""), shown)


def developed(setup: Setup, folder: Path, arm: str) -> list[Answer]:
    """What a checkpoint answers to the development questions."""
    return _answered(setup, folder, setup.task.development, f"develop: {arm}")


def _answered(
    setup: Setup, folder: Path, questions: Sequence[Question], label: str, shown: Sequence[tuple[str, str]] = ()
) -> list[Answer]:
    model, m = student(setup, folder), setup.recipe.measure
    asked = [setup.asked(q.input, shown) for q in questions]
    found = evaluate.checkpoint(model, questions, asked, setup.task.answer, m.max_tokens, setup.store, label=label)
    model.release()
    return found


def _nothing_drafted(found: draft.Drafted) -> str:
    reasons = ", ".join(f"{n} {reason}" for reason, n in found.dropped.items())
    return (
        f"the teacher drafted no usable question out of {found.asked} asked for ({reasons}); "
        "a stronger teacher, or style: continuation for a weak one, may help"
    )
