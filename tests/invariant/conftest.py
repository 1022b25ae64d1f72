"""Whole builds are made with a tiny model that drafts and answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fluent-model")
    tiny.make(folder, fluent=True)
    return folder
