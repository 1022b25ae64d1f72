"""The gates between a checkpoint and an artifact: pure comparisons of what both said, with the evidence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgearte.convert.presets import Preset
from edgearte.convert.reference import CONVERSATIONS, Reference
from edgearte.records import Gate

EXAMPLES = 5
TURNED = 1.0


def tokens_gate(reference: Reference, ids: Sequence[list[int]]) -> Gate:
    """Every ordinary string must become the same ids; differences on others (see `reference.ordinary`) are counted."""
    differing = [i for i, mine in enumerate(ids) if mine != reference.ids[i]]
    wrong = [i for i in differing if reference.plain[i]]
    fringe = [i for i in differing if not reference.plain[i]]
    ordinary = sum(reference.plain)
    examples = [_example(reference.strings[i], reference.ids[i], ids[i]) for i in (wrong or fringe)[:EXAMPLES]]
    evidence = {
        "strings": len(ids),
        "ordinary": ordinary,
        "differing_ordinary": len(wrong),
        "differing_other": len(fringe),
        "by_kind": dict(Counter(reference.strings[i][0] for i in differing)),
        "examples": examples,
    }
    summary = f"{len(wrong)} of {ordinary} ordinary strings have other token ids than in the checkpoint"
    if wrong:
        summary += f", first {reference.strings[wrong[0]][1]!r}"
    if fringe:
        rest = len(ids) - ordinary
        summary += f"; {len(fringe)} of {rest} with control, unassigned or unnormalized characters differ too"
    return Gate("tokens", not wrong, summary, evidence)


def _example(string: tuple[str, str], ours: list[int], theirs: list[int]) -> dict[str, Any]:
    first = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    near = slice(max(0, first - 1), first + 4)
    return {"kind": string[0], "text": string[1], "at": first, "checkpoint": ours[near], "artifact": theirs[near]}


def template_gate(reference: Reference, rendered: Sequence[str | None]) -> Gate:
    """Conversations that the checkpoint's template renders must come out the same from the artifact's copy."""
    known = [i for i, text in enumerate(reference.templates) if text is not None]
    if not known:
        found = [i for i, text in enumerate(rendered) if text is not None]
        said = "; the artifact has one all the same" if found else ", nor has the artifact"
        return Gate("template", not found, "the checkpoint has no chat template" + said, {"conversations": 0})
    wrong = [i for i in known if rendered[i] != reference.templates[i]]
    evidence: dict[str, Any] = {"conversations": len(known), "differing": len(wrong)}
    if wrong:
        i = wrong[0]
        both = {"checkpoint": reference.templates[i], "artifact": rendered[i]}
        evidence["example"] = {"messages": CONVERSATIONS[i][0], **both}
    summary = f"{len(wrong)} of {len(known)} conversations are not rendered as by the checkpoint's chat template"
    if wrong and rendered[wrong[0]] is None:
        summary += "; the artifact's template is missing or cannot be rendered"
    return Gate("template", not wrong, summary, evidence)


def eos_gate(reference: Reference, answer: dict[str, Any]) -> Gate:
    """The ids agree, the runtime's own test knows each EOS, and answers that end in the checkpoint end in the artifact.

    An artifact may say a little more first (quantization shifts near-ties), but in half of the cases it must stop, and
    it must never go on past an EOS of the checkpoint.
    """
    declared, stops = answer["declared"], answer["stops"]
    allowed = {*reference.eos, reference.tokenizer_eos}
    endings = answer["endings"]
    stopped = sum(e["stopped"] and e["said"][-1] in allowed for e in endings)
    ran_past = sum(bool(set(e["said"][:-1] if e["stopped"] else e["said"]) & set(reference.eos)) for e in endings)
    evidence = {
        "checkpoint_eos": reference.eos,
        "checkpoint_bos": reference.bos,
        "artifact": declared,
        "prompts_tried": reference.prompts_tried,
        "ended_in_checkpoint": len(endings),
        "ended_in_artifact": stopped,
        "ran_past_eos": ran_past,
    }
    faults = []
    if not set(declared.get("eos", [])) <= allowed or (reference.eos and not declared.get("eos")):
        faults.append(f"its EOS is {declared.get('eos') or 'not set'}, the checkpoint's {reference.eos}")
    if not set(declared.get("bos", [])) <= set(reference.bos):
        faults.append(f"its BOS is {declared['bos']}, the checkpoint's {reference.bos or 'not set'}")
    if not all(stops):
        missed = [token for token, known in zip(reference.eos, stops, strict=True) if not known]
        faults.append(f"its runtime does not stop at {missed}")
    if ran_past:
        faults.append(f"it went on past EOS in {ran_past} of {len(endings)} answers")
    if 2 * stopped < len(endings):
        faults.append(f"only {stopped} of {len(endings)} finished answers of the checkpoint end in it")
    if faults:
        return Gate("eos", False, "; ".join(faults), evidence)
    if not endings:
        tried = reference.prompts_tried
        why = f"none of {tried} prompts ended in the checkpoint" if tried else "no prompts given"
        return Gate("eos", True, f"EOS {reference.eos} agrees; ids only, {why}", evidence)
    return Gate("eos", True, f"EOS {reference.eos} agrees and stops {stopped} of {len(endings)} answers", evidence)


def batch_gate(reference: Reference, answers: Sequence[Sequence[tuple[int, float]]]) -> Gate:
    """Prompts of several lengths are answered in one batch as each is alone: no token up to the end may be one that the prompt alone makes
    `TURNED` nats less likely than another. (Kernels sum a batch in another order, and where words nearly tie another one is taken.)"""
    ends = {*reference.eos, reference.tokenizer_eos}
    worst = [max((nats for _, nats in _to_the_end(answer, ends)), default=0.0) for answer in answers]
    wrong = sum(nats > TURNED for nats in worst)
    evidence = {"lengths": [len(ids) for ids in reference.together], "nats": worst}
    summary = f"{wrong} of {len(worst)} prompts are answered otherwise in a batch than alone (by up to {max(worst, default=0.0):.2f} nats)"
    return Gate("batch", not wrong, summary, evidence)


def _to_the_end(answer: Sequence[tuple[int, float]], ends: set[int | None]) -> Sequence[tuple[int, float]]:
    stop = next((i for i, (token, _) in enumerate(answer) if token in ends), len(answer))
    return answer[: stop + 1]


def logits_gate(preset: Preset, measured: dict[str, Any]) -> Gate:
    """Mean KL divergence (checkpoint‖artifact, nats) and top-1 agreement against the preset's thresholds."""
    if fault := _unlike(measured):
        return Gate("logits", False, fault, measured)
    kl, top1 = measured["kl"], measured["top1"]
    summary = (
        f"KL {kl:.4f} nats (at most {preset.max_kl:g}), the same first choice at {top1:.3f} "
        f"(at least {preset.min_top1:g}) of {measured['positions']} positions"
    )
    evidence = {**measured, "max_kl": preset.max_kl, "min_top1": preset.min_top1}
    return Gate("logits", kl <= preset.max_kl and top1 >= preset.min_top1, summary, evidence)


def long_gate(preset: Preset, measured: dict[str, Any]) -> Gate:
    """The same KL far into one long text, where positions that are turned wrongly or forgotten show first. First choices are not judged: a
    model that reads one text over and over may be torn between many words."""
    if fault := _unlike(measured):
        return Gate("long", False, fault, measured)
    kl = measured["kl"]
    summary = f"KL {kl:.4f} nats (at most {preset.max_kl:g}) over the last {measured['positions']} positions of a long text"
    return Gate("long", kl <= preset.max_kl, summary, {**measured, "max_kl": preset.max_kl})


def _unlike(measured: dict[str, Any]) -> str:
    """Why two models cannot be compared, if they cannot."""
    if "vocabulary" in measured:
        ours, theirs = measured["vocabulary"]
        return f"the checkpoint has {ours} logits a position, the artifact {theirs}"
    if "not_finite" in measured:
        return f"{measured['not_finite']} of {measured['positions']} positions have logits that are no numbers"
    return ""
