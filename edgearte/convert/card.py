"""The model card: README.md with the front matter a model hub reads, and what whoever embeds the bundle must know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgearte.convert.presets import BROWSER
from edgearte.lm.weights import HUB_ID
from edgearte.measure.machine import PART
from edgearte.records import Accuracy, Artifact

# The identifiers model hubs accept in `license:`; any other licence is `other`, with its own name beside it.
HUB_LICENCES = (
    "apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "mpl-2.0", "gpl-3.0", "lgpl-3.0",
    "agpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "openrail",
    "bigscience-openrail-m", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4",
)  # fmt: skip
IN_BROWSER = """import { env, pipeline } from "@huggingface/transformers";

env.allowLocalModels = true;
env.localModelPath = "/";
const write = await pipeline("text-generation", "%s");
const [{ generated_text }] = await write([{ role: "user", content: "…" }], { max_new_tokens: 64 });
console.log(generated_text.at(-1).content);"""


@dataclass(frozen=True)
class Origin:
    """A model the bundle descends from: its role (`student`, `teacher`, …), its name, the licence its files state."""

    role: str
    name: str
    licence: str = ""


@dataclass(frozen=True)
class Figure:
    """One measured accuracy; `where` is `checkpoint` or the export preset the model was asked through."""

    model: str
    where: str
    shots: int
    accuracy: Accuracy


@dataclass(frozen=True)
class Card:
    """What the model card says. Nothing in it may depend on time, place or speed: a bundle is always the same bytes.

    `chosen` is the preset to run first, `prompt` the user message the student was taught with (`{input}` where the
    question goes), `system` the task's own system message.
    """

    task: str
    description: str
    answer_format: str
    models: tuple[Origin, ...]
    figures: tuple[Figure, ...] = ()
    chosen: str = ""
    prompt: str = ""
    system: str = ""
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def readme(name: str, card: Card, files: Sequence[tuple[str, Artifact]], lineage: Sequence[Mapping[str, Any]]) -> str:
    """The text of README.md. `files` are the bundle's artifacts with the path of each inside the bundle."""
    import yaml

    front = yaml.safe_dump(_front_matter(name, card, files), sort_keys=False, allow_unicode=True, width=1000)
    sections = [
        _head(name, card),
        _task(card),
        _files(card, files),
        _checks(files),
        _use(name, files),
        _origin(card, lineage),
    ]
    return f"---\n{front}---\n\n" + "\n\n".join("\n\n".join(section) for section in sections) + "\n"


def _front_matter(name: str, card: Card, files: Sequence[tuple[str, Artifact]]) -> dict[str, Any]:
    student = next((m for m in card.models if m.role == "student"), None)
    formats = sorted({artifact.format for _, artifact in files})
    front: dict[str, Any] = {}
    if student and re.fullmatch(HUB_ID, student.name):  # hubs take nothing but a repository's id here
        # "finetune", not "quantized": the weights were trained anew, and nobody should take them for the base model's.
        front |= {"base_model": student.name, "base_model_relation": "finetune"}
    if formats:
        front["library_name"] = "gguf" if "gguf" in formats else "onnx"
    licence, named = hub_licence(student.licence if student else "")
    front |= ({"license": licence} if licence else {}) | ({"license_name": named} if named else {})
    front["pipeline_tag"] = "text-generation"
    front["tags"] = ["edgearte", "distillation", *formats]
    metrics = [
        {"type": "accuracy", "name": f"Accuracy, {f.where}, {f.shots}-shot", "value": round(f.accuracy.accuracy, 4)}
        for f in card.figures
        if f.where in {artifact.preset for _, artifact in files}
    ]
    if metrics:
        dataset = {"type": re.sub(r"[^a-z0-9]+", "-", card.task.lower()).strip("-"), "name": card.task}
        task = {"type": "text-generation", "name": "Text generation"}
        front["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]
    return front


def hub_licence(stated: str) -> tuple[str, str]:
    """A licence as hubs call it, and its own name where that is `other`; both empty where none is stated."""
    licence = stated.strip()
    return (licence.lower(), "") if not licence or licence.lower() in HUB_LICENCES else ("other", licence)


def _head(name: str, card: Card) -> list[str]:
    student = next((m.name for m in card.models if m.role == "student"), "a student")
    what = f"A small language model for one task: {student}, taught and converted for small devices by edgearte."
    return [f"# {name}", what, *(f"> {_line(note)}" for note in card.notes)]


def _task(card: Card) -> list[str]:
    parts = [
        f"## The task: {_line(card.task)}",
        card.description.strip(),
        f"Answer format: {_line(card.answer_format)}.",
    ]
    if card.prompt:
        parts += ["The model was taught with this message, `{input}` being the question:", _fenced(card.prompt)]
    if card.system:
        parts += ["and this system message:", _fenced(card.system)]
    return parts


def _files(card: Card, files: Sequence[tuple[str, Artifact]]) -> list[str]:
    by_preset = {f.where: f.accuracy for f in card.figures}
    rows = []
    for path, artifact in files:
        row = [f"`{path}`", f"{artifact.bytes / 1e6:.1f}", f"{artifact.bits_per_weight:.2f}"]
        rows.append(row + _accuracy(by_preset.get(artifact.preset)))
    parts = ["## Files", _table(["file", "MB", "bits per weight", "right", "95 % interval", "no answer found"], rows)]
    notes = [f"- `{path}`: {_line(note)}" for path, artifact in files for note in artifact.notes]
    if notes:
        parts.append("\n".join(notes))
    checkpoints = [[f.model, str(f.shots), *_accuracy(f.accuracy)] for f in card.figures if f.where == "checkpoint"]
    if checkpoints:
        table = _table(["model", "shots", "right", "95 % interval", "no answer found"], checkpoints)
        parts += ["For comparison, checkpoints before conversion on the same questions:", table]
    return parts


def _accuracy(a: Accuracy | None) -> list[str]:
    if a is None:
        return ["not measured", "", ""]
    interval = f"{100 * a.low:.1f} – {100 * a.high:.1f} %"
    return [f"{a.correct} of {a.n} ({100 * a.accuracy:.1f} %)", interval, str(a.unextracted)]


def _checks(files: Sequence[tuple[str, Artifact]]) -> list[str]:
    parts = ["## How it was checked"]
    gates = [f"- `{path}`, {gate.name}: {_line(gate.summary)}" for path, artifact in files for gate in artifact.gates]
    if gates:
        parts += ["Each file was compared with the trained checkpoint before it came here:", "\n".join(gates)]
    return [*parts, "`manifest.json` holds the sha256 of every file, the versions of the tools and the lineage."]


def _use(name: str, files: Sequence[tuple[str, Artifact]]) -> list[str]:
    parts = ["## Use"]
    ggufs = [path for path, artifact in files if artifact.format == "gguf"]
    folders = [path for path, artifact in files if artifact.format == "onnx"]
    if ggufs:
        ollama = f"ollama create {name} -f Modelfile && ollama run {name}\n" if for_ollama(files) else ""
        parts.append(f"```sh\nllama-cli -m {ggufs[0]} --jinja --temp 0\n{ollama}```")
    if folders:
        model = f'model = onnxruntime_genai.Model("{folders[0]}")'
        parts.append(f"```python\nimport onnxruntime_genai\n\n{model}\n```")
    browser = [path for path, artifact in files if artifact.runtime == BROWSER]
    if browser:
        parts += ["In a browser, where this folder is served as `/`:", f"```js\n{IN_BROWSER % browser[0]}\n```"]
    return parts


def for_ollama(files: Sequence[tuple[str, Artifact]]) -> list[str]:
    """Those that Ollama reads: GGUF, and not in parts."""
    return [path for path, artifact in files if artifact.format == "gguf" and not PART.search(path)]


def _origin(card: Card, lineage: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [[m.role, m.name, m.licence or "not stated in its files"] for m in card.models]
    terms = "These licences, and the terms on using the teacher's outputs, bind whoever passes this bundle on."
    parts = ["## Where it comes from", _table(["role", "model", "licence"], rows), terms]
    links = [f"- {_line(str(link.get('what', '')))} `{str(link.get('id', ''))[:16]}`" for link in lineage]
    return [*parts, "\n".join(links)] if links else parts


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text.strip()}\n{fence}"
