"""Reading a file of texts; writing a file whole or not at all; copying some; the room there is for more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from edgearte.errors import Problem, UserError

TOKENIZER = ("tokenizer", "special_tokens", "vocab", "merges", "chat_template", "added_tokens")  # what a tokenizer's files begin with


def write_text(path: Path, text: str) -> None:
    """Write `text` beside `path` and then into its place; `UserError` where the disk does not take it."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, "utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: could not be written: {error.strerror}") from error


def read_texts(path: Path) -> list[str]:
    """The texts of a file, one a line; in a `.jsonl` file, where a text may have line breaks, each line is a JSON string or an object with
    the text as `"text"`. `UserError` where it cannot be read, is no such file, or holds none."""
    try:
        written = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        rows = [(number, line) for number, line in enumerate(written.split("\n"), 1) if line.strip()]
        found = [_text(line, f"{path}:{number}") for number, line in rows]
    else:
        found = written.splitlines()
    found = [text for text in found if text.strip()]
    if not found:
        raise UserError(f"{path}: there is no text in it")
    return found


def _text(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(Problem(f"no JSON: {error}", where)) from error
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or any("\ud800" <= c <= "\udfff" for c in text):
        raise UserError(Problem('neither a JSON string of characters nor an object with one as "text"', where))
    return text


def copy_files(source: Path, target: Path, beginnings: tuple[str, ...]) -> None:
    """Copy the files of a folder whose names begin so, over those that are in `target` already."""
    for file in source.iterdir():
        if file.name.startswith(beginnings):
            shutil.copy(file, target / file.name)


def disk_free(folder: Path) -> int:
    """Bytes free where a folder is, or will be made."""
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    return shutil.disk_usage(here).free
