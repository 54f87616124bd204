"""The formats that are enforced, each as two ECMA-262 regexes for the whole string. Validators
differ (leap seconds, the year 0, quoted mailboxes). `narrow` matches only strings that all
validators accept, and enforces the format. `wide` matches every string that some validator accepts,
and enforces its negation. From the ABNF of RFC 3339 (dates and times), 5321 and 6531 (email), 1123
and 5890 (host names), 3986 and 3987 (URIs and IRIs), 4291 (IPv6), 6570 (URI templates), 6901 (JSON
Pointers).
"""

from __future__ import annotations

from dataclasses import dataclass

_YEAR = "(?:000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3})"
_LEAP_YEAR = "(?:(?:0[48]|[2468][048]|[13579][26])00|[0-9]{2}(?:0[48]|[2468][048]|[13579][26]))"
_DATE = (
    f"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    "|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))"
    f"|{_LEAP_YEAR}-02-29)"
)
_CLOCK = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"


def _leap_seconds() -> str:
    """Times with second 60, which occurs only in the last minute before midnight UTC. Offsets are
    whole or half hours.
    """
    hours = []
    for hour in range(24):
        before, behind = f"{23 - hour:02}", f"{(hour + 1) % 24:02}"
        whole, half = f"59:60(?:[+]{behind}|-{before}):00", f"29:60(?:[+]{hour:02}|-{before}):30"
        hours.append(f"{hour:02}:(?:{whole}|{half})")
    return f"23:59:60Z|{'|'.join(hours)}"


_FRACTION = r"(?:\.[0-9]{1,9})?"
_TIME = f"(?:{_CLOCK}:[0-5][0-9]{_FRACTION}(?:Z|[+-]{_CLOCK})|{_leap_seconds()})"
_HMS = "(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DURATION = (
    f"P(?:[0-9]+W|T{_HMS}"
    f"|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)(?:T{_HMS})?)"
)
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"(?:{_H16}:{_H16}|{_IPV4})"
# RFC 3986, section 3.2.2.
_IPV6 = (
    f"(?:(?:{_H16}:){{6}}{_LS32}|::(?:{_H16}:){{5}}{_LS32}|(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}"
    f"|(?:(?:{_H16}:){{0,1}}{_H16})?::(?:{_H16}:){{3}}{_LS32}"
    f"|(?:(?:{_H16}:){{0,2}}{_H16})?::(?:{_H16}:){{2}}{_LS32}"
    f"|(?:(?:{_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}|(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}"
    f"|(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}|(?:(?:{_H16}:){{0,6}}{_H16})?::)"
)
# Host names have 253 characters at most, so three labels of any length or eight shorter ones. A
# label whose third and fourth character are hyphens is reserved (RFC 5890, section 2.3.1).
_ALNUM, _LDH = "[A-Za-z0-9]", "[A-Za-z0-9-]"


def _label(most: int) -> str:
    rest = f"{_LDH}{{0,{most - 4}}}{_ALNUM}"
    longer = (
        f"{_LDH}(?:{_ALNUM}(?:{rest})?|-{_ALNUM}(?:{rest.replace(str(most - 4), str(most - 5))})?)"
    )
    return f"{_ALNUM}(?:{_ALNUM}|{longer})?"


_HOSTNAME = rf"(?:{_label(63)}(?:\.{_label(63)}){{0,2}}|{_label(30)}(?:\.{_label(30)}){{3,7}})"
# Letters of left-to-right scripts that IDNA 2008 allows unchanged and without contextual rules.
_IDN_LETTER = (
    r"[a-z0-9\u{DF}-\u{F6}\u{F8}-\u{FF}\u{3AC}-\u{3CE}\u{430}-\u{45F}\u{3041}-\u{3096}"
    r"\u{30A1}-\u{30FA}\u{4E00}-\u{9FA5}\u{AC00}-\u{D7A3}]"
)
_IDN_LABEL = rf"(?:{_label(30)}|{_IDN_LETTER}{{1,10}})"
_IDN_HOSTNAME = rf"{_IDN_LABEL}(?:\.{_IDN_LABEL}){{0,7}}"
_ATOM_CHAR = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_QUOTED = r'"(?:[ !#-[\]-~]|\\[ -~]){0,30}"'
_SHORT = rf"(?:{_H16}(?::{_H16}){{0,2}})?"
_LITERAL = rf"\[(?:{_IPV4}|IPv6:(?:{_H16}(?::{_H16}){{7}}|{_SHORT}::{_SHORT}))\]"


def _email(atom_char: str, host: str, most: int) -> str:
    """An address. The local part has one, two, or three to eight atoms; `most` characters keep it
    within 64 bytes.
    """
    atom = f"[{atom_char}]"
    two, eight = (f"{atom}{{1,{most // parts - 1}}}" for parts in (2, 8))
    local = rf"{atom}{{1,{most}}}|{two}\.{two}|{eight}(?:\.{eight}){{2,7}}|{_QUOTED}"
    return f"(?:{local})@(?:{host}|{_LITERAL})"


_EMAIL = _email(_ATOM_CHAR, _HOSTNAME, 64)
_UUID = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_UCS = r"\u{A0}-\u{D7FF}\u{F900}-\u{FDCF}\u{FDF0}-\u{FFEF}" + "".join(
    rf"\u{{{plane:X}{'1000' if plane == 14 else '0000'}}}-\u{{{plane:X}FFFD}}"
    for plane in range(1, 15)
)
_PRIVATE = r"\u{E000}-\u{F8FF}\u{F0000}-\u{FFFFD}\u{100000}-\u{10FFFD}"
_IDN_EMAIL = _email(_UCS + _ATOM_CHAR, _IDN_HOSTNAME, 16)


def _uri(more: str, private: str) -> tuple[str, str]:
    """The absolute form, and the absolute or relative form, of RFC 3986; with `more` characters,
    of RFC 3987.
    """
    plain = rf"[A-Za-z0-9._~!$&'()*+,;=:@{more}-]|%[0-9A-Fa-f]{{2}}"
    segment = f"(?:{plain})*"
    without_colon = f"(?:{plain.replace(':@', '@')})+"
    future = r"v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+"
    host = rf"(?:\[(?:{_IPV6}|{future})\]|(?:{plain.replace(':@', '')})*)"
    user = f"(?:(?:{plain.replace(':@', ':')})*@)?"
    authority = f"{user}{host}(?::[0-9]*)?"
    hierarchy = f"(?://{authority}(?:/{segment})*|/(?:(?:{plain})+(?:/{segment})*)?"
    tail = rf"(?:\?(?:{plain}|[/?{private}])*)?(?:#(?:{plain}|[/?])*)?"
    absolute = f"[A-Za-z][A-Za-z0-9+.-]*:{hierarchy}|(?:{plain})+(?:/{segment})*|){tail}"
    relative = f"{hierarchy}|{without_colon}(?:/{segment})*|){tail}"
    return absolute, f"(?:{absolute}|{relative})"


_URI, _URI_REFERENCE = _uri("", "")
_IRI, _IRI_REFERENCE = _uri(_UCS, _PRIVATE)
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_VARIABLE = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})(?:\.?(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*"
_VARSPEC = rf"{_VARIABLE}(?::[1-9][0-9]{{0,3}}|\*)?"


def _uri_template(literal: str, operator: str) -> str:
    expression = rf"\{{[{operator}]?{_VARSPEC}(?:,{_VARSPEC})*\}}"
    return rf"(?:[{literal}]|%[0-9A-Fa-f]{{2}}|{expression})*"


_LITERALS = rf"!#$&(-;=?-[\]_a-z~{_UCS}{_PRIVATE}"


def _regex(depth: int) -> str:
    """A regex for regexes that every dialect accepts, with at most `depth` levels of groups."""
    inner = r"[A-Za-z0-9 _,:;@#%&=<>~'!/-]|\\[dDwWsS.*+?()\[\]{}|^$\\/]|\."
    inner += r"|\[\^?(?:[A-Za-z0-9_]|[a-m]-[n-z]|[A-M]-[N-Z]|0-9|\\[dws])+\]"
    if depth:
        inner += rf"|\((?:\?:)?{_regex(depth - 1)}\)"
    term = rf"(?:{inner})(?:[*+?]|\{{[1-9]\}})?"
    return (
        rf"\^?(?:{term})*(?:\|(?:{term})+)*\$?" if depth == 2 else f"(?:{term})+(?:\\|(?:{term})+)*"
    )


@dataclass(frozen=True, slots=True)
class Format:
    narrow: str
    wide: str


def _exact(regex: str) -> Format:
    return Format(regex, regex)


_WIDE_DATE = rf"(?:{_DATE}|0000-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01]))"
_WIDE_TIME = rf"{_CLOCK}:(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[Zz]|[+-]{_CLOCK})?"
_AMOUNT = r"[0-9]+(?:[.,][0-9]+)?"
_WIDE_DURATION = f"P(?:{_AMOUNT}[YMWD])*(?:T(?:{_AMOUNT}[HMS])*)?"
_ANY = r"[\x00-\u{10FFFF}]*"
_WIDE_EMAIL = f"{_ANY}@{_ANY}"
_WIDE_HOSTNAME = r"[A-Za-z0-9_.-]+"
_WIDE_IDN_HOSTNAME = r"[^\x00-,/:-@[-^`{-\x7F]+"
_WIDE_POINTER = f"[0-9]+(?:[+-][0-9]+)?(?:#|{_POINTER})"
# In no dialect does a regex begin with a quantifier.
_WIDE_REGEX = f"(?:[^*+?)]{_ANY})?"

FORMATS: dict[str, Format] = {
    "date": Format(_DATE, _WIDE_DATE),
    "time": Format(_TIME, _WIDE_TIME),
    "date-time": Format(f"{_DATE}T{_TIME}", f"{_WIDE_DATE}[Tt ]{_WIDE_TIME}"),
    "duration": Format(_DURATION, _WIDE_DURATION),
    "email": Format(_EMAIL, _WIDE_EMAIL),
    "idn-email": Format(_IDN_EMAIL, _WIDE_EMAIL),
    "hostname": Format(_HOSTNAME, _WIDE_HOSTNAME),
    "idn-hostname": Format(_IDN_HOSTNAME, _WIDE_IDN_HOSTNAME),
    "ipv4": _exact(_IPV4),
    "ipv6": _exact(_IPV6),
    "uuid": _exact(_UUID),
    "uri": _exact(_URI),
    "uri-reference": _exact(_URI_REFERENCE),
    "iri": _exact(_IRI),
    "iri-reference": _exact(_IRI_REFERENCE),
    # RFC 6570 reserves some operators, and its errata allow the apostrophe.
    "uri-template": Format(
        _uri_template(_LITERALS, "+#./;?&"), _uri_template(_LITERALS + "'", "+#./;?&=,!@|")
    ),
    "json-pointer": _exact(_POINTER),
    "relative-json-pointer": Format(f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})", _WIDE_POINTER),
    "regex": Format(_regex(2), _WIDE_REGEX),
}
