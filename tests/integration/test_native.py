"""The static harness against its Python twin: the same answers, the same records, from one program that needs nothing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import pytest

from edgearte.device import native
from edgearte.errors import UserError
from edgearte.measure.conditions import Watch
from edgearte.measure.harness import timed
from edgearte.measure.llamacpp import Engine
from edgearte.measure.machine import describe
from edgearte.measure.rows import Row
from edgearte.measure.suite import PASSAGE
from tests.system import lacking, need
from tests.tiny import smollm2

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]  # the first to need it builds it

SYSTEM = "<|im_start|>system\nAnswer in one short sentence, and be precise about numbers.<|im_end|>\n"
ASKED = ("What is the capital of France?", "How many legs has a spider?", "Écris un poème 🙂", "Write in Japanese about cats.")
SUITE = {"name": "tiny", "about": "", "prompt_tokens": 40, "new_tokens": 6, "repeats": 2, "warmups": 1}


def turn(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


PROMPTS = [
    *({"text": turn(q), "prefix": SYSTEM} for q in ASKED[:2]),
    {"text": "1, 2, 3, 4,"},  # a stop string ends it
    {"text": "Emoji: 😀 😁 😂"},  # cut off within a character
    {"text": turn("Name a colour."), "prefix": "Once more. " * 300},  # longer than a batch
    *({"text": turn(q), "prefix": SYSTEM} for q in ASKED[2:]),  # its prefix again, after another's
    {"text": "Bees make", "prefix": "Once more. " * 300},
]
ANSWERING = {"kind": "answer", "prompts": PROMPTS, "max_tokens": 24, "stop": ["7,", "\n\n"]}


@pytest.fixture(scope="module")
def program() -> Path:
    need({"cmake": "cmake", "make": "make", "c++": "g++"})
    return native.program(platform.machine())


def run(program: Path | list[str], job: dict[str, Any] | str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code and the records of a job; a job that is text is given as it is."""
    line = job if isinstance(job, str) else json.dumps({"artifact": str(smollm2()), "runtime": "llama.cpp", "threads": 1, **job})
    command = program if isinstance(program, list) else [str(program)]
    done = subprocess.run(command, input=line + "\n", stdout=subprocess.PIPE, env={"PATH": os.defpath}, encoding="utf-8")
    return done.returncode, [json.loads(record) for record in done.stdout.splitlines()]


def measured(program: Path | list[str], **suite: Any) -> list[dict[str, Any]]:
    code, records = run(program, {"kind": "measure", "suite": SUITE | suite, "passage": PASSAGE})
    assert code == 0, records
    return records


def test_it_needs_nothing_of_the_system(program: Path) -> None:
    need({"readelf": "binutils"})
    assert "NEEDED" not in subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout


def test_it_answers_what_the_python_engine_writes_row_by_row(program: Path) -> None:
    engine = Engine(smollm2(), threads=1, parallel=1)
    rows = [Row(p["text"], p.get("prefix", "")) for p in PROMPTS]
    told = engine.generate(rows, max_tokens=24, stop=["7,", "\n\n"])
    engine.close()
    code, records = run(program, ANSWERING)
    expected = [{"kind": "answer", "index": index, **vars(written)} for index, written in enumerate(told)]
    assert (code, sorted(records, key=lambda r: r["index"])) == (0, expected)
    assert {r["ended"] for r in records} == {"eos", "stop", "length"}
    assert "Paris" in records[0]["text"]


def test_rows_that_are_to_be_skipped_change_nothing_for_the_others(program: Path) -> None:
    _, everything = run(program, ANSWERING)
    _, rest = run(program, ANSWERING | {"skip": [0, 2, 3, 7]})
    assert rest == [r for r in everything if r["index"] in (1, 4, 5, 6)]


def test_it_measures_and_describes_the_machine_as_python_does(program: Path) -> None:
    machine, *runs, memory, load, bandwidth = records = measured(program)
    assert [r["kind"] for r in records] == ["machine", "run", "run", "memory", "load", "bandwidth"]
    of_the_moment = {"load_average", "memory_available_bytes"}
    here = {k: v for k, v in describe().items() if k not in of_the_moment | {"python"}}
    assert machine["threads"] == 1
    assert of_the_moment < machine["machine"].keys()
    assert here == {k: machine["machine"][k] for k in here}
    for r in runs:
        assert r.keys() == {"kind", "prompt_tokens", "prefill_s", "first_token_s", "steps_s", *Watch().read(1.0)}
        assert (r["prompt_tokens"], len(r["steps_s"])) == (40, 6)
        assert 0 < r["prefill_s"] <= r["first_token_s"]
        assert min(r["steps_s"]) > 0
    assert memory["before_load_bytes"] < 20e6
    assert 0.8 * smollm2().stat().st_size < memory["steady_bytes"] <= memory["peak_bytes"] < 10 * smollm2().stat().st_size
    assert load["cold_s"] > 0
    assert len(load["load_s"]) == 2
    assert bandwidth["bytes_per_s"] > 1e8


def test_it_reads_prompts_of_a_suite_as_python_does(program: Path) -> None:
    texts = ["Count the crates.", PASSAGE, "Will it still run?"]
    _, *runs, _, _, _ = measured(program, prompts=texts, warmups=0)
    engine = Engine(smollm2(), threads=1)
    todo = timed({**SUITE, "prompts": texts}, PASSAGE, engine.tokens)
    engine.close()
    assert [r["prompt_tokens"] for r in runs] == [len(how.turns[0]) for how in todo] * 2
    assert runs[0]["prompt_tokens"] == 40  # cut


BOARD = {
    "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
    "devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "1600000",
    "devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
    "class/thermal/thermal_zone0/temp": "45250",
    "class/thermal/thermal_zone1/temp": "-5000",
    "devices/platform/soc/soc:firmware/get_throttled": "50004",
    "class/hwmon/hwmon0/power1_input": "2500000",
    "class/hwmon/hwmon0/curr1_input": "900",  # of what the meter beside it measures in whole
    "class/hwmon/hwmon1/curr1_input": "100",
    "class/hwmon/hwmon1/in1_input": "5000",
    "class/power_supply/battery/current_now": "-200000",
    "class/power_supply/battery/voltage_now": "3800000",
}
LAPTOP = {
    "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3",
    "class/powercap/intel-rapl:0/energy_uj": "4000",
    "class/powercap/intel-rapl:0:0/energy_uj": "1000",
}


@pytest.mark.parametrize("tells", [BOARD, LAPTOP, {}])
def test_what_a_device_tells_of_itself_is_read_as_python_reads_it(program: Path, tmp_path: Path, tells: dict[str, str]) -> None:
    for name, value in tells.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(value + "\n")
    inside = ["unshare", "--map-root-user", "--mount", "sh", "-c", f"mount --bind '{tmp_path}' /sys && exec \"$@\"", "sh"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        lacking("needs to be allowed to mount what stands for /sys (unshare of Debian's util-linux)")
    machine, run_, *_ = measured([*inside, str(program)], repeats=1)
    told = Watch(tmp_path).read(1.0)
    for name in ("clock_mhz", "temperature_c", "throttled"):
        assert run_[name] == told[name]
    watts, seconds = told["energy_j"], run_["prefill_s"] + sum(run_["steps_s"])
    assert run_["energy_j"] == watts if not watts else run_["energy_j"] >= watts * seconds
    assert machine["machine"]["governor"] == tells.get("devices/system/cpu/cpu0/cpufreq/scaling_governor")


def test_a_suite_with_depth_turns_and_a_batch_takes_room_for_all_of_it(program: Path) -> None:
    _, _, before, *_ = measured(program, repeats=1, warmups=0)
    _, run_, after, *_ = measured(program, repeats=1, warmups=0, depth=150, turns=2, batch=4)
    assert len(run_["steps_s"]) == 6  # of the last turn, all sequences in one
    a_token = 2 * 2 * 30 * 3 * 64  # bytes of keys and values in f16: layers, heads, their size
    assert after["steady_bytes"] - before["steady_bytes"] > 0.9 * a_token * (4 * (150 + 2 * 46) - 46)
    code, records = run(program, {"kind": "measure", "suite": SUITE | {"depth": 9000}, "passage": PASSAGE})
    assert (code, records[-1]["kind"]) == (2, "error")
    assert "needs 9046 tokens of context, this artifact has 8192" in records[-1]["message"]


@pytest.mark.parametrize(
    ("job", "code", "message"),
    [
        ("", 1, "parse error"),
        ('{"kind": "answer"', 1, "parse error"),
        ({"kind": "answer"}, 1, "prompts"),
        ({"kind": "dance"}, 2, "not dance"),
        ({"kind": "answer", "runtime": "onnxruntime-genai"}, 2, "not onnxruntime-genai"),
        ({"kind": "answer", "artifact": "/nowhere.gguf"}, 2, "No such file"),
        ({"kind": "answer", "artifact": "/etc/passwd"}, 2, "cannot load this file"),
        (ANSWERING | {"max_tokens": 8192}, 2, "shorten the prompt"),
    ],
)  # fmt: skip
def test_a_broken_job_or_file_is_one_error_record(program: Path, job: dict[str, Any] | str, code: int, message: str) -> None:
    ended, (record,) = run(program, job)
    assert (ended, record["kind"]) == (code, "error")
    assert message in record["message"]


def test_a_file_that_was_cut_short_is_one_error_record(program: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2().read_bytes()[:-1000])
    code, (record,) = run(program, ANSWERING | {"artifact": str(cut)})
    assert (code, record["kind"]) == (2, "error")
    assert "not within the file bounds" in record["message"]


def test_where_it_is_tethered_it_ends_when_its_input_closes(program: Path) -> None:
    job = {**ANSWERING, "artifact": str(smollm2()), "runtime": "llama.cpp", "threads": 1, "max_tokens": 1000, "stop": []}
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        child.stdin.write(json.dumps({**job, "tethered": True}).encode() + b"\n")
        child.stdin.flush()
        child.stdout.readline()  # it is at work
        child.stdin.close()
        assert child.wait(60) == 3  # not 0: all answers would take longer


def test_an_architecture_that_nothing_is_built_for_is_refused() -> None:
    with pytest.raises(UserError, match="x86_64, not for 'riscv64'"):
        native.program("riscv64")
