"""Regexes for the JSON numbers within bounds. Bounds are decimals, not floats, so they are exact.
Numbers stay within the range of a 64-bit float. An exclusive bound also excludes numbers that a
float would round to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

DIGITS_AFTER = 99  # most digits after the first one
_FRACTION = r"(?:\.[0-9]{1,40})"
_EXPONENT = r"(?:[eE][+-]?[0-9]{1,2})"
_MANTISSA = r"(?:0|[1-9][0-9]{0,99})"
_FLOAT_DIGITS = 15  # a 64-bit float distinguishes decimals of this many digits


@dataclass(frozen=True, slots=True)
class Bounds:
    least: Decimal | None = None
    above: bool = False  # `least` is exclusive
    most: Decimal | None = None
    below: bool = False  # `most` is exclusive

    def meet(self, other: Bounds) -> Bounds:
        least, above = self.least, self.above
        if other.least is not None and (
            least is None or (other.least, other.above) > (least, above)
        ):
            least, above = other.least, other.above
        most, below = self.most, self.below
        if other.most is not None and (
            most is None or (other.most, not other.below) < (most, not below)
        ):
            most, below = other.most, other.below
        return Bounds(least, above, most, below)

    @property
    def empty(self) -> bool:
        if self.least is None or self.most is None:
            return False
        return self.least > self.most or (self.least == self.most and (self.above or self.below))

    def holds(self, value: Decimal) -> bool:
        if self.least is not None and (value < self.least or (self.above and value == self.least)):
            return False
        return self.most is None or value < self.most or (not self.below and value == self.most)


ALL = Bounds()


def integer_range(bounds: Bounds) -> tuple[int | None, int | None]:
    """The smallest and the largest integer within bounds; None where unbounded."""
    least = most = None
    if bounds.least is not None:
        least = int(bounds.least.to_integral_value("ROUND_CEILING"))
        least += bounds.above and least == bounds.least
    if bounds.most is not None:
        most = int(bounds.most.to_integral_value("ROUND_FLOOR"))
        most -= bounds.below and most == bounds.most
    return least, most


def integer_regex(bounds: Bounds) -> str | None:
    """A regex for the integers within bounds; None if there is none."""
    least, most = integer_range(bounds)
    if least is None and most is None:
        return f"-?{_MANTISSA}"
    if least is not None and most is not None and least > most:
        return None
    options = []
    if most is None or most >= 0:
        options += _from_to(max(least or 0, 0), most)
    if least is None or least < 0:
        low = 1 if most is None or most >= 0 else -most
        options += ["-" + part for part in _from_to(low, None if least is None else -least)]
    return "(?:" + "|".join(options) + ")"


def number_regex(bounds: Bounds) -> str | None:
    """A regex for the numbers within bounds; None if there is none."""
    if bounds.empty:
        return None
    if bounds.least is None and bounds.most is None:
        return f"-?{_MANTISSA}{_FRACTION}?{_EXPONENT}?"
    options = []
    if bounds.most is None or bounds.most > 0 or (bounds.most == 0 and not bounds.below):
        low, above = bounds.least, bounds.above
        if low is None or low < 0:
            low, above = Decimal(0), False
        options += _magnitudes(low, above, bounds.most, bounds.below)
    if bounds.least is None or bounds.least < 0:
        low, above = (None, False) if bounds.most is None else (-bounds.most, bounds.below)
        if low is None or low < 0:
            low, above = Decimal(0), True  # zero is written without a sign
        high = None if bounds.least is None else -bounds.least
        options += ["-" + part for part in _magnitudes(low, above, high, bounds.above)]
    return "(?:" + "|".join(options) + ")" if options else None


def _magnitudes(low: Decimal, above: bool, high: Decimal | None, below: bool) -> list[str]:
    """Regexes whose union is the unsigned numbers from `low` to `high`."""
    whole, fraction = _split(low)
    options: list[str] = []
    most, end = (None, "") if high is None else _split(high)
    # Digits after the point: few enough that no float is rounded to an exclusive bound.
    excluded = [bound for bound, out in ((low, above), (high, below)) if out and bound]
    digits = 40
    if excluded:
        digits = max(1, _FLOAT_DIGITS - max(len(_split(bound)[0] + "") for bound in excluded))
    any_digits = f"[0-9]{{0,{digits}}}"
    if most is not None and (int(most), end) == (int(whole), fraction):
        return [] if above or below else [f"{whole}{_exactly(fraction)}"]
    if most is not None and most == whole:
        middle = _fractions_between(fraction, above, end, below, any_digits)
        return [f"{whole}{part}" for part in middle]
    options += [f"{whole}{part}" for part in _fractions_from(fraction, above, any_digits)]
    if most is None or int(whole) + 1 <= int(most) - 1:
        between = _from_to(int(whole) + 1, None if most is None else int(most) - 1)
        options.append(f"(?:{'|'.join(between)})(?:\\.[0-9]{{1,{digits}}})?")
    if most is not None:
        options += [f"{most}{part}" for part in _fractions_to(end, below, any_digits)]
    if low == 0:
        if high is None:
            options.append(rf"[1-9](?:\.[0-9]{{1,40}})?{_EXPONENT}")
        elif high >= 1:
            options.append(r"[1-9](?:\.[0-9]{1,40})?[eE]-(?:0?[1-9]|[1-9][0-9])")
    return options


def _split(value: Decimal) -> tuple[str, str]:
    whole, _, fraction = format(abs(value), "f").partition(".")
    return whole, fraction.rstrip("0")


def _exactly(fraction: str) -> str:
    return rf"\.{fraction}0{{0,40}}" if fraction else r"(?:\.0{1,40})?"


def _fractions_from(digits: str, above: bool, rest: str) -> list[str]:
    """Regexes for the fractions of at least `.digits`, with the point."""
    if not digits:
        return [rf"\.{rest}[1-9]{rest}"] if above else [rf"(?:\.[0-9]{rest})?"]
    options = [
        rf"\.{digits[:at]}[{int(digit) + 1}-9]{rest}"
        for at, digit in enumerate(digits)
        if digit != "9"
    ]
    options.append(rf"\.{digits}{rest}[1-9]{rest}" if above else rf"\.{digits}{rest}")
    return options


def _fractions_to(digits: str, below: bool, rest: str) -> list[str]:
    """Regexes for the fractions of at most `.digits`, with the point."""
    if not digits:
        return [] if below else [r"(?:\.0{1,40})?"]
    options = ["", *(rf"\.{digits[:at]}0*" for at in range(1, len(digits))), r"\.0{1,40}"]
    options += [
        rf"\.{digits[:at]}[0-{int(digit) - 1}]{rest}"
        for at, digit in enumerate(digits)
        if digit != "0"
    ]
    if not below:
        options.append(rf"\.{digits}0{{0,40}}")
    return options


def _fractions_between(low: str, above: bool, high: str, below: bool, rest: str) -> list[str]:
    """Regexes for the fractions between `.low` and `.high`, with the point."""
    width = max(len(low), len(high))
    first, last = low.ljust(width, "0"), high.ljust(width, "0")
    at = next(i for i in range(width) if first[i] != last[i])
    shared = first[:at]
    options = []
    if int(first[at]) + 1 <= int(last[at]) - 1:
        options.append(rf"\.{shared}[{int(first[at]) + 1}-{int(last[at]) - 1}]{rest}")
    tail = low[at + 1 :]
    head = rf"\.{shared}{first[at]}"
    if not low[:at].rstrip("0") and not low and not above:
        options.append(r"(?:\.0{1,40})?")
    options += [f"{head}{part}" for part in _digits_from(tail, above, rest)]
    options += [rf"\.{shared}{last[at]}{part}" for part in _digits_to(high[at + 1 :], below, rest)]
    return options


def _digits_from(digits: str, above: bool, rest: str) -> list[str]:
    digits = digits.rstrip("0")
    if not digits:
        return [f"{rest}[1-9]{rest}"] if above else [rest]
    options = [
        f"{digits[:at]}[{int(digit) + 1}-9]{rest}"
        for at, digit in enumerate(digits)
        if digit != "9"
    ]
    return [*options, f"{digits}{rest}[1-9]{rest}" if above else f"{digits}{rest}"]


def _digits_to(digits: str, below: bool, rest: str) -> list[str]:
    digits = digits.rstrip("0")
    if not digits:
        return [] if below else ["0{0,40}"]
    options = [f"{digits[:at]}0*" for at in range(len(digits))]
    options += [
        f"{digits[:at]}[0-{int(digit) - 1}]{rest}"
        for at, digit in enumerate(digits)
        if digit != "0"
    ]
    return options if below else [*options, f"{digits}0{{0,40}}"]


def _from_to(low: int, high: int | None) -> list[str]:
    """Regexes whose union is the integers from `low` (0 or more) to `high`, in plain notation."""
    if high is None:
        width = len(str(low))
        longer = [f"[1-9][0-9]{{{width},{DIGITS_AFTER}}}"] if width <= DIGITS_AFTER else []
        return [*_same_width(str(low), "9" * width), *longer]
    options: list[str] = []
    for width in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 0 if width == 1 else 10 ** (width - 1))
        last = min(high, 10**width - 1)
        if (
            (first, last) == (10 ** (width - 1), 10**width - 1)
            and options
            and width < len(str(high))
        ):
            full = len(str(high)) - (high != 10 ** len(str(high)) - 1)
            options.append(f"[1-9][0-9]{{{width - 1},{full - 1}}}")
            if full < len(str(high)):
                options += _same_width("1" + "0" * full, str(high))
            return options
        if first <= last:
            options += _same_width(str(first), str(last))
    return options


def _same_width(low: str, high: str) -> list[str]:
    if low == high:
        return [low]
    if len(low) == 1:
        return [f"[{low}-{high}]"]
    if low[0] == high[0]:
        return [low[0] + part for part in _same_width(low[1:], high[1:])]
    rest = len(low) - 1
    digits = "[0-9]" if rest == 1 else f"[0-9]{{{rest}}}"
    options = []
    first, last = int(low[0]), int(high[0])
    if low[1:].strip("0"):
        options += [low[0] + part for part in _same_width(low[1:], "9" * rest)]
        first += 1
    ends = []
    if high[1:].strip("9"):
        ends = [high[0] + part for part in _same_width("0" * rest, high[1:])]
        last -= 1
    if first <= last:
        options.append((f"[{first}-{last}]" if first < last else str(first)) + digits)
    return options + ends
