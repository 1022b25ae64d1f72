"""Checks drafted targets: an intent of schema.json, keys that this intent knows, and values that stand in the utterance.

It reads a JSON line {"input", "target"} for each draft, and answers each with {"ok": bool}. Where it can mend a target, it gives the
better one: keys in the schema's order, values spelled as in the utterance, slots that are not filled left out.
"""

import json
import re
import sys
from pathlib import Path

ABSENT = {"", "unknown", "none", "null", "n/a", "not mentioned", "not specified"}  # how a teacher says that a slot is not filled
SCHEMA = json.loads((Path(__file__).parent / "schema.json").read_text("utf-8"))


def as_said(utterance: str, value: str) -> str:
    """The value as it stands in the utterance, in whole words; "" where it does not."""
    whole = rf"(?<!\w){re.escape(value)}(?!\w)"
    found = re.search(whole, utterance) or re.search(whole, utterance, re.IGNORECASE)
    return found.group() if found else ""


def mended(utterance: str, target: str) -> str | None:
    """The target as it should be written; None where it is wrong."""
    try:
        given = json.loads(target)
    except ValueError:
        return None
    if not isinstance(given, dict) or not isinstance(given.get("intent"), str) or given["intent"] not in SCHEMA:
        return None
    keys = SCHEMA[given["intent"]]
    slots = {key: value for key, value in given.items() if key != "intent" and value is not None}
    slots = {key: value for key, value in slots.items() if not (isinstance(value, str) and value.strip().lower() in ABSENT)}
    if not slots or not slots.keys() <= set(keys) or not all(isinstance(value, str) for value in slots.values()):
        return None
    found = {"intent": given["intent"]}
    for key in keys:
        if key in slots:
            spelled = as_said(utterance, slots[key].strip())
            if not spelled:  # it is not said
                return None
            found[key] = spelled
    return json.dumps(found, ensure_ascii=False)


for line in sys.stdin:
    row = json.loads(line)
    right = mended(row["input"], row["target"])
    if right is None:
        print(json.dumps({"ok": False}))
    elif right == row["target"]:
        print(json.dumps({"ok": True}))
    else:
        print(json.dumps({"ok": False, "target": right}))
