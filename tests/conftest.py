"""What all tests share: the hub is out of reach, and one tiny model is made for the whole session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("edgearte", deadline=None)  # no test is about time
settings.load_profile("edgearte")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny model's checkpoint."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("tiny-model")
    tiny.make(folder)
    return folder
