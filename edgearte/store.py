"""Results by content: rows in SQLite, trees as folders. Running a recipe again *is* resuming it.

A stage is a function of its inputs and options. Its key is the hash of stage, version of the stage, inputs and the options
that change the result; devices and worker counts are not in it. Work is cut into chunks before it starts, and a chunk is the
unit of computing and of committing: in floating point a row depends on its batch, so resuming computes the same chunks,
and so the same bytes. A killed build loses at most the chunk in flight.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from tqdm import tqdm

from edgearte.errors import UserError

REFUSED_BY_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG)
SCHEMA = """
CREATE TABLE IF NOT EXISTS chunks (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, version INTEGER NOT NULL, options TEXT NOT NULL,
    rows INTEGER NOT NULL, seconds REAL NOT NULL, finished REAL NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    chunk TEXT NOT NULL, position INTEGER NOT NULL, item TEXT NOT NULL, value TEXT NOT NULL,
    PRIMARY KEY (chunk, position)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS trees (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, version INTEGER NOT NULL, options TEXT NOT NULL,
    seconds REAL NOT NULL, finished REAL NOT NULL);
CREATE TABLE IF NOT EXISTS processor (key TEXT PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (key TEXT NOT NULL, stage TEXT NOT NULL, pid INTEGER NOT NULL, started REAL NOT NULL);
"""


@dataclass(frozen=True)
class Entry:
    """One use of the store: the stage and its label, how many results it gave, how many were there before, the seconds they
    took when they were computed, and the tokens that rows say they cost (their `tokens`). What one process uses twice costs
    nothing the second time; `whole_seconds` and `whole_tokens` are what all of it costs one who has nothing yet. `processor` is
    processor time, of all cores and child processes, within `seconds`."""

    stage: str
    label: str
    rows: int
    cached: int
    seconds: float
    tokens: int = 0
    whole_seconds: float = 0.0
    whole_tokens: int = 0
    processor: float = 0.0


def canonical(value: Any) -> str:
    """JSON with sorted keys: the text that is hashed. Dataclasses and paths are written as plain values."""

    def plain(v: Any) -> Any:
        if is_dataclass(v) and not isinstance(v, type):
            return asdict(v)
        if isinstance(v, BaseModel):
            return v.model_dump(mode="json")
        if isinstance(v, Path):
            return str(v)
        raise TypeError(f"{type(v).__name__} cannot be part of a store key")

    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=plain)


def digest(*parts: Any) -> str:
    """sha256 over the canonical JSON of the parts, as hex."""
    return hashlib.sha256(canonical(list(parts)).encode("utf-8", "surrogatepass")).hexdigest()


def seed_of(*parts: Any) -> int:
    """A 63-bit seed keyed by content, so that a row's random numbers depend on nothing but the row."""
    return int(digest(*parts)[:16], 16) >> 1


class Store:
    """A folder with `store.sqlite` and `trees/`. Several builds may share it: one writes at a time, and another waits for the database."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ledger: list[Entry] = []
        self.opened = time.time()
        self._counted: set[str] = set()
        try:
            (root / "trees").mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(root / "store.sqlite", timeout=60, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(f"{root}: the store cannot be written here: {error}") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{root / 'store.sqlite'}: not a store ({error}); move it away and run again") from error
        self._sweep()

    def close(self) -> None:
        self._db.close()

    def read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a statement finds, also in tables that others keep in this database (`lm/calls.py`)."""
        return self._db.execute(statement, values).fetchall()

    def write(self, statement: str, rows: Sequence[tuple[Any, ...]] = ((),)) -> None:
        """A statement for every row, committed all or none before this returns."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for row in rows:
                    self._db.execute(statement, row)
        except sqlite3.OperationalError as error:
            raise self._disk(error) from error

    def rows(
        self,
        stage: str,
        version: int,
        options: Any,
        items: Sequence[Any],
        compute: Callable[[list[Any]], Sequence[Any]],
        *,
        chunk: int,
        together: int = 1,
        label: str = "",
    ) -> list[Any]:
        """One JSON value per item, computed chunk by chunk where the store has none.

        `compute` gets the items of one chunk and returns as many values, in order. Items and values are anything JSON can
        hold. `chunk` is the stage's own constant: changing it changes what is computed together, and so the results.
        A stage whose items are asked for in ever other selections keeps each by itself (chunk 1), and has so many of the
        missing ones computed `together`: nothing is computed twice then, but in floating point a value may depend, in its last
        bits, on what was missing beside it.
        """
        plain = json.loads(canonical(list(items)))
        chunks = [plain[i : i + chunk] for i in range(0, len(plain), chunk)]
        keys = [digest("rows", stage, version, options, c) for c in chunks]
        found: dict[str, list[Any]] = {}
        seconds: dict[str, float] = {}
        for key in keys:
            row = self._db.execute("SELECT seconds FROM chunks WHERE key = ?", (key,)).fetchone()
            if row is not None and key not in found:
                seconds[key] = row[0]
                stored = self._db.execute("SELECT value FROM rows WHERE chunk = ? ORDER BY position", (key,))
                found[key] = [json.loads(v) for (v,) in stored]
        cached = sum(len(found[k]) for k in keys if k in found)
        todo = list({k: c for k, c in zip(keys, chunks, strict=True) if k not in found}.items())
        with progress(len(plain), cached, label or stage, quiet=not todo) as bar:
            for group in (todo[i : i + together] for i in range(0, len(todo), together)):
                start, busy = time.monotonic(), _processor()
                for key, _ in group:
                    self._attempt(key, stage)
                items = [item for _, part in group for item in part]
                computed: list[Any] = json.loads(canonical(list(compute(items))))
                if len(computed) != len(items):
                    raise RuntimeError(f"{stage}: {len(computed)} values for {len(items)} items")
                took = (time.monotonic() - start) / len(items)
                found |= self._commit(stage, version, options, group, computed, took)
                seconds |= {key: took * len(part) for key, part in group}
                busy = (_processor() - busy) / len(items)
                self.write("INSERT OR REPLACE INTO processor VALUES (?,?)", [(k, busy * len(part)) for k, part in group])
                bar.update(len(items))
        new = [key for key in found if key not in self._counted]
        self._counted.update(new)
        tokens = {key: sum(v.get("tokens", 0) for v in found[key] if isinstance(v, dict)) for key in found}
        self.ledger.append(
            Entry(
                stage, label or stage, len(plain), cached, sum(seconds[key] for key in new), sum(tokens[key] for key in new),
                sum(seconds.values()), sum(tokens.values()), self._busy(new),
            )
        )  # fmt: skip
        return [value for key in keys for value in found[key]]

    def value(self, stage: str, version: int, options: Any, compute: Callable[[], Any], *, label: str = "") -> Any:
        """A single JSON value."""
        return self.rows(stage, version, options, [None], lambda _: [compute()], chunk=1, label=label)[0]

    def tree(self, stage: str, version: int, options: Any, build: Callable[[Path], None], *, label: str = "") -> Path:
        """A folder of files, written beside its place and renamed into it when complete."""
        key = digest("tree", stage, version, options)
        path = self.root / "trees" / key
        if path.is_dir():  # the rename is the commit; the row beside it only remembers what it cost
            done = self._db.execute("SELECT seconds FROM trees WHERE key = ?", (key,)).fetchone()
            whole = done[0] if done else 0.0
            again = key in self._counted
            self._counted.add(key)
            busy = 0.0 if again else self._busy([key])
            self.ledger.append(
                Entry(stage, label or stage, 1, 1, 0.0 if again else whole, whole_seconds=whole, processor=busy)
            )
            return path
        start, busy = time.monotonic(), _processor()
        self._attempt(key, stage)
        partial = self.root / "trees" / f".{key}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            build(partial)
            _put(partial, path)
        except Exception as error:
            raise self._disk(error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        took = time.monotonic() - start
        self.write("INSERT OR REPLACE INTO trees VALUES (?,?,?,?,?,?)",
                    [(key, stage, version, canonical(options), took, time.time())])  # fmt: skip
        self.write("INSERT OR REPLACE INTO processor VALUES (?,?)", [(key, _processor() - busy)])
        self._counted.add(key)
        self.ledger.append(
            Entry(stage, label or stage, 1, 0, took, whole_seconds=took, processor=self._busy([key]))
        )
        return path

    def _busy(self, keys: Sequence[str]) -> float:
        """Processor seconds that these results took; 0 for those from before that was written down."""
        rows = [self._db.execute("SELECT seconds FROM processor WHERE key = ?", (key,)).fetchone() for key in keys]
        return float(sum(row[0] for row in rows if row))

    def _attempt(self, key: str, stage: str) -> None:
        self.write("INSERT INTO attempts VALUES (?,?,?,?)", [(key, stage, os.getpid(), time.time())])

    def _commit(
        self, stage: str, version: int, options: Any, chunks: Sequence[tuple[str, list[Any]]], values: list[Any], seconds: float
    ) -> dict[str, list[Any]]:
        """The values, by chunk, once they are kept; `seconds` are those of one row."""
        left = iter(values)
        found = {key: [next(left) for _ in part] for key, part in chunks}
        said, now = canonical(options), time.time()
        rows = [
            (key, i, canonical(a), canonical(b))
            for key, part in chunks
            for i, (a, b) in enumerate(zip(part, found[key], strict=True))
        ]
        kept = [(key, stage, version, said, len(part), seconds * len(part), now) for key, part in chunks]
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany("INSERT OR REPLACE INTO rows VALUES (?,?,?,?)", rows)
                self._db.executemany("INSERT OR REPLACE INTO chunks VALUES (?,?,?,?,?,?,?)", kept)
        except sqlite3.OperationalError as error:
            raise self._disk(error) from error
        return found

    def _disk(self, error: Exception) -> Exception:
        """The message for what a disk refused; any other error as it is. safetensors has an error of its own for it."""
        full = isinstance(error, OSError) and error.errno in REFUSED_BY_DISK
        full = full or (type(error).__name__ == "SafetensorError" and "I/O error" in str(error))
        if full or isinstance(error, sqlite3.OperationalError):
            return UserError(
                f"{self.root}: the store could not be written: {error}. What was finished is kept; "
                "free some space (or make it writable) and run the same command again."
            )
        return error

    def _sweep(self) -> None:
        """Remove half-written trees of processes that are gone."""
        for path in (self.root / "trees").glob(".*.*"):
            pid = path.name.rpartition(".")[2]
            if pid.isdigit() and not alive(int(pid)):
                shutil.rmtree(path, ignore_errors=True)


def _put(partial: Path, path: Path) -> None:
    """Rename a finished tree into its place. Where another build has put the same one there meanwhile, that one stays."""
    try:
        partial.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def _processor() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def alive(pid: int) -> bool:
    """Whether another process of this number runs; this one's own number was then a dead one's before."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def progress(total: int, done: int, label: str, *, quiet: bool = False) -> tqdm[Any]:
    """A bar with rate and time left on standard error; silent where nothing is to be done or nobody looks."""
    return tqdm(
        total=total, initial=done, desc=label, unit="row", dynamic_ncols=True, leave=True,
        disable=quiet or None if sys.stderr.isatty() else quiet, mininterval=0.1 if sys.stderr.isatty() else 30,
    )  # fmt: skip
