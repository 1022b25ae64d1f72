"""The endpoint against a real server: llama-cpp-python's, with SmolLM2-135M."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgearte.errors import UserError
from edgearte.lm.base import Prompt, Sampling
from edgearte.lm.calls import Budgeted, Calls, Limits, Price, Purse
from edgearte.lm.endpoint import Address, Endpoint
from edgearte.store import Store
from tests import tiny

pytestmark = pytest.mark.integration
KEY = "sk-of-the-real-server"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(tiny.smollm2()), "--model_alias", "smollm2",
               "--port", str(port), "--n_ctx", "1024", "--n_threads", "1", "--api_key", KEY]  # fmt: skip
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        _wait(f"http://127.0.0.1:{port}/v1/models", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    asked = urllib.request.Request(url, headers={"Authorization": f"Bearer {KEY}"})
    for _ in range(300):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(asked, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(log.read_text()[-2000:])


@pytest.fixture
def model(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("REAL_KEY", KEY)
    made = Endpoint(Address(url, "smollm2", "REAL_KEY", timeout=120, pause=0.01), Calls(Store(tmp_path / "a")), "run")
    yield made
    made.release()


def talks(model: Endpoint, *said: str) -> list[Prompt]:
    return [Prompt(model.chat([{"role": "user", "content": text}]), seed=i) for i, text in enumerate(said, 1)]


def test_seeds_reproduce_and_room_is_kept(model: Endpoint, url: str, tmp_path: Path) -> None:
    rows = talks(model, "Tell me of the sea.", "Tell me of the sea.", "Count to three.")
    sampling = Sampling(12, 1.0, 0.9)
    first = model.generate(rows, sampling)
    again = Endpoint(model.address, Calls(Store(tmp_path / "b")), "run")
    assert again.generate(rows, sampling) == first
    again.release()
    assert first[0].text != first[1].text
    assert all(c.prompt_tokens > 5 and 0 < c.new_tokens <= 12 for c in first)
    assert first[0].ended == "length"


def test_a_stop_is_kept_and_plain_text_goes_on(model: Endpoint) -> None:
    found = model.generate([Prompt("<n>1</n> <n>2</n> <n>3</n> <n>4</n> <n>")], Sampling(12, stop=("</n>",)))[0]
    assert (found.text, found.ended) == ("5</n>", "stop")


def test_first_words_have_probabilities(model: Endpoint) -> None:
    found = model.choice_probabilities(talks(model, "Is Paris in France? Answer yes or no."), ("yes", "no"))[0]
    assert 0 < found["yes"] < 1
    assert 0 < found["no"] < 1
    assert sum(found.values()) <= 1


def test_misplaced_log_probabilities_are_noticed(model: Endpoint) -> None:
    """This server's echo gives every token the probability of coming once more, which is worth nothing."""
    with pytest.raises(UserError, match="echo"):
        model.loglikelihood([(Prompt("One, two, three,"), " four")])


def test_a_purse_and_a_wrong_key(model: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = model._calls
    purse = Purse(calls, "purse", Limits(money=0.001), Price(1.0, 4.0))
    rows = talks(model, *(f"What is {i} plus {i}?" for i in range(12)))
    found = Budgeted(model, purse).generate(rows, Sampling(20))
    paid = sum(c is not None for c in found)
    assert 0 < paid < 12
    assert purse.spent().calls == paid
    assert 0 < purse.spent().money(purse.price) <= 0.001
    model.release()
    monkeypatch.setenv("REAL_KEY", "sk-another")
    with pytest.raises(UserError, match="401") as caught:
        model.generate(talks(model, "Something new."), Sampling(5))
    assert "sk-another" not in str(caught.value)
    monkeypatch.setenv("REAL_KEY", KEY)
    model.release()


def test_a_model_the_server_does_not_have_room_for(model: Endpoint) -> None:
    with pytest.raises(UserError) as caught:
        model.generate([Prompt("so " * 3000)], Sampling(5))
    assert "context" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
