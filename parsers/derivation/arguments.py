"""How a template writes the arguments of a call: as one JSON object, one by one between tags, or as
Python's keyword arguments.
"""

from __future__ import annotations

from dataclasses import dataclass

from formgate.parsers.derivation.atoms import Atoms
from formgate.parsers.derivation.regions import KEY, Regions, value_opening
from formgate.parsers.derivation.samples import TYPED, WrittenTurn
from formgate.parsers.formats.calls import JsonArguments
from formgate.parsers.formats.format import CallPart
from formgate.parsers.formats.keywords import KeywordArguments
from formgate.parsers.formats.tagged import TaggedArguments

_QUOTES = ("='", '="')


@dataclass(frozen=True)
class Shape:
    """`to_arguments`: the text between the name and the arguments. `closing`: what ends the last
    argument, which the text behind it begins with.
    """

    part: CallPart
    to_arguments: str
    closing: str = ""

    @property
    def is_json(self) -> bool:
        return isinstance(self.part, JsonArguments)

    def behind(self, text: str) -> str:
        """The text behind the arguments, without what ends the last one."""
        return text.removeprefix(self.closing)


def arguments_of(regions: Regions, typed: WrittenTurn | None, atoms: Atoms) -> Shape | None:
    """None for a syntax that is not known."""
    if regions.tagged is None:
        return Shape(JsonArguments(), regions.to_arguments)
    marks = regions.tagged
    quoted = marks.key_to_value in _QUOTES
    quote = marks.key_to_value[-1:]
    if quoted and marks.opening.endswith("(") and regions.tail.startswith(f"{quote})"):
        return Shape(KeywordArguments(), marks.opening, quote)
    if (
        typed is None
        or (others := value_opening(typed, "number", str(TYPED.arguments["number"]))) is None
    ):
        return None
    behind = [text for text in (regions.join, regions.tail) if text is not None]
    value_close = atoms.common_start(marks.value_to_key, *behind)
    rest = marks.value_to_key[len(value_close) :]
    key_open = atoms.common_end(marks.opening, rest)
    to_arguments = marks.opening[: len(marks.opening) - len(key_open)]
    between = rest[: len(rest) - len(key_open)]
    # Space at the edges of an argument belongs to what is around it.
    space = key_open[: len(key_open) - len(key_open.lstrip())]
    key_open, to_arguments, between = key_open[len(space) :], to_arguments + space, between + space
    trail = "\n" if value_close.startswith("\n") else ""
    close = value_close.strip()
    between = value_close[len(value_close.rstrip()) :] + between
    if not close or not key_open or between.strip():
        return None
    texts = marks.key_to_value
    same = texts if texts == others else atoms.common_start(texts, others)
    lead = "\n" if texts.endswith("\n") and others.endswith("\n") else ""
    key_close, opening = _split_space(same.removesuffix(lead) if texts == others else same)
    if not key_close or KEY in key_close + opening:
        return None
    text_opening = opening + texts[len(same) :].removesuffix(lead)
    other_opening = opening + others[len(same) :].removesuffix(lead)
    before_key, key, after_key = close.partition(KEY)
    arguments = TaggedArguments(
        key_open=atoms.written(key_open),
        key_close=atoms.written(key_close),
        value_open=atoms.written(other_opening),
        text_open=None if texts == others else atoms.written(text_opening),
        lead=lead,
        trail=trail,
        value_close=atoms.written(before_key),
        after_key=atoms.written(after_key) if key else None,
        between=between,
    )
    return Shape(arguments, to_arguments, value_close)


def _split_space(text: str) -> tuple[str, str]:
    """(up to the first space, the rest), so that the parser may overlook the space."""
    stripped = text.rstrip()
    for at, char in enumerate(stripped):
        if char.isspace() and at:
            return text[:at], text[at:]
    return text, ""
