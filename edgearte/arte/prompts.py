"""Every prompt of the loop and how its output is read, in the two styles of teacher: `chat` for a model that follows
instructions, `continuation` for a base or weak one, which only has to go on with a pattern that is held open for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgearte.answers import named
from edgearte.lm.base import LM
from edgearte.records import Question
from edgearte.task import Task

NAIVE = "Let's think step by step."
AGAIN = (
    "An earlier answer to this question was doubted. Work it out anew and with care: say what is asked, go on in small steps, and check "
    "each of them before you give the answer."
)
WHY = "Say in one short, whole sentence why this is the answer."
CHARACTERS = 4  # of a token, about
_QUESTION = re.compile(r"<Question_\d+>\s*<input>(.*?)</input>\s*<target>(.*?)</target>", re.S)
_GIVEN = re.compile(r"<target>(.*?)</target>\s*<input>(.*?)</input>", re.S)


def question_text(number: int, text: str, target: str, *, given: bool) -> str:
    """One question in the form of paper 1a; with the target first where the question is drafted for a given answer."""
    body = f"<input>{text}</input>\n<target>{target}</target>"
    if given:
        body = f"<target>{target}</target>\n<input>{text}</input>"
    return f"<Question_{number}>\n{body}\n</Question_{number}>"


def opening(number: int, target: str = "") -> str:
    """How a question begins, up to its text; with the target first where it is drafted for one. A drafting prompt breaks off
    after it, so that the teacher goes on from there."""
    return f"<Question_{number}>\n" + (f"<target>{target}</target>\n<input>" if target else "<input>")


def draft_chat(lm: LM, task: Task, seeds: Sequence[Question], count: int) -> str:
    """Paper 1a: description, seeds, and a request for more. The answer's first tag is written already, which a small teacher needs
    to keep the form."""
    first, last = len(seeds) + 1, len(seeds) + count
    shown = "\n".join(question_text(i, s.input, s.target, given=False) for i, s in enumerate(seeds, 1))
    if seeds:
        begin = f"Here are {len(seeds)} example questions with their targets:\n{shown}\n\n"
        begin += f"Please brainstorm {count} more questions of this kind"
        form, new = "exactly the same form. ", "They must be new and differ from the examples and from each other"
        written = "Each target is the correct answer, written the way the examples write theirs."
    else:
        example = question_text(1, "the question", "its answer", given=False)
        begin = f"Please brainstorm {count} questions of this kind"
        form, new = f"exactly this form:\n{example}\n", "They must differ from each other"
        written = "Each target is the correct answer and nothing else."
    ask = (
        f"{task.description}\n\n{begin}, from <Question_{first}> to <Question_{last}>, in {form}{new} in what they are about, in their "
        f"wording and in their difficulty. {written}"
    )
    return lm.chat([{"role": "user", "content": ask}]) + opening(first)


def read_questions(completion: str, first: int, target: str = "") -> list[tuple[str, str]]:
    """(input, target) of every complete question; the opening that the prompt ended with is put back."""
    whole = opening(first, target) + completion
    if target:
        return [(b.strip(), a.strip()) for a, b in _GIVEN.findall(whole)]
    return [(a.strip(), b.strip()) for a, b in _QUESTION.findall(whole)]


def draft_continuation(task: Task, seeds: Sequence[Question], target: str) -> str:
    """The pattern of the seeds, broken off where the text of the next question begins. With a closed set of answers that one is
    drafted *for* a target, since a weak teacher can write to a label where it cannot label what it wrote."""
    shown = "\n".join(question_text(i, s.input, s.target, given=bool(target)) for i, s in enumerate(seeds, 1))
    return f"{task.description}\n\n{shown}\n{opening(len(seeds) + 1, target)}"


def continuation_pattern(first: int, targets: Sequence[str], tokens: int) -> str:
    """What a continuation must look like, from the text of its first question to that of the last (or, where no target is
    given, to its target): no token is spent on what is known."""
    text = rf"[A-Z0-9][^<>\n]{{8,{bound(tokens)}}}</input>"
    parts = []
    for number, target in enumerate(targets, first):
        begin = "" if number == first else f"\n</Question_{number - 1}>\n{re.escape(opening(number, target))}"
        parts.append(begin + text + ("" if target else r"\n<target>[^<>\n]{1,80}</target>"))
    return "".join(parts)


def bound(tokens: int) -> int:
    """Characters that a pattern lets a text have. One that has them all was cut off there."""
    return tokens * CHARACTERS


def why_chat(lm: LM, task: Task, seeds: Sequence[Question], text: str, target: str, instruction: str) -> str:
    """A chat is told the right answer and asked for one sentence of why: so its reasoning never argues for another. Where the seeds bring
    rationales, they show how; `instruction` is a strategy's, "" for the naive prompt."""
    meaning = task.meanings.get(target, "")
    shown = "".join(f"Question: {s.input}\nAnswer: {s.target}\nWhy: {s.rationale}\n\n" for s in seeds)
    asked = f"Question: {text}\nAnswer: {target}" + (f" ({meaning})" if meaning else "")
    how = f"{instruction} {WHY}" if instruction else WHY
    ask = f"{task.description}\n\n{shown}{asked}\n\n{how} Do not repeat the question, and write nothing else."
    return lm.chat([{"role": "user", "content": ask}]) + "Why:"


def rationale_chat(lm: LM, task: Task, text: str, instruction: str, shown: Sequence[Question] = ()) -> str:
    """Paper 1b (a strategy's instruction) or the naive prompt of alignment and tailoring (`NAIVE`); after worked examples, if any are
    shown."""
    examples = "".join(f"Question: {q.input}\nAnswer: {completion_of(task, q)}\n\n" for q in shown)
    before = f"Here are questions of this kind with their answers.\n\n{examples}Now to this one.\n\n" if shown else ""
    ask = f"{task.description}\n\n{before}Question: {text}\n\n{instruction} {_ending(task)}"
    return lm.chat([{"role": "user", "content": ask}])


def rationale_continuation(task: Task, seeds: Sequence[Question], text: str, target: str, opening: str) -> str:
    """The seeds' rationales, then this question's, broken off after its opening words. With a closed set of answers the reasoning
    is asked for the given answer; where none is given, it comes first and the answer follows."""
    if given(task, target):
        shown = "\n\n".join(f"Question: {s.input}\nAnswer: {s.target}\nWhy: {s.rationale}" for s in seeds)
        return f"{shown}\n\nQuestion: {text}\nAnswer: {target}\nWhy:{opening and ' ' + opening}"
    shown = "\n\n".join(f"Question: {s.input}\nAnswer: {NAIVE} {s.rationale} {answered(task, s.target)}" for s in seeds)
    return f"{task.description}\n\n{shown}\n\nQuestion: {text}\nAnswer: {NAIVE}{opening and ' ' + opening}"


def given(task: Task, target: str) -> bool:
    """Whether a continuation's rationale is asked for a given answer, and does not find its own."""
    return bool(task.answer.choices and target)


def rationale_pattern(task: Task, target: str, tokens: int) -> str:
    """One line of reasoning that ends as a sentence does; where no answer is given, with one between tags at its end."""
    line = rf" [^<>\n]{{4,{bound(tokens)}}}[.!?]"
    if given(task, target):
        return rf"{line}\n"
    answer = "|".join(map(re.escape, task.answer.choices)) or r"[^<>\n]{1,80}"
    return rf"{line} ?{task.answer.open}({answer}){task.answer.close}"


def told(task: Task, sentence: str, target: str) -> str:
    """A rationale for a given answer: its reasoning, then that answer in the task's form."""
    return f"{sentence} {answered(task, target)}"


def answered(task: Task, target: str) -> str:
    """A bare answer in the form the task asks for."""
    return f"{task.answer.open}{target}{task.answer.close}" if task.answer.tagged else target


def _ending(task: Task) -> str:
    if not task.answer.tagged:
        return "Then give your final answer."
    return f"Then output your final answer like {task.answer.open}answer{task.answer.close}."


def label_prefix(task: Task) -> str:
    """What each label means, where that is told, and the seeds with their targets and no reasoning: what a vote on a draft's target is
    asked with. Plain text, to a chat model too: what counts is which label it would go on with."""
    meant = "".join(f"- {named(c)}: {task.meanings[c]}\n" for c in task.answer.choices if task.meanings.get(c))
    shown = "\n\n".join(label_question(s.input) + label_answer(s.target) for s in task.seeds)
    return (f"What a question can be about:\n{meant}\n" if meant else "") + f"{shown}\n\n"


def label_question(text: str) -> str:
    return f"Question: {text}\nThis is about:"


def label_answer(target: str) -> str:
    """As words: a name with underscores takes a model more tokens to read, and is no word that it knows."""
    return f" {named(target)}"


def completion_of(task: Task, question: Question) -> str:
    """What the student should write for a question whose target is known: its rationale, if there is one, then the answer."""
    return f"{question.rationale} {answered(task, question.target)}".strip()


def asked(header: str, form: str, text: str, shown: Sequence[tuple[str, str]] = ()) -> list[dict[str, str]] | str:
    """What the student is asked, in training, in evaluation and on the device; `shown` are examples, as (question, completion).

    `form` is how its chat template takes the task: as the `system` message (an app then sends nothing but the question), before
    the question in the `user` message, or `plain` text where it has no template.
    """
    if form == "plain":
        examples = "".join(f"Question: {q}\nAnswer: {c}\n" for q, c in shown)
        return f"{header}\n{examples}Question: {text}\nAnswer:"
    turns = [
        {"role": role, "content": said}
        for q, c in shown
        for role, said in (("user", q if form == "system" else f"Question: {q}"), ("assistant", c))
    ]
    turns.append({"role": "user", "content": text if form == "system" else f"Question: {text}"})
    if form == "system":
        return [{"role": "system", "content": header}, *turns]
    return [{"role": "user", "content": f"{header}\n{turns[0]['content']}"}, *turns[1:]]


def one_shot_prefix(task: Task, text: str, rationale: str) -> str:
    """Paper 2b: the example, up to the preference question; shared by all preference questions of a rationale."""
    return shots_prefix(task, [(text, rationale)])


def shots_prefix(task: Task, shown: Sequence[tuple[str, str]]) -> str:
    """The same with any number of examples, as (question, rationale)."""
    examples = "".join(f"Question: {q}\nAnswer: {NAIVE} {r.strip()}\n" for q, r in shown)
    return f"{task.header}\n{examples}Question: "


def shot_question(text: str) -> str:
    """A preference question, after its examples."""
    return f"{text}\nAnswer: {NAIVE}"


def shot_stop(task: Task) -> tuple[str, ...]:
    """Where an answer after examples ends: a student that goes on with a question of its own has ended it."""
    return ("\nQuestion:", *((task.answer.close,) if task.answer.tagged else ()))
