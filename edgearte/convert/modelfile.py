"""The Modelfile: what Ollama needs to run a GGUF file the way it was taught.

Ollama renders chats with Go templates of its own. A GGUF without one talks garbage there although the file is right,
so the template is derived from the checkpoint's jinja template: it is rendered on a marked conversation, and where the
result has exactly the shape of a known family, that shape is written down in Go's words. What is not recognised is left
out openly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgearte.errors import UserError
from edgearte.lm.template import Messages, render


@dataclass(frozen=True)
class Family:
    """How a family of models writes a turn: `opening` with the role in it, the content, `closing`."""

    name: str
    opening: str
    closing: str
    assistant: str = "assistant"

    def turn(self, role: str, content: str) -> str:
        return self.open(role) + content + self.closing

    def open(self, role: str) -> str:
        return self.opening.format(role=role)


FAMILIES = (
    Family("chatml", "<|im_start|>{role}\n", "<|im_end|>\n"),
    Family("llama-3", "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
    Family("gemma", "<start_of_turn>{role}\n", "<end_of_turn>\n", assistant="model"),
)


@dataclass(frozen=True)
class Chat:
    """What a chat template does: its family, where a system message goes, and the one it puts in when there is none.

    `before` and `after` stand around the system message in its own turn; `glue`, when not `None`, says that there is no
    such turn and the message goes before the first question with this text between them.
    """

    family: Family
    before: str = ""
    after: str = ""
    glue: str | None = None
    default_system: str | None = None


def recognise(template: str, eos: str = "") -> Chat | None:
    """The family whose shape the template has exactly, over several turns; `None` when it has another."""
    talk = [_message("user", "Q1"), _message("assistant", "A1"), _message("user", "Q2")]
    try:
        plain = render(template, talk, eos)
    except Exception:  # a template is a program of the model's author: whatever it raises, it is not one we know
        return None
    for family in FAMILIES:
        rest = family.turn(family.assistant, "A1") + family.turn("user", "Q2") + family.open(family.assistant)
        if not plain.endswith(family.turn("user", "Q1") + rest):
            continue
        lead = plain.removesuffix(family.turn("user", "Q1") + rest)
        opening = family.open("system")
        if lead and not (lead.startswith(opening) and lead.endswith(family.closing)):
            return None
        default = lead[len(opening) : len(lead) - len(family.closing)] if lead else None
        return _with_system(family, default, rest, template, talk, eos)
    return None


def _with_system(
    family: Family, default: str | None, rest: str, template: str, talk: Messages, eos: str
) -> Chat | None:
    try:
        text = render(template, [_message("system", "S0"), *talk], eos)
    except Exception:  # gemma's older templates refuse a system message
        return Chat(family) if default is None else None
    own, folded = family.open("system"), family.open("user")
    end = family.closing + family.turn("user", "Q1") + rest
    if text.startswith(own) and text.endswith(end) and text.count("S0") == 1:
        before, _, after = text[len(own) : len(text) - len(end)].partition("S0")
        if default is not None and default.startswith(before) and default.endswith(after):
            default = default[len(before) : len(default) - len(after)]
        elif default is not None and (before or after):
            return None
        return _go_safe(Chat(family, before, after, default_system=default))
    end = "Q1" + family.closing + rest
    if default is None and text.startswith(folded + "S0") and text.endswith(end):
        return _go_safe(Chat(family, glue=text[len(folded + "S0") : len(text) - len(end)]))
    return None


def _go_safe(chat: Chat) -> Chat | None:
    return None if "{{" in chat.before + chat.after + (chat.glue or "") else chat


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def go_template(chat: Chat) -> str:
    """The same chat as a Go template in Ollama's variables. No trim markers: all that is outside braces is output."""
    family, content = chat.family, "{{ .Content }}"
    messages = "{{ range $i, $_ := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}"
    question = '{{ if eq .Role "user" }}' + family.open("user")
    if chat.glue is None:
        system = family.turn("system", f"{chat.before}{{{{ .System }}}}{chat.after}")
        always = chat.default_system is not None
        head = (system if always else f"{{{{ if .System }}}}{system}{{{{ end }}}}") + messages
    else:
        head = "{{ $first := true }}" + messages
        question += (
            f"{{{{ if and $first $.System }}}}{{{{ $.System }}}}{chat.glue}{{{{ end }}}}{{{{ $first = false }}}}"
        )
    reply = family.open(family.assistant)
    return (
        f'{head}{question}{content}{family.closing}{{{{ else if eq .Role "assistant" }}}}{reply}{content}'
        f"{{{{ if not $last }}}}{family.closing}{{{{ end }}}}{{{{ end }}}}"
        f'{{{{ if and $last (ne .Role "assistant") }}}}{reply}{{{{ end }}}}{{{{ end }}}}'
    )


def modelfile(files: Sequence[str], tokenizer: dict[str, Any], template: str, system: str = "") -> str:
    """The text of a Modelfile.

    `files` are the bundle's GGUF files, the one to run first; `tokenizer` is tokenizer_config.json, `template` the
    jinja chat template (empty when there is none), `system` the task's own system message. Raises `UserError` for a
    system message that cannot be quoted in a Modelfile.
    """
    value = tokenizer.get("eos_token") or ""
    eos = value if isinstance(value, str) else str(value.get("content", ""))
    chat = recognise(template, eos) if template else None
    system = system or (chat.default_system or "" if chat else "")
    if '"""' in system:
        raise UserError('the task\'s system message holds """, which a Modelfile cannot quote; write it without')
    lines = ["# ollama create NAME -f Modelfile", f"FROM ./{files[0]}"]
    lines += [f"# or: FROM ./{other}" for other in files[1:]]
    if chat:
        lines += [f"# {chat.family.name}, as in tokenizer/chat_template.jinja", f'TEMPLATE """{go_template(chat)}"""']
    else:
        why = "is of no family we can write for Ollama" if template else "is missing: this is not a chat model"
        lines += [
            f"# No TEMPLATE: the chat template {why}.",
            "# Ollama uses the one inside the GGUF file if it knows it.",
        ]
    if system:
        lines.append(f'SYSTEM """{system}"""')
    stops = dict.fromkeys(s for s in (chat.family.closing.strip() if chat else "", eos) if s)
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    lines += ["# The accuracy in README.md was measured with greedy decoding.", "PARAMETER temperature 0"]
    return "\n".join(lines) + "\n"
