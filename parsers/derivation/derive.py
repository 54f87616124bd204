"""Derives a format from turns that a chat template writes. The same calls are written with other
names, values, numbers of calls and of arguments; differences between the texts give the regions,
and what the texts have in common gives the markers.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace

from formgate.parsers.derivation.arguments import Shape, arguments_of
from formgate.parsers.derivation.atoms import Atoms
from formgate.parsers.derivation.regions import ID, NUMBER, Regions, regions_of
from formgate.parsers.derivation.samples import (
    PLAIN,
    TYPED,
    NotWritten,
    TurnWriter,
    WrittenTurn,
)
from formgate.parsers.formats.calls import JsonCall, Label, Name
from formgate.parsers.formats.format import CallIds, CallPart, Format, ReasoningFormat
from formgate.parsers.text.symbols import Written, text_of

# How a marker looks that is no special token: a tag, a word in brackets, or a word.
_TEXT_MARKER = re.compile(
    r"""<[^\s<>"'{}\[\]]*[>=:]?|\[/?[A-Z_ ]{2,}\]|\w+(?: \w+)*[^\s\w<>"'{}\[\](),]*"""
)
_JSON_OPENING = re.compile(r'\{"name": ?"$')
_JSON_KEY = re.compile(r'", ?"(\w+)": ?')
CALL_ID = "[A-Za-z0-9]{9}"  # as short as the strictest family wants it
_BARE_WORD = re.compile(r'"[^"]*"?|\w+|\S')
_LONGEST_LEAD = 40  # characters
_LEAST_MARKER = 3  # characters of a marker that is text
_AFTER_BARE_NAME = ("\n", "(", "{", ":")  # of a name that begins the answer
_PARTS = re.compile("([\ue000\ue001])")


@dataclass(frozen=True)
class _Frame:
    """section (call_opening NAME arguments call_closing joint)* section_closing"""

    section: str
    opening: str
    closing: str
    joint: str
    section_closing: str
    one_call: bool  # the template does not write two


def derive_format(
    write: TurnWriter,
    tokens: Collection[str],
    *,
    reasoning: ReasoningFormat | None = None,
    lead: str = "",
    name: str = "derived",
    call_ids: CallIds = "openai",
) -> Format | None:
    """The format of the template behind `write`; None if its calls have no shape that formats know.
    `tokens`: the tokenizer's special tokens. `reasoning` before the calls is no part of them.
    `lead`: what the template writes before the text of a turn without calls.
    """
    atoms = Atoms(tokens)
    for number in (3, 2, 1):
        try:
            turn = write(PLAIN[:number])
        except NotWritten:
            continue
        regions = regions_of(turn, PLAIN[:number], atoms)
        if regions is None:
            continue
        if reasoning is not None:
            _, _, behind = regions.head.rpartition(text_of(reasoning.close))
            regions = replace(regions, head=behind)
        shape = arguments_of(regions, _typed(write), atoms)
        if shape is None:
            return None
        frame = _frame(regions, shape, turn, atoms)
        format = _format(frame, shape, atoms, name, call_ids)
        return format and _with_content(format, lead, turn.ending, reasoning, atoms)
    return None


def _with_content(
    format: Format, lead: str, ending: str, reasoning: ReasoningFormat | None, atoms: Atoms
) -> Format:
    """The format with what announces content, if content is announced."""
    if reasoning is not None:
        lead = lead.rpartition(text_of(reasoning.close))[2]
    parts = atoms.split(lead.strip())
    if not parts or (reasoning is not None and text_of(reasoning.open).strip() in lead):
        return format
    if not all(part in atoms.tokens for part in parts):
        plain = not any(part in atoms.tokens for part in parts) and len(lead) <= _LONGEST_LEAD
        return replace(format, content_lead=lead) if plain else format
    opening = atoms.written(lead.strip())
    closing = atoms.split(ending.strip())[:1]
    silent = [opening]
    if len(atoms.split(ending.strip())) > 1 and closing[0] in atoms.tokens:
        silent.append(atoms.written(closing[0]))
    return replace(format, content_opening=opening, silent=tuple(silent))


def writes_ids(format: Format) -> bool:
    """True if a call holds an id. A template shows ids because results refer to them; whether the
    model writes them cannot be told from that.
    """
    return Label(CALL_ID) in format.call


def _typed(write: TurnWriter) -> WrittenTurn | None:
    try:
        return write((TYPED,))
    except NotWritten:
        return None


def _frame(regions: Regions, shape: Shape, turn: WrittenTurn, atoms: Atoms) -> _Frame:
    head = regions.head
    tail = _without_ending(shape.behind(regions.tail), turn.ending, atoms)
    if regions.join is None:
        opening = head.lstrip()
        return _Frame("", opening, _paired(tail, opening, atoms).rstrip(), "", "", True)
    join = shape.behind(regions.join)
    closing = atoms.common_start(join, tail)
    joint, last = join[len(closing) :], tail[len(closing) :]
    opening = atoms.common_end(head, joint)
    section = head[: len(head) - len(opening)]
    joint = joint[: len(joint) - len(opening)]
    # Space at the edges of a call belongs to what is around it.
    space = opening[: len(opening) - len(opening.lstrip())]
    opening, section, joint = opening[len(space) :], section + space, joint + space
    space = closing[len(closing.rstrip()) :]
    closing, joint, last = closing.rstrip(), space + joint, space + last
    section = section.lstrip()
    return _Frame(section, opening, closing, joint, last.rstrip() if section else "", False)


def _without_ending(tail: str, ending: str, atoms: Atoms) -> str:
    """`tail` without the end of a turn."""
    kept = tail[: len(tail) - len(atoms.common_end(tail, ending))] if ending else tail
    first = atoms.first_token(ending)
    end = next((atom for atom in atoms.split(ending[first:])), "")
    return kept.split(end)[0] if end else kept


def _paired(tail: str, opening: str, atoms: Atoms) -> str:
    """`tail` without special tokens at its end that close nothing that `opening` opens."""
    words = set(re.findall(r"[^\W\d_]{3,}", opening))
    parts = atoms.split(tail.rstrip())
    while parts and parts[-1] in atoms.tokens:
        if words & set(re.findall(r"[^\W\d_]{3,}", parts[-1])):
            break
        parts.pop()
    return "".join(parts)


def _format(
    frame: _Frame, shape: Shape, atoms: Atoms, name: str, call_ids: CallIds
) -> Format | None:
    wrapped = _split_marker(frame.section or frame.opening, atoms)
    most = 1 if frame.one_call else None
    if wrapped is None:
        return _bare_format(frame, shape, atoms, name, call_ids)
    marker, rest = wrapped
    if frame.section:
        call, closing = _call(frame.opening, frame.closing, shape, atoms)
        return Format(
            name=name,
            marker=atoms.written(marker),
            before=atoms.written(rest),
            call=(*call, *_parts(closing, atoms)),
            between=atoms.written(frame.joint),
            after=atoms.written(frame.section_closing),
            call_ids=call_ids,
        )
    call, closing = _call(rest, frame.closing, shape, atoms)
    fixed = not _PARTS.search(closing)  # what ends a call may be left out, if it is all literal
    return Format(
        name=name,
        marker=atoms.written(marker),
        call=call if fixed else (*call, *_parts(closing, atoms)),
        between=atoms.written(frame.joint),
        after=atoms.written(closing) if fixed else (),
        one_per_marker=True,
        max_calls=most,
        call_ids=call_ids,
    )


def _bare_format(
    frame: _Frame, shape: Shape, atoms: Atoms, name: str, call_ids: CallIds
) -> Format | None:
    """A format without a marker: its calls begin the answer."""
    before = frame.section.rstrip()
    then = _then(shape, atoms)
    if not (before or frame.opening) and then not in _AFTER_BARE_NAME:
        return None
    call, closing = _call(frame.opening, frame.closing, shape, atoms, bare=True)
    words = _BARE_WORD.findall(before + frame.opening)
    named = f"{{name}}{then}"
    if words and words[-1] == '"':
        words, named = words[:-1], f'"{named}'
    starts: list[tuple[str, ...]] = [(*words, named)]
    if isinstance(call[0], JsonCall):
        starts.append((*_BARE_WORD.findall(before), "{", '"type"', ":", '"function"'))
    return Format(
        name=name,
        before=(before,) if before else (),
        call=(*call, *_parts(closing, atoms)),
        between=atoms.written(frame.joint),
        after=atoms.written(frame.section_closing),
        max_calls=1 if frame.one_call else None,
        call_ids=call_ids,
        bare=True,
        bare_starts=tuple(starts),
        bare_is_json=words[:1] in (["{"], ["["]) and "{" in words,
    )


def _call(
    opening: str, closing: str, shape: Shape, atoms: Atoms, *, bare: bool = False
) -> tuple[tuple[Written | CallPart, ...], str]:
    """(the parts of a call, the text of its closing that is left)"""
    key = _JSON_KEY.fullmatch(shape.to_arguments)
    found = _JSON_OPENING.search(opening)
    if found and key and shape.is_json and closing.startswith("}") and _spaced(found[0], key[0]):
        lead = _parts(opening[: found.start()], atoms)
        return (*lead, JsonCall(key[1], name_first=bare)), closing[1:]
    parts = (
        *_parts(opening, atoms),
        Name(then=_then(shape, atoms)),
        *_parts(shape.to_arguments, atoms),
        shape.part,
    )
    return parts, closing


def _spaced(opening: str, key: str) -> bool:
    """True if the JSON around a call has spaces, as `JsonCall` writes it."""
    return opening.endswith(': "') and key.startswith('", ') and key.endswith(": ")


def _then(shape: Shape, atoms: Atoms) -> str:
    """The character behind the name, if it is text that the parser can ask for."""
    text = shape.to_arguments
    return text[:1] if atoms.first_token(text) and text[:1] not in (ID, NUMBER, " ") else ""


def _parts(text: str, atoms: Atoms) -> tuple[Written | CallPart, ...]:
    parts: list[Written | CallPart] = []
    for part in _PARTS.split(text):
        if part == ID:
            parts.append(Label(CALL_ID))
        elif part == NUMBER:
            parts.append(Label("[0-9]{1,3}"))
        else:
            parts += atoms.written(part)
    return tuple(parts)


def _split_marker(text: str, atoms: Atoms) -> tuple[str, str] | None:
    """(marker, the rest) of what opens calls; None if it does not begin with a marker."""
    first = next(iter(atoms.split(text)), "")
    if first in atoms.tokens:
        return first, text[len(first) :]
    found = _TEXT_MARKER.match(text[: atoms.first_token(text)])
    if found is None:
        return None
    # Free text must not contain the marker; for that its first character may occur only once.
    again = found[0].find(found[0][0], 1)
    marker = found[0] if again < 0 else found[0][:again]
    if len(marker) < _LEAST_MARKER or _PARTS.search(marker):
        return None
    return marker, text[len(marker) :]
