"""One job on a device, in a folder of its own there: started once, followed over as many connections as it takes, and ended."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgearte.device.reach import Patience, Shell, end, patiently
from edgearte.errors import UserError

BEAT_S = 2.0
CLOSING_S = 5.0  # for a connection that is over to say how it ended
STOP_S = 10.0  # to tell a device that a job is over; where it cannot be told, the lease ends it
GONE = 9  # the follower's exit code where the job's folder is not there


@dataclass(frozen=True)
class Command:
    """What runs a job on the device: the supervisor's path, the program it starts, and the variables that it gets."""

    supervisor: str
    program: Sequence[str]
    variables: Mapping[str, str]


class Job:
    """A job in `folder`, which outlives whoever follows it by `lease_s`."""

    def __init__(self, shell: Shell, folder: str, lease_s: int) -> None:
        self._shell = shell
        self._folder = shlex.quote(folder)
        self._lease_s = lease_s

    def start(self, job: Mapping[str, Any], command: Command) -> None:
        """Start it, once: where the connection broke in the middle and this is the second time, the first one goes on."""
        text = (json.dumps(job) + "\n").encode()
        program = shlex.join(["env", *(f"{name}={value}" for name, value in command.variables.items()), *command.program])
        done = self._shell.run(
            f"mkdir -p {self._folder} && cd {self._folder} || exit 7\n"
            "cat >job.$$\n"
            f'[ "$(wc -c <job.$$)" -eq {len(text)} ] || exit 8\n'
            "mv job.$$ job.json && : >>records.jsonl && echo start >lease || exit 7\n"
            "alone=; command -v setsid >/dev/null 2>&1 && alone=setsid\n"
            f"$alone sh {shlex.quote(command.supervisor)} {self._lease_s} {program} </dev/null >/dev/null 2>&1 &",
            text,
        )
        if done.code:
            raise UserError(f"the job could not be started there: {done.said or f'code {done.code}'}")

    def follow(self, deadline: float | None) -> Iterator[dict[str, Any]]:
        """Its records as they come; ends early at the deadline. `Unreachable` where the device does not come back, or the job is gone."""
        patience, connections, read = Patience(), 0, 0
        while True:
            child, said = self._shell.open(
                f"cd {self._folder} 2>/dev/null || exit {GONE}\n"
                "echo connected\n"
                f"tail -c +{read + 1} -f records.jsonl & tail=$!\n"
                "echo $tail >follower.$$\n"
                "while read -r beat; do echo $beat >lease; done\n"
                "rm -f follower.$$; kill $tail"
            )
            over = threading.Event()
            threading.Thread(target=_beat, args=(child, over, deadline), daemon=True).start()
            try:
                lines = _lines(child)
                if next(lines, None):
                    connections += 1
                    patience.came(connections)
                for line in lines:
                    read += len(line)
                    if line.strip():
                        with contextlib.suppress(ValueError):  # cut off in the middle by the harness's death; the end follows
                            yield json.loads(line)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(CLOSING_S)
            finally:
                over.set()
                code = end(child)
                with said:
                    said.seek(0)
                    words = said.read().decode("utf-8", "replace")
            if deadline is not None and time.monotonic() >= deadline:
                return
            if code == GONE:
                raise self._shell.unreachable("the job is gone from there: nobody followed it while its lease lasted, or it was restarted")
            patience.wait(self._shell.unreachable(words))

    def last_words(self) -> str:
        """The end of what the harness wrote to standard error."""
        return self._shell.run(f"cat {self._folder}/last").out.decode("utf-8", "replace").strip()

    def stop(self) -> None:
        """End it, and have its supervisor remove the folder. Where the device is out of reach, its lease does that."""
        script = f"cd {self._folder} 2>/dev/null || exit 0\n: >stop\n! read -r pid <pid || kill -9 -$pid || kill -9 $pid"
        with contextlib.suppress(UserError):
            patiently(lambda _: self._shell.run(script, timeout_s=STOP_S), STOP_S)


def _lines(child: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Whole lines, as they come."""
    assert child.stdout
    left = b""
    while chunk := child.stdout.read1(1 << 16):  # type: ignore[attr-defined]
        *whole, left = (left + chunk).split(b"\n")
        for line in whole:
            yield line + b"\n"


def _beat(child: subprocess.Popen[bytes], over: threading.Event, deadline: float | None) -> None:
    """Keep the lease while the job is followed; end the connection at the deadline."""
    assert child.stdin
    while not over.is_set():
        try:
            child.stdin.write(f"{time.time()}\n".encode())
            child.stdin.flush()
        except (OSError, ValueError):
            return
        left = BEAT_S if deadline is None else min(BEAT_S, deadline - time.monotonic())
        if left <= 0:
            child.kill()
            return
        over.wait(left)
