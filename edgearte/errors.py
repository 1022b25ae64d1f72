"""What a user is told when something is wrong: one clear message, no traceback, exit code 2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: where it is (file, line, key; whatever is known) and what is wrong, with what to do about it."""

    message: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class UserError(Exception):
    """A mistake the user can mend. The command line prints it and exits with 2; only `--debug` shows a traceback."""

    def __init__(self, *problems: str | Problem | Sequence[Problem]) -> None:
        flat: list[Problem] = []
        for problem in problems:
            if isinstance(problem, str):
                flat.append(Problem(problem))
            elif isinstance(problem, Problem):
                flat.append(problem)
            else:
                flat.extend(problem)
        self.problems = tuple(flat)
        super().__init__("\n".join(str(p) for p in self.problems))
