"""Which of several teachers to ask: learned where all were asked, from what their answers were worth.

A stronger teacher can teach worse, and which one is best differs from question to question. PerSyn (arXiv 2510.10925) has a router
predict what each teacher's answer to a question would be worth; reinforced teacher selection (arXiv 2012.06048) has a policy choose,
learned by policy gradient. Asking one for all, or each as often, are what both have to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from edgearte.store import seed_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

How = Literal["router", "policy", "best", "uniform"]
FEATURES = 512  # of a question's text
RIDGE = 1.0
STEPS, RATE, DECAY = 300, 0.5, 0.01  # of the policy's ascent; decay keeps it from being sure of what few questions say


def rewards(right: Sequence[Sequence[float]], naturalness: Sequence[Sequence[float]], quality: float) -> list[list[float]]:
    """What each teacher's answer to a question is worth, questions x teachers, from 0 to 1: `quality` times how right it is (1 or 0 where
    that is known, else the assistant's trust), and the rest for how natural it is to the student among all these answers.

    PerSyn: 0.6 quality + 0.4 student likelihood. The likelihood is taken as its rank, since its size says little.
    """
    from scipy.stats import rankdata

    flat = [value for row in naturalness for value in row]
    places = iter((rankdata(flat) - 1) / max(len(flat) - 1, 1))
    return [[quality * r + (1 - quality) * float(next(places)) for r in row] for row in right]


def chosen(
    how: How, asked: Sequence[str], worth: Sequence[Sequence[float]], texts: Sequence[str], seed: int,
    counted: Sequence[Sequence[float]] = (),
) -> list[int]:  # fmt: skip
    """The teacher to ask, by number, for each of `texts`; learned from `worth` [questions, teachers] of what was `asked` of all. What the
    router predicts of a teacher counts as much as `counted` [texts, teachers] says, where that is known."""
    import random

    import numpy as np

    table = np.asarray(worth, float)
    teachers = table.shape[1]
    if how == "uniform":
        return [random.Random(seed_of(seed, "teacher", text)).randrange(teachers) for text in texts]
    best = int(table.mean(0).argmax())
    if how == "best" or not texts:
        return [best] * len(texts)
    scores = _predicted(asked, table, texts) if how == "router" else probabilities(asked, table, texts)
    if counted and how == "router":
        scores = scores.clip(min=0) * np.asarray(counted, float)
    # Where nothing tells them apart, the one that is best on the whole.
    return [best if row.max() - row[best] < 1e-9 else int(row.argmax()) for row in scores]


def _predicted(asked: Sequence[str], table: NDArray[np.float64], texts: Sequence[str]) -> NDArray[np.float64]:
    """The worth of every teacher's answer to each text, by ridge regression on the words of the questions."""
    from sklearn.linear_model import Ridge

    model = Ridge(alpha=RIDGE).fit(features(asked), table)
    found: NDArray[np.float64] = model.predict(features(texts))
    return found.reshape(len(texts), -1)


def probabilities(asked: Sequence[str], table: NDArray[np.float64], texts: Sequence[str]) -> NDArray[np.float64]:
    """The policy's probability of asking each teacher, [texts, teachers].

    pi(k | x) = softmax_k(x W + b), by gradient ascent on the expected reward J = mean over x of sum_k pi(k | x) r_k(x). Every teacher
    was asked about every x here, so the policy gradient sum_k pi_k (r_k - sum_j pi_j r_j) x is taken exactly; the paper samples it.
    """
    import numpy as np
    from scipy.special import softmax

    x = _with_one(features(asked))
    weights = np.zeros((x.shape[1], table.shape[1]))
    spread = table.std() or 1.0
    for _ in range(STEPS):
        policy = softmax(x @ weights, axis=1)
        advantage = (table - (policy * table).sum(1, keepdims=True)) / spread
        weights += RATE * (x.T @ (policy * advantage) / len(x) - DECAY * weights)
    found: NDArray[np.float64] = softmax(_with_one(features(texts)) @ weights, axis=1)
    return found


def features(texts: Sequence[str]) -> NDArray[np.float64]:
    """Words and pairs of words, hashed, each text of length 1: [texts, FEATURES]."""
    from sklearn.feature_extraction.text import HashingVectorizer

    made: Any = HashingVectorizer(n_features=FEATURES, ngram_range=(1, 2), token_pattern=r"\w+")
    found: NDArray[np.float64] = made.transform(list(texts)).toarray()
    return found


def _with_one(x: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    return np.hstack([x, np.ones((len(x), 1))])
