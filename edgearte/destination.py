"""The devices a recipe is for: how each is reached, what it allows, and what it is foretold to do with an artifact that is not made yet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgearte import budget
from edgearte.budget import Figures
from edgearte.convert.presets import load_preset
from edgearte.device.profile import Device, load_device
from edgearte.device.remote import Remote
from edgearte.errors import Problem, UserError
from edgearte.measure import roofline
from edgearte.measure.host import LOCAL, Target
from edgearte.measure.machine import cores, describe
from edgearte.measure.suite import Suite
from edgearte.recipe import Limits, Recipe
from edgearte.store import Store

OF_THE_EMULATOR = ("first_token_s", "answer_s", "memory")  # and not of the device that is emulated
MACHINE = ("cpu", "cores")  # what figures of this machine belong to


@dataclass(frozen=True)
class Destination:
    """A device of a recipe with what it allows."""

    device: Device
    limits: Limits
    target: Target

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def is_here(self) -> bool:
        return self.target is LOCAL

    @property
    def emulated(self) -> bool:
        """Whether its times mean nothing."""
        return self.device.emulate is not None

    @property
    def identity(self) -> dict[str, Any]:
        """What figures taken there belong to, in the store."""
        here = {k: v for k, v in describe().items() if k in MACHINE}
        return here if self.is_here else asdict(self.device)

    @property
    def limited(self) -> bool:
        return self.limits != Limits()


def destinations(recipe: Recipe) -> tuple[Destination, ...]:
    """The recipe's devices, this machine where it names none. `UserError` with everything that is wrong with them."""
    found, problems = [], []
    for name, limits in (recipe.devices or {"local": Limits()}).items():
        try:
            device = load_device(name)
            usual = {**(device.budget or {}), **limits.model_dump(exclude_unset=True)}  # what the recipe says goes before the profile's
            found.append(Destination(device, Limits.model_validate(usual), LOCAL if device.is_here else Remote(device)))
        except UserError as error:
            problems += [Problem(f"devices.{name}: {p.message}", p.where) for p in error.problems]
        except ValidationError as error:
            problems += [Problem(f"devices.{name}: the budget of its profile: {e['msg']} ({e['loc'][0]})") for e in error.errors()]
    problems += [
        Problem(f"devices.{to.name}.{name}: time and memory mean nothing on an emulated device; limit size or accuracy there")
        for to in found for name in OF_THE_EMULATOR if to.emulated and getattr(to.limits, name) is not None
    ]  # fmt: skip
    if problems:
        raise UserError(problems)
    return tuple(found)


def foretold(
    checkpoint: Path, names: Sequence[str], to: Sequence[Destination], suite: Suite, threads: int, store: Store
) -> dict[str, dict[str, Figures]]:
    """What the artifacts of a student will do on each device, by device and preset, before they are made; `threads` 0 means the device's
    own. A student of an unknown shape gets no figures."""
    try:
        shape = roofline.Shape.of_config(json.loads((checkpoint / "config.json").read_text("utf-8")))
    except (OSError, ValueError, KeyError):
        return {}
    presets = [load_preset(name) for name in names]
    found: dict[str, dict[str, Figures]] = {}
    for one in to:
        own = one.device.threads or (cores() if one.is_here else one.device.cores)
        machine = _machine(one, threads or suite.threads or own, store)
        found[one.name] = {
            p.name: budget.foretold(
                roofline.foretell(shape, p, machine, suite.prompt_tokens, suite.new_tokens), suite.new_tokens
            )
            for p in presets
        }
    return found


def _machine(to: Destination, threads: int, store: Store) -> roofline.Machine:
    """What the device can do: of this machine found out by a probe, of others as their profile says."""
    if not to.is_here:
        return roofline.Machine.of_profile(to.device)
    said = store.value("probe", 3, {**to.identity, "threads": threads}, lambda: _probed(threads), label="probe this machine")
    return roofline.Machine.of_probe(said)


def _probed(threads: int) -> dict[str, Any]:
    (told,) = (r for r in LOCAL.records({"kind": "probe", "threads": threads, "artifact": "this machine"}, 300) if r["kind"] == "probe")
    return told


def impossible(to: Sequence[Destination], found: Mapping[str, Mapping[str, Figures]], parameters: int) -> list[Problem]:
    """Budgets that no artifact of the student can meet, with the limit that binds and what would do."""
    problems = []
    for one in to:
        if bound := budget.binding(one.limits, found.get(one.name, {})):
            worst, preset = bound
            problems.append(
                Problem(
                    f"devices.{one.name}.{worst.limit}: no artifact of this student can meet it: "
                    f"{budget.spoken(worst.limit, worst.allowed)} allowed, and {preset}, which comes nearest, is foretold to take "
                    f"{budget.spoken(worst.limit, worst.found)}; "
                    + budget.would_do(worst, preset, parameters)
                )
            )
    return problems
