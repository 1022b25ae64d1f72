"""What all tests share: the hub is out of reach, one tiny model is made for the whole session, and where several processes test side by
side (`make test`) each has cores of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("edgearte", deadline=None)  # no test is about time
settings.load_profile("edgearte")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if (worker := os.environ.get("PYTEST_XDIST_WORKER", "")) and hasattr(os, "sched_setaffinity"):
    # Threads of llama.cpp wait for each other by spinning: where two processes share a core, each is ten times slower.
    mine = sorted(os.sched_getaffinity(0))[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    os.sched_setaffinity(0, mine or os.sched_getaffinity(0))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model's checkpoint."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("tiny-model")
    tiny.make(folder)
    return folder
