"""Device profiles: those of the catalogue, what is said of broken ones, and what they foretell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from edgearte import catalogue
from edgearte.cli import main
from edgearte.convert.presets import load_preset
from edgearte.device.command import targets
from edgearte.device.profile import load_device, parsed
from edgearte.device.reach import Unreachable, _prefix
from edgearte.errors import UserError
from edgearte.measure.roofline import Machine, Shape, foretell
from edgearte.recipe import Limits

SMOL = Shape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head=64, vocabulary=49152, tied=True)


@pytest.mark.parametrize("name", catalogue.names("devices"))
def test_every_device_of_the_catalogue_is_whole(name: str) -> None:
    device = load_device(name)
    assert device.name == name
    assert device.about
    Limits.model_validate(device.budget or {})
    if device.is_here:
        return
    assert device.architecture and device.cpu and device.cores and device.features and device.budget
    if not device.emulate:
        assert device.memory and device.bandwidth and device.bandwidth.source
        assert not device.addressed  # it is nobody's yet


def test_a_faster_device_is_foretold_to_be_faster_and_a_small_budget_of_its_own_can_be_met() -> None:
    boards = ("raspberry-pi-zero-2w", "raspberry-pi-4", "raspberry-pi-5", "jetson-orin-nano")
    found = [foretell(SMOL, load_preset("q4_0"), Machine.of_profile(load_device(b)), 128, 32) for b in boards]
    speeds = [f.decode_tps for f in found]
    assert speeds == sorted(speeds)
    for board, one in zip(boards, found, strict=True):
        allowed = Limits.model_validate(load_device(board).budget)
        assert one.first_token_s + 31 / one.decode_tps < (allowed.answer_s or 0)
        assert one.peak_memory_bytes < (allowed.memory or 0)


def profile(folder: Path, **said: Any) -> str:
    path = folder / "box.yaml"
    path.write_text(yaml.safe_dump({"name": "box", **said}))
    return str(path)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"reach": "ssh"}, ["the key address is missing", "the key architecture is missing"]),
        ({"reach": "ssh", "address": "a b", "architecture": "aarch64"}, ["user@host or user@host:port is wanted, not 'a b'"]),
        ({"reach": "ssh", "address": "-oProxyCommand=x", "architecture": "aarch64"}, ["is wanted, not '-oProxyCommand=x'"]),
        ({"reach": "adb", "address": "-x", "architecture": "aarch64"}, ["the serial number that `adb devices` shows is wanted"]),
        ({"reach": "adb", "address": "R5", "jump": "a@b", "architecture": "aarch64"}, ["jump: only ssh has one"]),
        ({"address": "pi@here"}, ["this machine has none"]),
        ({"reach": "telnet"}, ["reach must be 'local', 'ssh' or 'adb', not 'telnet'"]),
        ({"emulate": {"cpu": "cortex-a72"}, "architecture": "x86_64"}, ["what is emulated is aarch64"]),
        ({"emulate": {"core": "cortex-a72"}, "architecture": "aarch64"}, ["unknown key 'emulate.core'; known: cpu, root"]),
        ({"cores": "four", "thread": 2}, ["cores must be a whole number, not 'four'", "did you mean threads?"]),
        ({"memory": "much"}, ["memory"]),
        ({"bandwidth": {"gb_per_s": 0, "source": "x"}}, ["bandwidth.gb_per_s must be more than 0"]),
        ({"runtimes": []}, ["name one, llama.cpp or onnxruntime-genai"]),
        ({"name": "../x"}, ["name"]),
    ],
)
def test_a_broken_profile_is_refused_with_all_its_mistakes(said: dict[str, Any], told: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_device(profile(tmp_path, **said))
    for words in told:
        assert words in str(caught.value)
    assert "box.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "user", "host", "port"),
    [("pi@box", "pi", "box", ""), ("box:22", "", "box", "22"), ("a@[::1]:2200", "a", "::1", "2200"), ("alias", "", "alias", "")],
)
def test_addresses_are_told_apart(address: str, user: str, host: str, port: str) -> None:
    assert parsed(address) == (user, host, port)


def test_ssh_checks_host_keys_also_on_the_way_and_asks_nobody(tmp_path: Path) -> None:
    said = {"reach": "ssh", "address": "pi@box:2200", "jump": "me@gate", "identity": "~/key", "architecture": "aarch64"}
    command = _prefix(load_device(profile(tmp_path, **said)))
    (through,) = (part for part in command if part.startswith("ProxyCommand="))
    for strict in ("StrictHostKeyChecking=yes", "BatchMode=yes"):
        assert strict in command
        assert strict in through
    assert command[-6:] == ["-l", "pi", "-p", "2200", "--", "box"]
    assert "[%h]:%p" in through and "gate" in through and str(Path("~/key").expanduser()) in through


def test_devices_are_named_once_and_all_mistakes_are_said_at_once() -> None:
    assert [to.name for to in targets(["local,local", "local"])] == ["local"]
    assert [to.name for to in targets([])] == ["local"]
    with pytest.raises(UserError) as caught:
        targets(["nowhere, raspberry-pi-5"])
    assert "no devices entry called 'nowhere'" in str(caught.value)
    assert "raspberry-pi-5: its profile has no address yet" in str(caught.value)
    assert not isinstance(caught.value, Unreachable)


def test_adding_a_device_says_all_that_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", "add", "--name", "box"]) == 2
    said = capsys.readouterr().err
    assert "--reach is missing" in said and "--address is missing" in said
    assert main(["device", "add", "--name", "box", "--reach", "telnet", "--address", "x"]) == 2
    assert "by ssh or adb, not by 'telnet'" in capsys.readouterr().err
    assert main(["device", "clean", "local"]) == 2
    assert main(["device", "setup", "raspberry-pi-5"]) == 2
    assert "it is no emulated device" in capsys.readouterr().err
