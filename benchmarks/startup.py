"""How long edgearte keeps one waiting: `edgearte --help`, and a finished build run again.

python benchmarks/startup.py             prints help_seconds, the median of 5
python benchmarks/startup.py RECIPE      prints rebuild_seconds too; RECIPE's build must have finished before
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMAND = [sys.executable, "-c", "import sys; from edgearte.cli import main; sys.exit(main())"]


def seconds(arguments: list[str]) -> float:
    """Wall-clock seconds of one run of the command line, the start of Python included. Ends the script where it
    fails."""
    start = time.perf_counter()
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    took = time.perf_counter() - start
    if result.returncode:
        sys.exit(f"edgearte {' '.join(arguments)} ended with code {result.returncode}\n{result.stderr}")
    return took


def main() -> None:
    print(f"help_seconds {statistics.median(seconds(['--help']) for _ in range(5)):.3f}")
    if len(sys.argv) > 1:
        print(f"rebuild_seconds {seconds(['build', *sys.argv[1:]]):.3f}")


if __name__ == "__main__":
    main()
