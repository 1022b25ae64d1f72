"""Devices that are reached: a real sshd on loopback, and the real adb client before a stand-in for its server."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from edgearte.cli import main
from edgearte.device.profile import load_device
from edgearte.device.reach import Unreachable
from edgearte.device.remote import Remote
from edgearte.measure.host import Unusable, answer, measure
from edgearte.measure.suite import Suite
from tests import fake_adb, sshd, tiny
from tests.cutting import cutting
from tests.system import need

pytestmark = pytest.mark.integration
SUITE = Suite(name="tiny", about="", prompt_tokens=24, new_tokens=6, repeats=2, warmups=1)
ASKED = ("The capital of France is", "Bees make", "Two and two are", "Snow is")
PROMPTS = [{"text": text, "prefix": "Answer in a word. "} for text in ASKED]
LONG = [{"text": f"Write about the number {n}."} for n in range(14)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Server]:
    need({"cmake": "cmake", "c++": "g++"})
    with sshd.running(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def said(to: Remote, prompts: list[dict[str, str]] = PROMPTS, tokens: int = 10) -> list[dict[str, Any]]:
    """What SmolLM2-135M answers on a device."""
    return answer(tiny.smollm2(), "llama.cpp", prompts, max_tokens=tokens, stop=["\n"], threads=1, target=to)


def said_here(together: bool) -> list[dict[str, Any]]:
    """What it answers here. Rows side by side may differ from rows one by one in a near-tie: the static program writes one by one."""
    rows = [PROMPTS] if together else [[p] for p in PROMPTS]
    return [a for some in rows for a in answer(tiny.smollm2(), "llama.cpp", some, max_tokens=10, stop=["\n"], threads=1)]


def left(home: Path) -> list[Path]:
    """What is left of jobs on the device."""
    return list((home / "jobs").iterdir())


def until(condition: Any, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def harnesses(home: Path) -> list[psutil.Process]:
    """The harness's processes of a device."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        if str(home) in line or "supervise.sh" in line:
            found.append(process)
    return found


@pytest.mark.parametrize("harness", ["native", "python"])
def test_a_device_over_ssh_answers_and_measures_as_this_machine_does(server: sshd.Server, harness: str) -> None:
    to = Remote(load_device(str(server.profile(harness=harness, python=sys.executable))))
    assert said(to) == said_here(together=harness == "python")
    found = measure(tiny.smollm2(), "llama.cpp", SUITE, name="q", threads=1, target=to)
    assert (found.device, found.suite, found.threads, found.decode_tps.runs) == ("box", "tiny", 1, 2)
    assert found.steady_memory_bytes <= found.peak_memory_bytes
    assert found.peak_memory_bytes > 50e6
    assert found.file_bytes == tiny.smollm2().stat().st_size
    assert until(lambda: not left(server.home), 10)


def test_nothing_is_pushed_twice(server: sshd.Server) -> None:
    to = Remote(load_device(str(server.profile())))
    said(to, PROMPTS[:1], 2)
    again = Remote(load_device(str(server.profile())))
    said(again, PROMPTS[:1], 2)
    assert again.store.pushed == 0


def test_a_connection_that_is_cut_again_and_again_loses_and_repeats_nothing(server: sshd.Server) -> None:
    """While the artifact is pushed, while the job is started, while answers come."""
    to = Remote(load_device(str(server.profile())))
    whole = said(to, LONG, 24)
    to.store.clean()
    to = Remote(load_device(str(server.profile())))
    assert to.store.pushed == 0
    job = {"kind": "answer", "artifact": str(tiny.smollm2()), "runtime": "llama.cpp", "threads": 1, "prompts": LONG,
           "max_tokens": 24, "stop": ["\n"]}  # fmt: skip
    records, seen = list[dict[str, Any]](), list[int]()
    with cutting(server.cut, 0.4, 2.5) as cuts:
        for record in to.records(job, None):
            records.append(record)
            seen.append(record["index"])
            time.sleep(0.1)  # a slow reader meets more cuts
    assert seen == list(range(len(LONG)))
    assert [{k: r[k] for k in whole[0]} for r in records] == whole
    assert sum(cuts) >= 3
    assert until(lambda: not left(server.home), 15)


def test_a_host_that_is_gone_leaves_no_process_and_no_job(server: sshd.Server) -> None:
    to = Remote(load_device(str(server.profile())), lease_s=3)
    job = {"kind": "answer", "artifact": str(tiny.smollm2()), "runtime": "llama.cpp", "threads": 1, "prompts": LONG * 20,
           "max_tokens": 60, "stop": []}  # fmt: skip
    running = to.records(job, None)
    next(running)
    assert harnesses(server.home)
    to._shell._prefix = ["false"]  # from here on, this host reaches nothing
    server.cut()
    assert until(lambda: not harnesses(server.home) and not left(server.home), 25)
    del running


def test_a_broken_artifact_is_told_of_and_leaves_nothing(server: sshd.Server, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.smollm2().read_bytes()[:1_000_000])
    with pytest.raises(Unusable, match=f"{cut}: llama.cpp cannot load this file"):
        answer(cut, "llama.cpp", PROMPTS, max_tokens=2, stop=[], target=Remote(load_device(str(server.profile()))))
    assert until(lambda: not left(server.home), 10)


def test_what_takes_too_long_is_ended_there(server: sshd.Server) -> None:
    to = Remote(load_device(str(server.profile())))
    slow = Suite(name="slow", about="", prompt_tokens=1000, new_tokens=900, repeats=5, warmups=0)
    with pytest.raises(Unusable, match="not done on box within 3 s"):
        measure(tiny.smollm2(), "llama.cpp", slow, name="q", threads=1, timeout_s=3, target=to)
    assert until(lambda: not harnesses(server.home) and not left(server.home), 15)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"known_hosts": "/dev/null"}, "its host key is not known here"),
        ({"identity": "stranger"}, "it does not take this user with this key"),
        ({"address": "root@127.0.0.1:9"}, "no ssh server answers there"),
        ({"address": "pi@?"}, "its profile has no address yet"),
        ({"adress": "x"}, "did you mean address?"),
        ({"runtimes": ["onnxruntime-genai"]}, "needs llama.cpp, and the profile of box names onnxruntime-genai"),
    ],
)
def test_what_keeps_a_device_from_being_reached_is_one_message(
    server: sshd.Server, changes: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if changes.get("identity") == "stranger":
        changes = {"identity": str(server.folder / "stranger")}
    assert main(["bench", str(tiny.smollm2()), "--device", str(server.profile(**changes)), "--suite", "short"]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said


def test_a_device_is_added_listed_and_cleaned(
    server: sshd.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    known = {"reach": "ssh", "address": load_device(str(server.profile())).address, "identity": str(server.folder / "me")}
    asked = [part for key, value in known.items() for part in (f"--{key}", value)]
    assert main(["device", "add", "--name", "box", *asked, "--known-hosts", str(server.folder / "known")]) == 0
    found = load_device("box")
    assert (found.architecture, found.harness) == ("x86_64", "native")
    assert found.cores >= 1
    assert found.memory is not None
    assert found.memory > 1e9
    assert main(["device", "add", "--name", "box", *asked]) == 2
    assert "exists already" in capsys.readouterr().err
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["ls", "devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("box" in line and line.rstrip().endswith("yes") for line in lines)
    assert any("raspberry-pi-5" in line and "no address yet" in line for line in lines)
    assert (server.home / "blobs").is_dir()
    assert main(["device", "clean", "box"]) == 0
    assert not server.home.exists()


def test_a_phone_over_adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    need({"adb": "adb", "cmake": "cmake", "c++": "g++"})
    from edgearte.measure.machine import describe

    profile = tmp_path / "phone.yaml"
    profile.write_text(json.dumps({"name": "phone", "reach": "adb", "address": "R5CT", "architecture": "x86_64", "threads": 1,
                                   "features": describe()["features"]}))  # fmt: skip
    with fake_adb.running("R5CT", tmp_path / "data") as adb:
        monkeypatch.setenv("ADB_SERVER_SOCKET", f"tcp:127.0.0.1:{adb.port}")
        to = Remote(load_device(str(profile)))
        assert said(to) == said_here(together=False)
        assert until(lambda: not left(tmp_path / "data"), 10)
        found = measure(tiny.smollm2(), "llama.cpp", SUITE, name="q", threads=1, target=to)
        assert found.device == "phone"

        whole = said(to, LONG, 24)
        with cutting(adb.cut, 1.0, 1.4):
            assert said(to, LONG, 24) == whole
        adb.state = "offline"
        with pytest.raises(Unreachable, match="offline"):
            said(Remote(load_device(str(profile))))
        assert main(["bench", str(tiny.smollm2()), "--device", str(profile)]) == 2
        assert "adb sees it, but it does not answer" in capsys.readouterr().err
