"""Preference pairs for the teacher's DPO (paper 3)."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product

from edgearte.arte.draft import Settings, for_targets, naive, prompt_of, rationale_prompt, reasoned, written
from edgearte.arte.reliability import by_question, certainty, reliability
from edgearte.lm.base import LM
from edgearte.records import Draft, Pair, Preference, Rationale
from edgearte.store import digest, seed_of
from edgearte.task import Task

FEWEST_HELD_OUT = 2  # drafts of a group that are held out, if any are: one alone makes no pair


def question_pairs(
    teacher: LM, task: Task, settings: Settings, drafts: Sequence[Draft], preferences: Sequence[Preference], count: int,
    *, extremes: bool = False, held_out: float = 0.0,
) -> list[Pair]:  # fmt: skip
    """Up to `count` pairs of a question with a high s_q against one with a low s_q.

    First, in random order, those of the top quarter against the bottom quarter; or, of the `extremes`, the highest against the lowest,
    the second against the last but one, and so on (the paper says both). Where that is less than `count`, the halves against each other
    follow, then any two with a gap, the widest gaps first. The prompt is the drafting prompt of the chosen question, with the seeds it
    was drafted from. Questions that were drafted for a given answer are ranked among those for the same one: the prompt names it.

    A pair weighs as much as its gap is certain (`reliability.certainty`), and one that weighs nothing is left out. Pairs among the drafts
    that are `held_out`, a share of them all, are flagged so, and are at most that share of `count`; a draft is in pairs of one kind only.
    """
    targeted = for_targets(task, settings)
    scores = by_question(preferences)
    known = [d for d in drafts if d.id in scores]
    groups = {d.id: d.target if targeted else "" for d in known}
    trust = reliability(list(scores.values()), seed=settings.seed, within=groups)
    apart = held_out_drafts(known, held_out, settings.seed, groups)
    ranked = sorted(known, key=lambda d: (-scores[d.id].score, d.id))

    def made(part: Sequence[Draft], limit: int, flag: bool) -> list[Pair]:
        parted = [[d for d in part if groups[d.id] == group] for group in sorted(set(groups.values()))]
        found: list[Pair] = []
        for top, bottom in _in_turn(parted, scores, settings.seed, extremes=extremes):
            if len(found) == limit:
                break
            weight, certain = certainty(scores[top.id], scores[bottom.id], trust)
            if weight > 0:
                chosen, rejected = (written(task, settings, d, len(top.seeds) + 1) for d in (top, bottom))
                found.append(Pair("question", prompt_of(teacher, task, settings, top), chosen, rejected, scores[top.id].score,
                                  scores[bottom.id].score, top.id, bottom.id, weight, certain, flag))  # fmt: skip
        return found

    later = made([d for d in ranked if d.id in apart], _of_these(count, held_out), flag=True)
    return made([d for d in ranked if d.id not in apart], count - len(later), flag=False) + later


def rationale_pairs(
    teacher: LM, task: Task, settings: Settings, drafts: Sequence[Draft], preferences: Sequence[Preference], count: int,
    *, strategies: Mapping[str, str] | None = None, held_out: float = 0.0,
) -> list[Pair]:  # fmt: skip
    """The best against the worst rationale of the same question by s_r, the widest gaps first; where that is less than `count`, any two
    rationales of a question follow. The prompt is the *naive* one, or with `strategies` the one that elicited the better.

    A rationale without an answer is never the better one, whatever its score: it was cut off, or teaches to give none. Weights, and
    what is `held_out`, are as for questions, of the same drafts.
    """
    by_id = {(p.draft, p.strategy): p for p in preferences}
    trust = reliability(preferences, seed=settings.seed, within={p.draft: p.draft for p in preferences})
    targeted = for_targets(task, settings)
    known = [d for d in drafts if any((d.id, r.strategy) in by_id for r in d.rationales)]
    apart = held_out_drafts(known, held_out, settings.seed, {d.id: d.target if targeted else "" for d in known})

    def made(draft: Draft, better: Rationale, worse: Rationale) -> Pair:
        high, low = by_id[draft.id, better.strategy], by_id[draft.id, worse.strategy]
        strategy = strategies[better.strategy] if strategies else naive(settings)
        prompt = rationale_prompt(teacher, task, settings, draft.input, draft.target, strategy)
        weight, certain = certainty(high, low, trust)
        return Pair("rationale", prompt, reasoned(task, settings, better), reasoned(task, settings, worse), high.score, low.score,
                    f"{draft.id}/{better.strategy}", f"{draft.id}/{worse.strategy}", weight, certain, draft.id in apart)  # fmt: skip

    first: list[Pair] = []
    rest: list[Pair] = []
    for draft in known:
        own = [made(draft, *two) for two in _two_rationales(draft, by_id)]
        first += own[:1]
        rest += own[1:]
    ordered = [p for part in (first, rest) for p in sorted(part, key=lambda p: (_gap(p), p.chosen_from)) if p.weight > 0]
    later = [p for p in ordered if p.held_out][: _of_these(count, held_out)]
    return [p for p in ordered if not p.held_out][: count - len(later)] + later


def held_out_drafts(drafts: Sequence[Draft], share: float, seed: int, groups: Mapping[str, Hashable]) -> frozenset[str]:
    """The ids of a share of the drafts, taken from every group as far as it goes: of a group two at least, or none. What a small group
    cannot give is carried over to the next one. Groups and drafts come in the order of their digests with the seed."""

    def order(what: Hashable) -> str:
        return digest("held out", seed, what)

    found: list[str] = []
    owed = 0.0
    for group in sorted(set(groups.values()), key=order):
        own = sorted((d.id for d in drafts if groups[d.id] == group), key=order)
        owed += share * len(own)
        take = min(round(owed), len(own))
        if take >= FEWEST_HELD_OUT:
            found += own[:take]
            owed -= take
    return frozenset(found)


def as_written(teacher: LM, task: Task, settings: Settings, drafts: Sequence[Draft]) -> list[tuple[str, str]]:
    """(prompt, completion) of every draft's question, and of its first rationale on the naive prompt, as alignment's pairs write them."""
    found: list[tuple[str, str]] = []
    for d in drafts:
        found.append((prompt_of(teacher, task, settings, d), written(task, settings, d, len(d.seeds) + 1)))
        for r in d.rationales[:1]:
            prompt = rationale_prompt(teacher, task, settings, d.input, d.target, naive(settings))
            found.append((prompt, reasoned(task, settings, r)))
    return found


def _in_turn(
    groups: Sequence[Sequence[Draft]], scores: Mapping[str, Preference], seed: int, *, extremes: bool
) -> Iterator[tuple[Draft, Draft]]:
    """Every two drafts of a group once, the higher first, in the order in which they become pairs; each group comes ranked."""

    def by_gap(pairs: Iterable[tuple[Draft, Draft]]) -> list[tuple[Draft, Draft]]:
        return sorted(pairs, key=lambda p: scores[p[1].id].score - scores[p[0].id].score)

    if extremes:
        first = by_gap(p for g in groups for p in zip(g[: len(g) // 2], reversed(g), strict=False))
    else:
        quarters = [(g, max(1, len(g) // 4)) for g in groups if g]
        first = [p for g, quarter in quarters for p in product(g[:quarter], g[-quarter:])]
        random.Random(seed_of(seed, "question pairs")).shuffle(first)
    halves = by_gap(p for g in groups for p in product(g[: len(g) // 2], g[-(len(g) // 2) :]) if len(g) > 1)
    everything = by_gap(p for g in groups for p in combinations(g, 2))
    seen: set[tuple[str, str]] = set()
    for top, bottom in (*first, *halves, *everything):
        if (top.id, bottom.id) not in seen:
            seen.add((top.id, bottom.id))
            yield top, bottom


def _two_rationales(draft: Draft, scores: Mapping[tuple[str, str], Preference]) -> list[tuple[Rationale, Rationale]]:
    """Every two rationales of a draft of which the higher one may be chosen, the widest gap first; the same two texts once."""
    scored = [r for r in draft.rationales if (draft.id, r.strategy) in scores]
    value = {r.strategy: scores[draft.id, r.strategy].score for r in scored}
    found = {
        (a.text, b.text): (a, b)
        for a, b in product(scored, scored)
        if a.answer is not None and a.text != b.text and value[a.strategy] > value[b.strategy]
    }
    return sorted(found.values(), key=lambda p: (value[p[1].strategy] - value[p[0].strategy], p[0].strategy, p[1].strategy))


def _of_these(count: int, share: float) -> int:
    """How many of `count` pairs are held out at most."""
    return min(max(1, round(count * share)), max(0, count - 1)) if share else 0


def _gap(pair: Pair) -> float:
    return pair.rejected_score - pair.chosen_score
