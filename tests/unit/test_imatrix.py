"""Importance matrices: both of llama.cpp's file forms, what is refused, and what a checkpoint's own is."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgearte import delivery, steps
from edgearte.cli import main
from edgearte.convert import calibrate, converters, imatrix
from edgearte.convert.bits import bits
from edgearte.convert.imatrix import Imatrix
from edgearte.errors import UserError
from edgearte.files import read_texts
from edgearte.load import load_recipe
from edgearte.measure import host
from edgearte.records import Artifact
from edgearte.setup import opened
from tests import tiny

TEXTS = ["switch on the lamp in the kitchen", "play some jazz, and not too loud", "will it rain today?"]


def example(columns: int = 6, experts: int = 1) -> Imatrix:
    chance = np.random.default_rng(columns)
    sums = {f"blk.{k}.ffn_up.weight": chance.random((experts, columns), np.float32) for k in range(2)}
    return Imatrix(sums, {n: np.arange(1, experts + 1, dtype=np.float32) for n in sums}, ("märchen.txt",), 3, 512)


def same(a: Imatrix, b: Imatrix) -> bool:
    tables = all(np.array_equal(a.sums[n], b.sums[n]) and np.array_equal(a.counts[n], b.counts[n]) for n in a.sums)
    return tables and list(a.sums) == list(b.sums) and (a.datasets, a.chunks) == (b.datasets, b.chunks)


def legacy(found: Imatrix) -> bytes:
    """As `IMatrixCollector::save_imatrix_legacy` writes it."""
    calls = 2
    data = struct.pack("<i", len(found.sums))
    for name, sums in found.sums.items():
        values = (sums / found.counts[name][:, None] * calls).astype("<f4")
        data += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, values.size) + values.tobytes()
    dataset = found.datasets[0].encode()
    return data + struct.pack("<ii", found.chunks, len(dataset)) + dataset


@pytest.mark.parametrize("experts", [1, 3])
def test_what_is_written_is_read_and_the_same_bytes_again(tmp_path: Path, experts: int) -> None:
    found = example(experts=experts)
    imatrix.write(found, tmp_path / "a.gguf")
    assert same(imatrix.read(tmp_path / "a.gguf"), found)
    imatrix.write(imatrix.read(tmp_path / "a.gguf"), tmp_path / "b.gguf")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_the_older_form_means_the_same(tmp_path: Path) -> None:
    found = example()
    (tmp_path / "old.dat").write_bytes(legacy(found))
    old = imatrix.read(tmp_path / "old.dat")
    assert (old.datasets, old.chunks) == (("märchen.txt",), 3)
    for name in found.sums:
        assert old.importance(name) == pytest.approx(found.importance(name), rel=1e-6)


def test_experts_no_token_met_count_alike() -> None:
    found = Imatrix({"x": np.array([[2, 4], [0, 0]], np.float32)}, {"x": np.array([2, 0], np.float32)})
    assert found.importance("x").tolist() == [1, 2, 1, 1]


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_a_damaged_file_is_refused_and_never_more(tmp_path_factory: pytest.TempPathFactory, junk: bytes, cut: int) -> None:
    path = tmp_path_factory.mktemp("junk") / "x.dat"
    for data in (junk, legacy(example())[:cut], legacy(example())[:cut] + junk):
        path.write_bytes(data)
        try:
            assert imatrix.read(path).sums
        except UserError as error:
            assert str(path) in str(error)


def test_what_is_no_importance_matrix_is_said(tmp_path: Path, tiny_model: Path) -> None:
    converters.to_gguf(tiny_model, "0" * 64, tmp_path / "model.gguf")
    with pytest.raises(UserError, match="a GGUF file of another kind"):
        imatrix.read(tmp_path / "model.gguf")
    infinite = example()
    infinite.sums["blk.0.ffn_up.weight"][0, 0] = np.inf
    imatrix.write(infinite, tmp_path / "x.gguf")
    with pytest.raises(UserError, match=r"blk.0.ffn_up.weight has inputs whose squares are no numbers"):
        imatrix.read(tmp_path / "x.gguf")


def test_what_weights_meet_is_summed_over_all_tokens(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    f16 = tmp_path / "f16.gguf"
    converters.to_gguf(tiny_model, "0" * 64, f16)
    monkeypatch.setattr(calibrate, "WINDOW", 8)
    found = calibrate.collect(tiny_model, f16, TEXTS, "commands")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = [token for text in TEXTS for token in tokenizer(text)["input_ids"]]
    met: list[torch.Tensor] = []
    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, x: met.append(x[0][0]))
    windows = [ids[k : k + 8] for k in range(0, len(ids), 8)]
    last = [model(torch.tensor([w]), output_hidden_states=True).hidden_states[-1][0] for w in windows]
    assert found.sums["blk.1.ffn_down.weight"][0] == pytest.approx(torch.cat(met).square().sum(0).tolist(), rel=0.02)
    assert found.sums["token_embd.weight"][0] == pytest.approx(torch.cat(last).square().sum(0).tolist(), rel=0.02)
    assert set(found.counts["blk.1.ffn_down.weight"].tolist()) == {len(ids)}
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    assert set(found.sums) == {"token_embd.weight", *(f"blk.{k}.{kind}.weight" for k in range(2) for kind in kinds)}


def test_general_text_counts_its_share() -> None:
    task, general = (Imatrix({"x": np.array([[4 * n, 0]], np.float32)}, {"x": np.array([n], np.float32)}) for n in (2, 6))
    other = Imatrix({"x": np.array([[0, 60]], np.float32)}, {"x": np.array([6], np.float32)})
    assert calibrate.mixed(task, general, 0.5).importance("x").tolist() == [4, 0]
    assert calibrate.mixed(task, other, 0.25).importance("x").tolist() == [3, 2.5]


def test_calibration_keeps_what_is_used(tiny_model: Path, tmp_path: Path) -> None:
    """With the matrix in hand llama.cpp's quantizer errs less where inputs are large."""
    import gguf

    f16 = tmp_path / "f16.gguf"
    converters.to_gguf(tiny_model, "0" * 64, f16)
    found = calibrate.collect(tiny_model, f16, TEXTS, "commands")
    imatrix.write(found, tmp_path / "imatrix.gguf")
    whole = weights(f16)
    errors = []
    for calibrated in (None, tmp_path / "imatrix.gguf"):
        converters.quantize(f16, tmp_path / "q.gguf", "iq4_nl", calibrated)
        got = weights(tmp_path / "q.gguf")
        errors.append(sum(float(((got[n] - whole[n]) ** 2 * found.importance(n)).sum()) for n in found.sums if "blk" in n))
    assert errors[1] < 0.9 * errors[0]
    converters.quantize(f16, tmp_path / "q.gguf", "q4_0", None, {"blk.1.ffn_up.weight": "q8_0"})
    types = {t.name: t.type for t in bits(tmp_path / "q.gguf").tensors}
    assert (types["blk.1.ffn_up.weight"], types["blk.0.ffn_up.weight"]) == ("q8_0", "q4_0")
    assert gguf.GGUFReader(tmp_path / "q.gguf").fields["general.file_type"].contents() == 2


@given(st.lists(st.text().filter(str.strip), min_size=1), st.booleans())
def test_texts_with_line_breaks_are_read_as_they_were_written(texts: list[str], named: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "texts.jsonl"
        path.write_text("".join(json.dumps({"text": t} if named else t, ensure_ascii=named) + "\n" for t in texts), "utf-8")
        assert read_texts(path) == texts


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (None, "no.txt", "cannot be read"),
        (b"  \n", "empty.txt", "there is no text in it"),
        (b'"one"\n{"te', "cut.jsonl", "cut.jsonl:2: no JSON"),
        (b'{"text": 1}\n', "odd.jsonl", "odd.jsonl:1: neither a JSON string"),
        (rb'"\ud800"', "half.jsonl", "half.jsonl:1: neither a JSON string of characters"),
        (b"[" * 100_000, "deep.jsonl", "deep.jsonl:1: no JSON"),
        (b"\x01\x00\x00\x00\xff\xff\xff\x7f", "cut.dat", "not an importance matrix: it ends at byte 8"),
        (b"GGUF\x03\x00\x00\x00", "cut.gguf", "not an importance matrix: a GGUF file whose header is damaged"),
    ],
)
def test_what_cannot_calibrate_is_said_before_anything_is_done(
    content: bytes | None, name: str, said: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    places = ["--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]
    assert main(["export", str(tiny_model), "--to", "q4_0", "--calibrate", str(tmp_path / name), *places]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert name in error
    assert not (tmp_path / "out").exists()


def test_a_recipe_names_general_text_from_where_it_lies(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny.write_recipe(tmp_path / "task", tiny_model)
    (tmp_path / "task" / "any.txt").write_text("The road follows the valley.\n", "utf-8")
    found = load_recipe(recipe, ["export.general.file=any.txt"]).export.general
    assert found
    assert (found.file, found.share) == (str(tmp_path / "task" / "any.txt"), 0.2)
    assert main(["build", str(recipe), "export.general.file=none.txt", "--runs", str(tmp_path / "runs")]) == 2
    assert "export.general.file: none.txt: cannot be read" in capsys.readouterr().err


def test_what_an_artifact_answered_is_not_taken_for_another_of_the_same_preset(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated otherwise, or made after a preset's file was changed, it has the same name and other answers."""
    recipe, asked = tiny.write_recipe(tmp_path / "task", tiny_model), list[str]()

    def answer(path: Path, _: str, rows: list[dict[str, str]], **__: object) -> list[dict[str, object]]:
        asked.append(path.parent.name)
        return [{"text": "<ans>lights</ans>", "prompt_tokens": 1, "new_tokens": 1} for _ in rows]

    monkeypatch.setattr(host, "answer", answer)
    with opened(recipe, [], tmp_path / "runs", "-test") as (setup, _):
        model = steps.student(setup, setup.student.folder)
        for tree in ("first", "second", "first"):
            made = Artifact("q4_0", "gguf", "llama.cpp", str(tmp_path / tree / "model.gguf"), 1, 4.5, {})
            assert len(delivery.answers(setup, model, made, setup.task.evaluation)) == 12
    assert asked == ["first", "second"]


def weights(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    import gguf

    return {t.name: gguf.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}
