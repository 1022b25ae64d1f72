"""The packaged recipes, as whoever copies one gets them."""

from __future__ import annotations

import pytest

from edgearte import catalogue
from edgearte.forecast import cut_off
from edgearte.load import load_recipe


@pytest.mark.parametrize("name", catalogue.names("recipes"))
def test_a_packaged_student_may_write_as_much_as_it_is_taught_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEARTE_DATA", "data")
    recipe = load_recipe(catalogue.find("recipes", name))
    assert recipe.name == name
    assert not cut_off(recipe)
