"""What the student is to be taught: once or several times through drafting, preferring, aligning and tailoring, an arm for each way.

task ─► draft ─► prefer ─► align ─► tailor        what the taught student still gets wrong seeds the next round's drafts
          ▲                            │
          └──── the next round ◄───────┘
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgearte import assisted, guidance, steps
from edgearte.arte import draft, prefer, tailor
from edgearte.arte.preference_set import PreferenceSet
from edgearte.arte.verify import Dropped
from edgearte.errors import UserError
from edgearte.lm.base import LM
from edgearte.recipe import Assist, Budget
from edgearte.records import Draft, Example, Judged, Moved, Pair
from edgearte.setup import Setup
from edgearte.train.common import read_log

UNTAUGHT, SEEDS, UNALIGNED, ARTE = "untaught", steps.SEEDS, "unaligned teacher", "ARTE"
SELECTED, ON_POLICY = "selection", "on-policy"
NO_SIGNAL, ASSISTED = "no signal", "assisted"


@dataclass(frozen=True)
class Round:
    """Once through the teaching: what was drafted, preferred and paired, the teacher that came of it, and what the student makes of its
    writing (None where nothing was aligned, or nothing could be compared)."""

    drafted: draft.Drafted
    drafts: tuple[Draft, ...]
    preferred: prefer.Preferred
    skipped: str  # why the teacher was not aligned, or ""
    pairs: tuple[Pair, ...]
    aligned: Path
    judged: Judged | None = None
    moved: Moved | None = None
    tried: Path | None = None  # the training whose log tells how the alignment went, also where nothing came of it

    def teacher(self, before: Path) -> Path:
        """The teacher that the build goes on with: the aligned one, unless the student scores better with what the one before wrote."""
        return before if self.judged and self.judged.difference <= 0 else self.aligned


@dataclass(frozen=True)
class Lesson:
    """What the student is to be taught, arm by arm, and how it came about; `method` is the arm that is delivered where none is better,
    `plain` the one without what the method adds."""

    method: str
    plain: str
    teacher: Path
    sets: Mapping[str, tuple[Example, ...]]
    asked: PreferenceSet | None = None
    rounds: tuple[Round, ...] = ()
    tailored: Mapping[str, tailor.Tailored] = field(default_factory=dict)
    assisted: assisted.Assisted | None = None


def arte(setup: Setup) -> Lesson:
    """As many times through the loop as the recipe has rounds; an assistant may help."""
    asked = steps.preference_questions(setup)
    teacher, student = setup.teacher.folder, setup.student.folder
    how = setup.recipe.assist
    guide = how.arte if how else None
    rounds: list[Round] = []
    ours: list[tailor.Tailored] = []
    plain: list[tailor.Tailored] = []
    here = setup  # in later rounds, towards what the student taught so far gets wrong (LLM2LLM, arXiv 2403.15042)
    for number in range(1, setup.recipe.rounds + 1):
        again = "" if number == 1 else f" {number}"
        found = once(here, asked, teacher, student, again, guided=guide is not None)
        # tailor: the aligned teacher writes a training set; so does the unaligned one, to compare with
        plain.append(steps.tailored(setup, setup.teacher.folder, UNALIGNED + again, "tailor" + again))
        ours.append(steps.tailored(here, found.aligned, ARTE + again, "tailor" + again))
        judged = steps.judged(setup, student, asked, found.skipped, plain[-1], ours[-1])
        moved = steps.moved(here, found.aligned, plain[-1], ours[-1]) if judged else None
        rounds.append(replace(found, judged=judged, moved=moved))
        teacher = rounds[-1].teacher(teacher)
        if number < setup.recipe.rounds:  # the next round asks the student that all rounds so far have taught
            taught = steps.with_seeds(setup, _together(ours).examples)
            student = steps.taught(setup, taught, ARTE + again)
            here = setup.towards(steps.missed(setup, student, ours[-1].drafts, ARTE + again))
    tailored = {UNALIGNED: _together(plain), ARTE: _together(ours)}
    if setup.recipe.select.factor > 1:
        tailored[SELECTED] = steps.selected(setup, asked, SELECTED)
    sets = _sets(setup, tailored)
    if how and guide and guide.weigh and ARTE in sets:
        sets[ARTE] = guidance.weighed(setup, how, sets[ARTE])
    return Lesson(ARTE, UNALIGNED, teacher, sets, asked, tuple(rounds), tailored)


def with_assistant(setup: Setup, how: Assist, budget: Budget) -> Lesson:
    """What a budget of the teacher's answers buys with an assistant; and as much bought at random, to compare with."""
    plain = assisted.teach(setup, how.model_copy(update={"signals": ()}), budget, NO_SIGNAL)
    ours = assisted.teach(setup, how, budget, ASSISTED)
    sets = {arm: steps.with_seeds(setup, found.examples) for arm, found in ((NO_SIGNAL, plain), (ASSISTED, ours))}
    sets = {**_seeds(setup, max(map(len, sets.values()))), **sets}
    return Lesson(ASSISTED, NO_SIGNAL, setup.teacher.folder, sets, assisted=ours)


def once(
    setup: Setup, asked: PreferenceSet, teacher: Path, student: Path, again: str = "",
    *, kinds: Sequence[str] = ("question", "rationale"), scorer: str = "", guided: bool = False, reader: LM | None = None,
) -> Round:  # fmt: skip
    """Once through the teaching: what comes of this teacher when this student is asked. `again` names a later round; `kinds` of
    pairs and a `scorer` other than the recipe's are what an ablation changes. It may be `guided` by an assistant; a `reader` is the
    student in another form, as it is deployed."""
    author, checkpoint = steps.teacher(setup, teacher), steps.student(setup, student)
    how = setup.recipe.assist
    guide = how.arte if how and guided else None
    # draft: the teacher asks, and explains in several ways
    drafted = steps.drafted(setup, author, "draft" + again)
    drafts = drafted.drafts
    if how and guide:
        drafts = guidance.worth_scoring(setup, how, guide, student, drafts)
    drafts = steps.explained(setup, author, drafts, "draft" + again)
    if how and guide and guide.filter:
        drafts = guidance.believed(setup, how, drafts)
    # prefer: the student shows which of it teaches
    preferred = steps.preferences(setup, reader or checkpoint, student, drafts, asked, scorer)
    checkpoint.release()
    # align: the teacher learns what the student prefers
    unasked = "" if any(steps.pairs_wanted(setup, kinds)) else "the recipe asks for no pairs (align.question_pairs, align.rationale_pairs)"
    skipped = steps.not_at_hand(setup) or unasked or prefer.degenerate(preferred.preferences)
    pairs = () if skipped else steps.pairs(setup, author, drafts, preferred.preferences, kinds)
    author.release()
    if not skipped and not pairs:
        skipped = "no two drafts that could be held against each other differ in score, so there is no pair to learn from"
    if skipped:
        return Round(drafted, drafts, preferred, skipped, pairs, teacher)
    aligned = steps.aligned(setup, teacher, pairs, "align the teacher" + again)
    if read_log(aligned).best_step == 0:
        skipped = "nothing was gained on the pairs that were held out, so it stays as it was"
    return Round(drafted, drafts, preferred, skipped, pairs, teacher if skipped else aligned, tried=aligned)


def _sets(setup: Setup, tailored: Mapping[str, tailor.Tailored]) -> dict[str, tuple[Example, ...]]:
    if not tailored[ARTE].examples and not tailored[UNALIGNED].examples:
        raise UserError(
            "the teacher wrote no example that could be trained on; look at its drafts in the store, or try style: continuation"
        )
    sets = {arm: steps.with_seeds(setup, t.examples) for arm, t in tailored.items() if t.examples}
    return {**_seeds(setup, max(map(len, sets.values()))), **sets}


def _seeds(setup: Setup, size: int) -> dict[str, tuple[Example, ...]]:
    """The arm of the user's own seeds, where there are any: as many steps as the largest set takes."""
    return {SEEDS: steps.seeds_alone(setup, size)} if setup.task.seeds else {}


def _together(sets: Sequence[tailor.Tailored]) -> tailor.Tailored:
    """What one teacher wrote in all rounds."""
    dropped = Dropped()
    for one in sets:
        dropped = dropped.joined(Dropped.of(one.dropped, one.samples))
    examples = tuple(e for one in sets for e in one.examples)
    drafts = tuple(d for one in sets for d in one.drafts)
    stood = Counter[str]()
    for one in sets:
        stood.update(one.stood)
    return tailor.Tailored(examples, drafts, dropped.reasons(), dropped.shown(), dict(stood))
