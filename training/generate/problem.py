"""A word problem, and arithmetic written in steps small enough to be learnt."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from random import Random

from training.generate import values
from training.generate.talk import Turn
from training.generate.values import of


@dataclass(frozen=True)
class Problem:
    prompt: str
    steps: str
    answer: str  # what follows the steps
    short: str  # the whole answer without thinking
    result: str
    lang: str

    def turn(self) -> Turn:
        return Turn(self.prompt, self.short, self.lang)


def show(value: Decimal | int) -> str:
    text = f"{Decimal(value):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def divide(a: Decimal | int, b: Decimal | int) -> str:
    """ "120 / 1.5 = 1200 / 15 = 80": a whole divisor first, then the quotient."""
    a, b = Decimal(a), Decimal(b)
    line = f"{show(a)} / {show(b)}"
    while b != b.to_integral_value():
        a, b = a * 10, b * 10
        line += f" = {show(a)} / {show(b)}"
    return f"{line} = {show(a / b)}"


def multiply(a: Decimal | int, b: Decimal | int) -> str:
    """ "47 * 6 = 40 * 6 + 7 * 6 = 240 + 42 = 282": by the parts of the longer factor."""
    a, b = Decimal(a), Decimal(b)
    total = show(a * b)
    line = f"{show(a)} * {show(b)}"
    parts = _parts(b)
    if len(parts) > 1 and len(_parts(a)) == 1:
        a, b = b, a
    parts = _parts(a)
    if len(parts) == 1:
        return f"{line} = {total}"
    products = [p * b for p in parts]
    spread = " + ".join(f"{show(p)} * {show(b)}" for p in parts)
    sums = " + ".join(show(p) for p in products)
    return f"{line} = {spread} = {sums} = {total}"


def _parts(value: Decimal) -> list[Decimal]:
    """325 -> 300, 20, 5; 1.5 -> 1, 0.5"""
    text = show(value)
    whole, _, fraction = text.partition(".")
    parts = [Decimal(d) * 10 ** (len(whole) - i - 1) for i, d in enumerate(whole) if d != "0"]
    parts += [Decimal(d).scaleb(-i - 1) for i, d in enumerate(fraction) if d != "0"]
    return parts


def somebody(r: Random, lang: str) -> str:
    if lang == "zh":
        return r.choice(["小明", "小红", "小华", "小李", "妈妈", values.person(r, "zh")])
    return of(r, "first_names")
