"""How figures are written for people: the same in the report, the terminal and the plots."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from edgearte.budget import spoken
from edgearte.records import Accuracy, Artifact, Moved, Spread
from edgearte.report.result import Alignment, ArtifactResult, Closing, EndpointUse, Result, TurnResult

DASH = "–"
FEW = 8  # held-out pairs: with fewer of them all can be the right way round by chance
# Control characters have no picture in HTML and some are not allowed in it: show their symbols instead.
_CONTROLS = {c: 0x2400 + c for c in range(32) if chr(c) not in "\t\n\r"} | {0x7F: 0x2421}


def visible(text: str) -> str:
    """The text with its control characters made visible and without half surrogates, which no file can hold."""
    return text.translate(_CONTROLS).encode("utf-8", "replace").decode("utf-8")


def number(value: float | None, digits: int = 2) -> str:
    """A plain number; a dash where there is none."""
    return DASH if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits and no exponent in the usual range."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{value:.{max(decimals, 0)}f}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return DASH if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.{digits}f} %"


def points(fraction: float) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    return DASH if not math.isfinite(fraction) else f"{100 * fraction:+.1f}".replace("-", "−")


def interval(accuracy: Accuracy) -> str:
    return f"{100 * accuracy.low:.1f} {DASH} {100 * accuracy.high:.1f} %"


def endpoint(use: EndpointUse) -> str:
    """What a teacher behind an endpoint was asked and took, in a line."""
    money = f", {use.money:.4f} of money at the recipe's prices" if use.money else ""
    more = [f"{count(n)} {what}" for n, what in ((use.failed, "failed attempts"), (use.lost, "calls lost in flight")) if n]
    return (
        f"{use.model} at {use.url}: {count(use.calls)} calls, {count(use.new)} of them new; {count(use.tokens_read)} tokens read, "
        f"{count(use.tokens_written)} written{money}" + "".join(f"; {m}" for m in more)
    )


def pairs(alignment: Alignment) -> str:
    """The pairs of an alignment, and how many are more than noise."""
    total = alignment.question_pairs + alignment.rationale_pairs
    return (
        f"{count(alignment.question_pairs)} question pairs and {count(alignment.rationale_pairs)} rationale pairs; "
        f"{count(alignment.certain)} of the {count(total)} have a gap beyond the noise of their scores, the others count less."
    )


def held_out(alignment: Alignment) -> str:
    """What the pairs that were not learned from said."""
    first = alignment.looks[0]
    best = min(alignment.looks, key=lambda look: look.loss)
    kept = "nothing was gained on them, so the teacher stays as it was" if not best.step else f"step {best.step} was kept"
    return (
        f"{count(alignment.held_out)} pairs were held out: {percent(best.accuracy, 0)} of them the right way round after alignment, "
        f"loss {number(first.loss, 3)} → {number(best.loss, 3)}, margin {number(best.margin, 3)}; {kept}."
        + (" So few pairs can turn by chance." if alignment.held_out < FEW else "")
    )


def moved(found: Moved) -> str:
    """How far the teacher moved, and what its questions look like now."""
    by = f"by {number(found.divergence, 3)} nats a token" if found.divergence > 0 else "by no more than the noise of its estimate"
    return (
        f"The teacher moved {by} (KL to its start, over {count(found.tokens)} tokens of its own). "
        f"Its questions have {number(found.words, 1)} words ({number(found.words_before, 1)} before), are unlike each other by "
        f"{percent(found.diversity, 0)} ({percent(found.diversity_before, 0)}), and {percent(found.distinct, 0)} of their word pairs are "
        f"different ones ({percent(found.distinct_before, 0)})."
    )


def p_value(p: float) -> str:
    return DASH if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def size(count: float | None) -> str:
    """Bytes in decimal units, as disks and shops count them."""
    if count is None or not math.isfinite(count):
        return DASH
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{significant(count / factor)} {unit}"
    return f"{count:.0f} B"


def count(value: int) -> str:
    """An integer with its thousands apart."""
    return f"{value:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """Seconds as a person would say them."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 1:
        return f"{significant(1000 * seconds)} ms"
    if seconds < 90:
        return f"{significant(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def extremes(value: Spread, scale: float = 1.0) -> str:
    """The lowest and highest run of a repeated measurement; nothing where there was one."""
    if value.runs < 2:
        return ""
    return f"{significant(scale * value.low)} {DASH} {significant(scale * value.high)}"


def kl(artifact: Artifact) -> float | None:
    """KL divergence from the checkpoint in nats, as the logits gate found it."""
    return artifact.distance("kl")


def top1(artifact: Artifact) -> float | None:
    """Share of positions where artifact and checkpoint agree on the most likely token."""
    return artifact.distance("top1")


def evidence(value: Any) -> str:
    """A figure or a short list of a gate's evidence; empty for what needs a place of its own."""
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return (
            "" if any(isinstance(v, dict | list | tuple) for v in value) else ", ".join(map(evidence, value)) or "none"
        )
    return "" if isinstance(value, dict) else str(value)


def first_line(text: str) -> str:
    """The first line of a message that may carry a tool's whole output."""
    return text.strip().split("\n", 1)[0][:300]


def chosen(result: Result) -> ArtifactResult | None:
    """The artifact the build decided for."""
    preset = result.decision.preset if result.decision else ""
    return next((a for a in result.artifacts if preset and a.artifact.preset == preset), None)


def deployed(result: Result) -> str:
    """The label of the model that the artifacts are: the one asked through a preset."""
    return next((row.model for row in result.accuracy if row.where != "checkpoint"), "")


def answer_seconds(item: ArtifactResult) -> float | None:
    """Seconds from prompt to the end of the measured answer: the first token, then the others at the decoding rate."""
    m = item.measurement
    if m is None or not m.decode_tps.median > 0:
        return None
    return m.first_token_s.median + max(m.new_tokens - 1, 0) / m.decode_tps.median


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Nested dictionaries as dotted keys with plain values."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        yield key, ", ".join(str(v) for v in value)
    elif value not in (None, ""):
        yield key, str(value)


DOUBTS = {"consistency": "the student's answers differed most", "student": "the assistant doubted the student's answer most"}


def doubts(signals: Sequence[str]) -> str:
    """What chose the questions the teacher was asked."""
    return " and ".join(text for signal, text in DOUBTS.items() if signal in signals) or "chance took them too"


def budgets(limits: dict[str, Any]) -> str:
    """A device's limits in a line."""
    said = []
    if floor := limits.get("accuracy"):
        least, less = floor.get("threshold"), floor.get("max_degradation")
        said.append(f"accuracy at least {least:.0%}" if least is not None else f"accuracy at most {less:.0%} below the student's")
    said += [f"{name} at most {spoken(name, value)}" for name, value in limits.items() if name not in ("accuracy", "questions")]
    return "; ".join(said) or "none"


def turns(closing: Closing) -> list[tuple[str, TurnResult, str]]:
    """The turns of a closed loop, each with what it is called and what was done."""
    found, number = [], 0
    for turn in closing.turns:
        match turn.kind:
            case "first":
                done = f"the student of {turn.arm}, taught with {turn.examples} examples"
            case "cure":
                done = f"other presets of the same student: {turn.why}"
            case _:
                number += 1
                done = (
                    f"{turn.deployed}, as it is deployed, was asked what teaches it, and seeds were drawn towards the {turn.failed} it "
                    f"failed at; {turn.pairs} pairs came of it, and {turn.arm} was taught with {turn.examples} examples in all: {turn.why}"
                )
        found.append(({"first": "First", "cure": "Cure"}.get(turn.kind, f"New round {number}"), turn, done))
    return found


def figure(name: str, value: float | None) -> str:
    """A figure of an artifact on a device."""
    return DASH if value is None else spoken(name, value)


def error(foretold: float | None, measured: float | None) -> str:
    """By how much what was foretold is off, in percent of what was measured."""
    return DASH if not foretold or not measured else f"{foretold / measured - 1:+.0%}"
