"""Reading a file of texts; writing a file whole or not at all; copying some; the room there is for more."""

from __future__ import annotations

import shutil
from pathlib import Path

from edgearte.errors import UserError

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


def lines(path: Path) -> list[str]:
    """The texts of a file with one a line; `UserError` where it cannot be read or holds none."""
    try:
        found = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    if not found:
        raise UserError(f"{path}: there is no text in it")
    return found


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
