"""When to stop, and what to keep: what is held out is looked at while a training goes on, and the best point's weights are kept."""

from __future__ import annotations

from typing import Any

LOOKS = 16  # in a training that goes to its end


class Looks:
    """Looks at what `trainer.look()` finds of its held-out examples: before the first step, about `LOOKS` times after that, and at the
    end. Training stops after `patience` looks in a row that found no lower loss than the lowest, never before `min_steps`.

    The best point's trained weights are kept in the processor's memory: an adapter as it is; all weights in bfloat16 (`half`), as a
    checkpoint is saved. `curve` holds a point {step, loss, accuracy, margin} for each look, `best_step` the step of the lowest loss.
    """

    def __init__(self, trainer: Any, steps: int, min_steps: int, patience: int, *, half: bool) -> None:
        self.trainer = trainer
        self.every = max(1, round(steps / LOOKS))
        self.steps, self.min_steps, self.patience = steps, min_steps, patience
        self.half = half
        self.curve: list[dict[str, float]] = []
        self.best_step = 0
        self._weights: dict[str, Any] = {}
        self._without = 0  # looks since the lowest loss

    def at(self, step: int) -> bool:
        """Look after this step if it is time to; whether to stop."""
        import torch

        if step % self.every and step != self.steps:
            return False
        lowest = min((point["loss"] for point in self.curve), default=float("inf"))
        point = {"step": float(step), **self.trainer.look()}
        self.curve.append(point)
        self._without += 1
        if point["loss"] < lowest:
            self.best_step, self._without = step, 0
            for name, p in self._trained():  # one after the other: two copies of all weights need never be held
                self._weights[name] = p.detach().to("cpu", torch.bfloat16 if self.half else torch.float32, copy=True)
        return self._without >= self.patience and step >= self.min_steps

    def restore(self) -> None:
        """Give the model the best point's weights."""
        import torch

        with torch.no_grad():
            for name, p in self._trained():
                p.copy_(self._weights[name])

    def callback(self) -> Any:
        """What has a trainer of transformers look."""
        from transformers import TrainerCallback

        looks = self

        class Callback(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                looks.at(0)

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if looks.at(state.global_step):
                    control.should_training_stop = True

        return Callback()

    def _trained(self) -> list[tuple[str, Any]]:
        return [(name, p) for name, p in self.trainer.model.named_parameters() if p.requires_grad]

