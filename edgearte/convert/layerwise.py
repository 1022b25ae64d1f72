"""A checkpoint rounded layer after layer, each for the inputs that it meets behind the layers rounded before it (GPTQ, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgearte.child import ChildFailed
from edgearte.convert import gptq
from edgearte.convert.calibrate import windows
from edgearte.convert.gptq import Rounded

if TYPE_CHECKING:
    import torch

TOKENS = 16_384  # of each kind of text; what is longer is cut off


def quantized(
    checkpoint: Path, texts: Sequence[str], general: Sequence[str], share: float, levels: tuple[int, ...]
) -> dict[str, Rounded]:
    """Every linear layer rounded to these levels, by its name in transformers, the output layer included; the inputs are those of the
    `texts`, and of `general` ones that count `share` (0 to 1). Layers whose rows `gptq.BLOCK` does not divide are left out.

    Raises `ChildFailed` for an architecture whose decoder layers do not come one behind the other.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(checkpoint), local_files_only=True)
    read = _weighed(windows(tokenizer, texts, TOKENS), 1 - share)
    read += _weighed(windows(tokenizer, general, TOKENS), share) if share else []
    model: Any = AutoModelForCausalLM.from_pretrained(str(checkpoint), local_files_only=True, dtype=torch.float32).eval()
    layers, norm, head = (getattr(model.base_model, "layers", None), getattr(model.base_model, "norm", None), model.get_output_embeddings())
    if layers is None or norm is None:
        raise ChildFailed(f"{model.config.model_type}: its decoder layers cannot be run one by one, as GPTQ does")
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, Rounded] = {}
    with torch.no_grad():
        inputs = [(_entering(model, layers[0], window), weight) for window, weight in read]
        for layer in layers:
            for group in _groups(layer, inputs[0][0]):
                hessian = _hessian(group[0], layer, inputs)
                for linear in (m for m in group if m.in_features % gptq.BLOCK == 0):
                    found[names[linear]] = gptq.rounded(linear.weight, hessian, levels)
                    linear.weight.copy_(found[names[linear]].weight(levels))
            inputs = [(((_hidden(layer(*args, **kwargs)), *args[1:]), kwargs), weight) for (args, kwargs), weight in inputs]
            layer.to("meta")  # done with: its memory is given back
        if head.in_features % gptq.BLOCK == 0:
            inputs = [(((norm(args[0]),), {}), weight) for (args, _), weight in inputs]
            found[names[head]] = gptq.rounded(head.weight, _hessian(head, head, inputs), levels)
    return found


Given = tuple[tuple[Any, ...], dict[str, Any]]


def _weighed(read: Sequence[list[int]], share: float) -> list[tuple[list[int], float]]:
    """Each window with what a token of it counts."""
    tokens = sum(map(len, read))
    return [(window, share / tokens) for window in read]


class _Entered(Exception):
    pass


def _entering(model: Any, first: Any, window: Sequence[int]) -> Given:
    """What the first layer is given for these tokens."""
    import torch

    return _met(first, partial(model, torch.tensor([window]), use_cache=False))


def _met(module: Any, run: Callable[[], Any]) -> Given:
    """What `module` is given in this run, which ends there."""
    met: list[Given] = []

    def stop(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        met.append((args, kwargs))
        raise _Entered

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Entered:
        return met[0]
    finally:
        handle.remove()
    raise RuntimeError("this module was not met")


def _groups(layer: Any, given: Given) -> list[list[Any]]:
    """The layer's linear layers in the order they work, those together that read the same."""
    import torch

    groups: list[tuple[Any, list[Any]]] = []

    def met(module: Any, args: tuple[Any, ...]) -> None:
        for read, group in groups:
            if read is args[0]:
                group.append(module)
                return
        groups.append((args[0], [module]))

    handles = [m.register_forward_pre_hook(met) for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    layer(*given[0], **given[1])
    for handle in handles:
        handle.remove()
    return [group for _, group in groups]


def _hessian(linear: Any, within: Callable[..., Any], inputs: Sequence[tuple[Given, float]]) -> torch.Tensor:
    """The mean of x x^T over what `linear` reads as the module that it is `within` is run on the inputs, each with its weight. It is run
    as far as there: what comes after would be thrown away, and takes most of the time."""
    import torch

    total = torch.zeros(linear.in_features, linear.in_features)
    for (args, kwargs), weight in inputs:
        (given, *_), _ = _met(linear, partial(within, *args, **kwargs))
        x = given.flatten(0, -2)
        total.addmm_(x.T, x, alpha=weight)
    return total


def _hidden(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output
