"""What each example is worth to the student, as the weight of its loss.

Learning to reweight with deep interactions (arXiv 2007.04649) has the student's own internal states tell a teacher what weight to give
an example, learned by meta-gradients on a validation set. Here the meta-gradient is taken as what it says: what one step on the
example does to the loss on the preference questions (`arte/influence.py`), for every example, or for some, from which a small scorer
over the student's states tells the others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from edgearte.store import seed_of

SHARE, LEAST = 1 / 3, 8  # of the examples whose influence is measured, where a scorer tells the others; and at least so many


def rectified(worth: Sequence[float]) -> list[float]:
    """Weights of mean 1, in proportion to what is above nothing: an example that harms counts nothing (Ren et al. 2018, arXiv 1803.09050,
    formula 7). All alike where none helps: then nothing can be told."""
    above = [max(w, 0.0) for w in worth]
    total = sum(above)
    return [w * len(above) / total for w in above] if total else [1.0] * len(above)


def measured(count: int, seed: int) -> list[int]:
    """Which examples a scorer is learned on."""
    wanted = min(count, max(LEAST, round(SHARE * count)))
    return sorted(random.Random(seed_of(seed, "scorer")).sample(range(count), wanted))


def scored(states: Sequence[Sequence[float]], known: Mapping[int, float]) -> list[float]:
    """The worth of every example, [examples], from the student's states of them [examples, width] and the worth of those where it is
    `known`: as it is known, else by ridge regression on the states, as strict as leaving one out finds best."""
    import numpy as np
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    places = list(known)
    if len(places) == len(states):
        return [known[k] for k in range(len(states))]
    model: Any = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 5, 13)))
    table = np.asarray(states, float)
    told = model.fit(table[places], [known[k] for k in places]).predict(table)
    return [known.get(k, float(told[k])) for k in range(len(states))]
