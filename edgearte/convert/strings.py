"""Awkward strings: what tokenizers of different making disagree about. The same few thousand in every run.

The kinds follow the bugs people report: digits grouped differently, runs of white space, contractions, text that looks
like a special token, scripts without spaces, emoji joined by invisible characters, and code points newer than a
tokenizer's tables.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

SEED = 20
PER_KIND = 220

SPACES = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "\v",
    "\f",
    "\u00a0",
    "\u2003",
    "\u202f",
    "\u3000",
    "\u2028",
    "\u0085",
]
INVISIBLE = list("\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202e\ufe0f\ufffd")
CONTROL = [chr(c) for c in (*range(1, 32), *range(127, 160))]
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~…—–«»„“”‘’¿¡、。！•→≤∑€£¥₹°©™№§†")
DIGITS = list("0179٣५７²½Ⅷ①〇")
PROSE = """
the quick brown fox jumps over a lazy dog Turn off kitchen light LIGHTS iPhone naïve café Ångström straße İstanbul
O'Neill don't we'LL they've I'm she'd it's rock'n'roll e-mail U.S.A. 3rd x86_64 snake_case camelCase HTTPServer
Zürich façade résumé coöperate jalapeño Łódź ŐŰ ñandú Ðe þorn
"""
WORDS = PROSE.split()
EMOJI = "😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 🏳️‍🌈 ❤️ ☎ 1️⃣ 🧑🏿‍🚀 🫠 ♂ ⚙️".split(" ")  # noqa: SIM905 (joiners are hard to see in a list)
SCRIPTS = """
Привет, как дела сегодня?
Γειά σου Κόσμε, τι κάνεις;
שלום עולם מה שלומך
مرحبا بالعالم كيف حالك
नमस्ते दुनिया आप कैसे हैं
สวัสดีชาวโลกสบายดีไหม
你好世界今天天气怎么样
こんにちは世界、元気ですか？カタカナ
안녕하세요 세계 오늘 어때요
Xin chào thế giới hôm nay
வணக்கம் உலகம் எப்படி
გამარჯობა მსოფლიო
Բարեւ աշխարհ
ሰላም ልዑል
សួស្តី​ពិភពលោក
မင်္ဂလာပါ
ᐊᐃᓐᖓᐃ
𐌲𐌿𐍄𐌹𐍃𐌺
𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛
""".strip().split("\n")
CODE = [
    "def f(x, *, y=1):\n    return x**2 + y  # square\n",
    "for (int i = 0; i < n; ++i) {\n\tsum += a[i];\n}\n",
    "SELECT * FROM t WHERE a<>'b''c';",
    '<div class="a-b">&nbsp;{{ x }}</div>\r\n',
    "https://example.org/a?b=c&d=%20#e",
    '{"k": [1, 2.5e-3, null, "\\u00e9"]}',
    "$HOME/.config && rm -i *.tmp",
    "lambda: (yield)\n\n\n        pass\n",
    "\\frac{1}{2} \\alpha_{i}^{2}",
    "#include <stdio.h>\n#define X(a) #a##_t\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "a!=b==c>=d<=e->f=>g::h",
]


def awkward(specials: Sequence[str]) -> list[tuple[str, str]]:
    """(kind, text) pairs, over two thousand; `specials` are the checkpoint's own special tokens, to appear inside text.

    NUL and lone surrogates are left out: no UTF-8 C string can carry them, so no runtime is asked to read them.
    """
    makers: dict[str, Callable[[random.Random], str]] = {
        "spaces": lambda r: _mix(r, SPACES, WORDS[:12], 6),
        "invisible": lambda r: _mix(r, INVISIBLE, WORDS, 5),
        "punctuation": lambda r: "".join(
            r.choice(PUNCTUATION) * r.choice((1, 1, 2, 3, 9)) for _ in range(r.randint(1, 8))
        ),
        "words": lambda r: r.choice(("", " ", "\n")) + r.choice((" ", "  ", "\n", "")).join(_some(r, WORDS, 12)),
        "digits": _digits,
        "code": lambda r: r.choice(("", "    ", "\t")) + r.choice(CODE)[r.randint(0, 9) :] + r.choice(CODE),
        "emoji": lambda r: _mix(r, EMOJI, WORDS, 4),
        "control": lambda r: _mix(r, CONTROL, WORDS[:9], 4),
        "special": lambda r: _special(r, specials),
        "long": lambda r: r.choice((r.choice(WORDS), "a", "Ab", "=", "-", "ха", "哈", "xyz0")) * r.randint(20, 90),
        "script": lambda r: r.choice(("", " ")).join(_slice(r, s) for s in _some(r, SCRIPTS, 4)),
        "combining": lambda r: "".join(c + r.choice(("", "\u0301", "\u0308", "\u0323\u0302")) for c in r.choice(WORDS)),
        "any": lambda r: "".join(_any(r) for _ in range(r.randint(1, 12))),
    }
    out = [("empty", ""), *[("script", s) for s in SCRIPTS], *[("code", s) for s in CODE]]
    for kind, make in makers.items():
        rng = random.Random(f"{SEED} {kind}")
        out += [(kind, make(rng)) for _ in range(PER_KIND)]
    return out


def _some(rng: random.Random, pieces: Sequence[str], most: int) -> list[str]:
    return rng.choices(pieces, k=rng.randint(1, most))


def _mix(rng: random.Random, marks: Sequence[str], words: Sequence[str], most: int) -> str:
    """Runs of marks, most of them between words."""
    pieces = []
    for _ in range(rng.randint(1, most)):
        pieces += [rng.choice(words) if rng.random() < 0.7 else "", rng.choice(marks) * rng.choice((1, 1, 1, 2, 3, 7))]
    return "".join(pieces) + rng.choice(("", rng.choice(words)))


def _digits(rng: random.Random) -> str:
    number = "".join(rng.choice(DIGITS[:4]) for _ in range(rng.randint(1, 25)))
    a, b, c = number[:3], number[3:6], number[6:9]
    shapes = (
        number,
        f" {number}",
        f"  {number}\n {a}",
        f"{a},{b}.{c}",
        f"-{number}%",
        f"x{number}y",
        f"{number} {a}",
        f"1.{b}e-{a}",
        f"{a}:{b}:{c}",
        f"${a}",
        "".join(_some(rng, DIGITS, 8)),
    )
    return rng.choice(shapes)


def _special(rng: random.Random, specials: Sequence[str]) -> str:
    token = rng.choice(list(specials) or ["<s>"])
    near = (token, token, token[:-1], token[1:], token.upper(), token * 2, f" {token} ", f"{token}\n", f"<{token[2:]}")
    return rng.choice(("", "user", "a ")) + rng.choice(near) + rng.choice(("", "hello", " 12", "\n\n", token))


def _slice(rng: random.Random, text: str) -> str:
    start = rng.randrange(len(text))
    return text[start : start + rng.randint(1, 9)]


def _any(rng: random.Random) -> str:
    """One code point, half of them from the basic plane, no surrogates."""
    while True:
        point = rng.randint(0x20, 0xFFFF) if rng.random() < 0.5 else rng.randint(0x10000, 0x323AF)
        if not 0xD800 <= point <= 0xDFFF:
            return chr(point)
