"""Random values of every kind that the generators use, and the words they are made of.

A value comes with its surface form, the text that stands for it in a sentence. Nothing here
knows of sentences, schemas or the chat format.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

DATA = Path(__file__).parent / "data"
TOKENIZER = Path(__file__).parents[2] / "embedded" / "tokenizer.json"
# GB 2312 level 1: the 3,755 common characters.
HANZI = "".join(
    bytes([high, low]).decode("gb2312")
    for high in range(0xB0, 0xD8)
    for low in range(0xA1, 0xFF)
    if (high, low) < (0xD7, 0xFA)
)
Value = tuple[Any, str]  # JSON value, surface form


@cache
def words(section: str) -> tuple[str, ...]:
    """The items of one [section] of words.txt: `|` separated if a bar is there, else blanks."""
    inside, items = False, []
    for line in (DATA / "words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside:
            items += line.split("|") if "|" in line else line.split()
    assert items, section
    return tuple(items)


@cache
def countries() -> tuple[tuple[str, str, str, str], ...]:
    """(country, capital, Chinese country, Chinese capital)."""
    lines = (DATA / "countries.txt").read_text(encoding="utf-8").splitlines()
    rows = [tuple(line.split("|")) for line in lines if line]
    return tuple((a, b, c, d) for a, b, c, d in rows)


def of(r: Random, section: str, lang: str = "en") -> str:
    return r.choice(words(section if lang == "en" else f"zh_{section}"))


def letters(r: Random, low: int, high: int, alphabet: str = string.ascii_lowercase) -> str:
    return "".join(r.choices(alphabet, k=r.randint(low, high)))


def digits(r: Random, low: int, high: int) -> str:
    return letters(r, low, high, string.digits)


def hanzi(r: Random, low: int, high: int) -> str:
    return "".join(r.choices(HANZI, k=r.randint(low, high)))


@cache
def pieces() -> tuple[str, ...]:
    """The tokenizer's tokens that are parts of lower-case words; none before it is trained."""
    if not TOKENIZER.exists():
        return ()
    vocabulary = json.loads(TOKENIZER.read_text(encoding="utf-8"))["model"]["vocab"]
    return tuple(sorted(t for t in vocabulary if t.isascii() and t.isalpha() and t.islower()))


def made_up(r: Random) -> str:
    """A word that no dictionary has, mostly pronounceable. Some are made of the tokenizer's own
    pieces, so that even a token that text hardly ever holds is one that the model can copy."""
    if r.random() < 0.3 and pieces():
        return "".join(r.choices(pieces(), k=r.randint(1, 3)))
    return "".join(r.choices(words("syllables"), k=r.randint(2, 4)))


def scramble(r: Random, lang: str = "en") -> str:
    """A string that can only be copied: made-up words, random letters, random characters."""
    roll = r.random()
    if lang == "zh" and roll < 0.6:
        return hanzi(r, 2, 6)
    if roll < 0.45:
        return made_up(r).capitalize()
    if roll < 0.6:
        return " ".join(made_up(r).capitalize() for _ in range(r.randint(2, 3)))
    if roll < 0.72:
        return made_up(r)
    if roll < 0.82:
        return letters(r, 3, 9, string.ascii_letters)
    if roll < 0.92:
        return (
            f"{made_up(r).capitalize()} {letters(r, 1, 3, string.ascii_uppercase + string.digits)}"
        )
    return letters(r, 4, 9, string.ascii_letters + string.digits)


def person(r: Random, lang: str = "en") -> str:
    if lang == "zh":
        roll = r.random()
        surname = of(r, "surnames", "zh") if roll < 0.9 else hanzi(r, 1, 1)
        given = of(r, "given", "zh") if roll < 0.4 else hanzi(r, 1, 2)
        return surname + given if roll < 0.96 else person(r, "en")
    roll = r.random()
    first = of(r, "first_names") if roll < 0.75 else made_up(r).capitalize()
    last = of(r, "last_names") if 0.05 < roll < 0.7 else made_up(r).capitalize()
    if roll > 0.96:
        return f"{r.choice(['Dr.', 'Mr.', 'Ms.', 'Prof.'])} {first} {last}"
    if roll > 0.93:
        return f"{first} {r.choice(string.ascii_uppercase)}. {last}"
    if roll > 0.9:
        return f"{first} {last}-{of(r, 'last_names')}"
    return first if roll > 0.86 else f"{first} {last}"


def company(r: Random, lang: str = "en") -> str:
    roll = r.random()
    if lang == "zh":
        if roll < 0.3:
            return of(r, "companies", "zh")
        stem = of(r, "company_words", "zh") if roll < 0.6 else hanzi(r, 2, 3)
        return stem + of(r, "company_suffix", "zh")
    if roll < 0.15:
        return of(r, "companies")
    stem = of(r, "company_words") if roll < 0.6 else made_up(r).capitalize()
    if roll > 0.9:
        return stem
    if 0.5 < roll < 0.6:
        stem += f" {of(r, 'company_words')}"
    return f"{stem} {of(r, 'company_suffix')}"


def city(r: Random, lang: str = "en") -> str:
    if r.random() < 0.12:
        return hanzi(r, 2, 3) + r.choice("市县镇州") if lang == "zh" else made_up(r).capitalize()
    return of(r, "cities", lang)


def email(r: Random) -> str:
    roll = r.random()
    first = of(r, "first_names").lower() if roll < 0.6 else made_up(r)
    last = of(r, "last_names").lower() if roll < 0.5 else made_up(r)
    if not (first + last).isascii():
        first, last = made_up(r), made_up(r)
    user = r.choice([f"{first}.{last}", first, f"{first}_{last}", first + digits(r, 1, 4)])
    user = user.replace("'", "")
    host = r.choice(["example", "gmail", "outlook", "mail", "company", made_up(r), made_up(r)])
    return f"{user}@{host}.{r.choice(['com', 'com', 'org', 'net', 'io', 'cn', 'co.uk', 'de'])}"


def phone(r: Random, lang: str = "en") -> str:
    if lang == "zh" and r.random() < 0.8:
        return "1" + r.choice("35789") + digits(r, 9, 9)
    a, b, c = digits(r, 3, 3), digits(r, 3, 3), digits(r, 4, 4)
    forms = [f"555-{c}", f"{a}-{b}-{c}", f"({a}) {b}-{c}", f"+1 {a} {b} {c}", a + b + c]
    return r.choice([*forms, f"+{digits(r, 2, 2)} {digits(r, 2, 3)} {digits(r, 6, 8)}"])


def code(r: Random) -> str:
    upper = string.ascii_uppercase
    roll = r.random()
    if roll < 0.3:
        return f"{letters(r, 2, 4, upper)}-{digits(r, 2, 6)}"
    if roll < 0.5:
        return letters(r, 1, 3, upper) + digits(r, 2, 5)
    if roll < 0.65:
        return digits(r, 4, 10)
    if roll < 0.75:
        return f"#{digits(r, 3, 6)}"
    if roll < 0.85:
        return letters(r, 6, 10, upper + string.digits)
    return f"{letters(r, 1, 4, upper)}-{digits(r, 4, 4)}-{letters(r, 1, 4, upper + string.digits)}"


def iso_date(r: Random) -> str:
    return f"{r.randint(1950, 2035)}-{r.randint(1, 12):02}-{r.randint(1, 28):02}"


def date(r: Random, lang: str = "en") -> str:
    year, month, day = r.randint(1950, 2035), r.randint(1, 12), r.randint(1, 28)
    if r.random() < 0.35:
        return iso_date(r)
    if lang == "zh":
        return f"{year}年{month}月{day}日" if r.random() < 0.7 else f"{month}月{day}日"
    name = words("months")[month - 1]
    forms = [
        f"{name} {day}, {year}",
        f"{name} {day}",
        f"{day} {name} {year}",
        f"{month}/{day}/{year}",
    ]
    return r.choice([*forms, f"{day}.{month}.{year}"])


def any_date(r: Random, lang: str = "en") -> str:
    roll = r.random()
    if roll < 0.3:
        return of(r, "weekdays", lang)
    return of(r, "relative_days", lang) if roll < 0.4 else date(r, lang)


def clock(r: Random, lang: str = "en") -> str:
    hour, minute = r.randint(1, 12), r.choice([0, 0, 15, 30, 45, r.randint(0, 59)])
    if r.random() < 0.4:
        return f"{r.randint(0, 23):02}:{minute:02}"
    if lang == "zh":
        return r.choice(["上午", "下午", "晚上"]) + f"{hour}点" + ("半" if minute == 30 else "")
    half = r.choice(["AM", "PM", "am", "pm"])
    return f"{hour}{half}" if minute == 0 else f"{hour}:{minute:02} {half}"


def address(r: Random, lang: str = "en") -> str:
    if lang == "zh":
        return f"{of(r, 'streets', 'zh')}{r.randint(1, 999)}号"
    street = of(r, "streets") if r.random() < 0.7 else f"{made_up(r).capitalize()} Street"
    return f"{r.randint(1, 9999)} {street}"


def title(r: Random, lang: str = "en") -> str:
    if lang == "zh":
        return hanzi(r, 2, 6)
    adjective, noun = of(r, "adjectives").title(), of(r, "nouns").title()
    forms = [
        f"The {adjective} {noun}",
        f"{adjective} {noun}s",
        f"The {noun} of {made_up(r).title()}",
    ]
    return r.choice([*forms, f"{noun} and {of(r, 'nouns').title()}", made_up(r).title()])


def event(r: Random, lang: str = "en") -> str:
    if lang == "zh":
        head = r.choice(
            ["项目", "年度", "产品", "预算", "周", "技术", "新年", "生日", "团队", hanzi(r, 2, 2)]
        )
        return head + r.choice(
            ["会议", "评审会", "发布会", "聚会", "例会", "培训", "讨论会", "研讨会"]
        )
    fixed = ["science fair", "birthday party", "team meeting", "project review", "tech conference"]
    if r.random() < 0.25:
        return r.choice(fixed)
    head = of(r, "adjectives") if r.random() < 0.6 else made_up(r)
    return f"{head} {of(r, 'nouns')}"


def place(r: Random, lang: str = "en") -> str:
    if lang == "zh":
        return r.choice(
            [f"{r.randint(1, 30)}号会议室", f"{of(r, 'cities', 'zh')}会展中心", address(r, "zh")]
        )
    forms = [
        f"Room {r.randint(1, 900)}",
        f"the {of(r, 'nouns')} hall",
        f"{made_up(r).title()} Hotel",
    ]
    return r.choice([*forms, f"{made_up(r).title()} Center", city(r), address(r)])


def url(r: Random) -> str:
    tail = r.choice(["", "", f"/{made_up(r)}", f"/{made_up(r)}/{digits(r, 1, 4)}"])
    host = f"{made_up(r)}.{r.choice(['com', 'org', 'io', 'net', 'cn'])}"
    return r.choice(["https://", "http://", "www.", "https://www."]) + host + tail


def country(r: Random, lang: str = "en") -> str:
    row = r.choice(countries())
    return row[2] if lang == "zh" else row[0].removeprefix("the ")


def number(r: Random) -> float | int:
    roll = r.random()
    if roll < 0.4:
        return r.randint(0, 100)
    if roll < 0.6:
        return r.randint(100, 10000)
    return round(r.uniform(0, 10 ** r.randint(0, 3)), r.randint(1, 2))


def plain(value: float) -> str:
    """A number as `json.dumps` writes it."""
    return str(value)


def money(r: Random, lang: str = "en") -> Value:
    roll = r.random()
    value: float
    if roll < 0.45:
        value = r.choice([r.randint(1, 99), r.randint(10, 999), r.randint(1, 90) * 100])
    else:
        value = round(r.uniform(1, 10 ** r.randint(1, 4)), 2)
    if roll > 0.9:
        value = r.randint(10, 150) * 1000
    grouped = f"{value:,}" if value >= 1000 and r.random() < 0.5 else plain(value)
    if isinstance(value, float) and "." in grouped and len(grouped.split(".")[1]) == 1:
        grouped += "0"
    if lang == "zh":
        return value, r.choice([f"{grouped}元", f"¥{grouped}", f"{grouped}块钱", f"{grouped}美元"])
    forms = [f"${grouped}", f"${grouped}", f"{grouped} dollars", f"€{grouped}", f"{grouped} euros"]
    return value, r.choice([*forms, f"£{grouped}", f"{grouped} USD"])


def several(r: Random, lang: str, draw: Callable[[], str], low: int = 1, high: int = 4) -> Value:
    items = list(dict.fromkeys(draw() for _ in range(r.randint(low, high))))
    if len(items) == 1:
        return items, items[0]
    if lang == "zh":
        joint = r.choice(["和", "、", "以及"])
        return items, "、".join(items[:-1]) + joint + items[-1]
    return items, ", ".join(items[:-1]) + r.choice([" and ", " and ", ", and "]) + items[-1]
