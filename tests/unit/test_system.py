"""What tests need of the system: installed once where we may, else skipped by name, and failed on CI."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests import system


@pytest.fixture(autouse=True)
def nothing_tried() -> Iterator[None]:
    system.install.cache_clear()
    yield
    system.install.cache_clear()


def test_what_is_there_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("something was run"))
    system.need({"sh": "dash"})


@pytest.mark.parametrize(("ci", "outcome"), [("", pytest.skip.Exception), ("true", pytest.fail.Exception)])
def test_what_is_lacking_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="needs sshd, qemu-arm: apt-get install openssh-server qemu-user"):
        system.need({"sshd": "openssh-server", "qemu-arm": "qemu-user"})


def test_root_on_debian_installs_a_package_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> None:
        ran.append(command)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.delenv("CI", raising=False)
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception):
            system.need({"sshd": "a-package-of-nobody"})
    assert ran == [["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "a-package-of-nobody"]]
