"""This machine as a target: one child process a job, so that nothing of ours counts as the artifact's and a crash is only its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from edgearte.child import how_ended, python
from edgearte.errors import UserError


class Unusable(UserError):
    """An artifact that its runtime does not run where it is to run."""


class Local:
    """This machine."""

    name = "local"
    counted = False

    def records(
        self, job: dict[str, Any], timeout_s: float | None, environment: dict[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """Run a job in a child and hand out its records. Whatever happens here, the child is gone afterwards."""
        what = job["artifact"]
        with tempfile.TemporaryFile() as stderr:
            command, inherited = python("edgearte.measure.harness")
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, encoding="utf-8",
                env={**inherited, "GGML_NO_BACKTRACE": "1", **(environment or {})},
            )  # fmt: skip
            late = threading.Event()

            def stop() -> None:
                late.set()
                child.kill()

            timer = threading.Timer(timeout_s, stop) if timeout_s else None
            try:
                if timer:
                    timer.start()
                yield from _records(child, job, what)
                code = child.wait()
            finally:
                if timer:
                    timer.cancel()
                if child.poll() is None:
                    child.kill()
                child.wait()
                for pipe in (child.stdin, child.stdout):
                    if pipe:
                        pipe.close()
            if late.is_set():
                raise Unusable(f"{what}: not measured within {timeout_s:.0f} s; the child was stopped")
            if code:
                raise Unusable(_obituary(what, code, _tail(stderr)))


LOCAL = Local()


def _records(child: subprocess.Popen[str], job: dict[str, Any], what: str) -> Iterator[Any]:
    assert child.stdin and child.stdout
    try:
        child.stdin.write(json.dumps({**job, "tethered": True}) + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        return  # it is dead already; its exit code says why
    for line in child.stdout:
        try:
            record = json.loads(line)
        except ValueError:
            return  # cut off in the middle of a record by its death
        yield checked(record, what, what)


def checked(record: dict[str, Any], what: str, there: str) -> dict[str, Any]:
    """The record; `Unusable` where it tells of an error with the artifact `what`, which lies `there` where it runs."""
    if record["kind"] == "error":
        said = str(record["message"]).removeprefix(f"{there}: ")
        raise Unusable(f"{what}: {said}")
    return record


def _obituary(what: str, code: int, said: str) -> str:
    return f"{what}: the measuring process {how_ended(code)}" + (f"\nIt said last:\n{said}" if said else "")


def _tail(stderr: Any, lines: int = 20) -> str:
    stderr.seek(0)
    return "\n".join(stderr.read().decode("utf-8", "replace").strip().splitlines()[-lines:])
