"""The learning rate over a training: one schedule for all trainers, in which no step is taken at rate 0.

transformers' schedules give the first step of a warm-up and the one after the last step the rate 0, and round the warm-up's length up:
of three steps with 10 % warm-up, the first teaches nothing. Here the first step counts, and so does the last.
"""

from __future__ import annotations

import math
from typing import Any, Literal

Decay = Literal["linear", "cosine"]


def share(step: int, total: int, warmup: float, decay: Decay) -> float:
    """The share of the full learning rate at `step` (0 is the first) of `total`: above 0 at each of them.

    The first w = round(warmup * total) steps rise, (step + 1) / (w + 1); the step after them has the full rate, from which it falls
    in a line or half a cosine that would reach 0 one step after the last.
    """
    rising = round(warmup * total)
    if step < rising:
        return (step + 1) / (rising + 1)
    gone = min(1.0, (step - rising) / max(1, total - rising))
    return 1 - gone if decay == "linear" else (1 + math.cos(math.pi * gone)) / 2


def attach(trainer: Any, warmup: float, decay: Decay) -> None:
    """Have a trainer of transformers (any of TRL's) follow this schedule in place of its own."""
    from torch.optim.lr_scheduler import LambdaLR

    def create(num_training_steps: int, optimizer: Any = None) -> Any:
        rule = LambdaLR(optimizer or trainer.optimizer, lambda step: share(step, num_training_steps, warmup, decay))
        trainer.lr_scheduler = rule
        return rule

    trainer.create_scheduler = create
