"""Chat templates are programs, written by whoever published the model: they run in jinja2's sandbox, which keeps them from files and
from Python, and are tried once in a child that may take neither long nor much memory, which the sandbox does not see to.

`python -m edgearte.lm.template` reads a template from its standard input and renders conversations with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache

from edgearte import child

SECONDS, MEMORY = 5, 2**30  # of the processor; bytes. Templates that do their work take milliseconds
Messages = Sequence[dict[str, str]]


def render(template: str, messages: Messages, eos: str = "") -> str:
    """A chat as the jinja template writes it, ready for the assistant's turn, without the beginning-of-sequence token,
    which the runtime adds. Raises whatever the template raises."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    # `strftime_now` is left out on purpose: without it the templates that print today's date print a fixed one.
    return environment.from_string(template).render(
        messages=messages, bos_token="", eos_token=eos, add_generation_prompt=True
    )


@cache
def problem(template: str) -> str | None:
    """Why a template must not be rendered here. What it refuses or cannot do is no such reason: others find that."""
    import subprocess

    command, environment = child.python("edgearte.lm.template")
    quiet = subprocess.DEVNULL
    done = subprocess.run(command, env=environment, input=template.encode(), stdout=quiet, stderr=quiet, check=False)
    if not done.returncode:
        return None
    return f"its chat template takes more than {SECONDS} s or {MEMORY / 2**30:.0f} GB for a short conversation, and is not run here"


def main() -> None:
    with_limits()
    from jinja2 import TemplateError

    template = sys.stdin.buffer.read().decode("utf-8", "replace")
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Who are you?"}]
    for messages in (turns[:1], turns, [{"role": "system", "content": "Be brief."}, *turns]):
        try:
            render(template, messages)
        except MemoryError:
            raise
        except (TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
            continue


def with_limits() -> None:
    """Let the system end this process where it takes more; nothing on systems that have no such limits."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
