"""The formats that are enforced, each as two ECMA-262 regexes for the whole string. Validators
differ (leap seconds, the year 0, quoted mailboxes): a string of the format matches `narrow`, which
holds only strings that all of them take, and a string that must not be of the format matches
nothing of `wide`, which holds every string that one of them takes.
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
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]{{1,6}})?(?:Z|[+-]{_CLOCK})"
_HMS = "(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DURATION = (
    f"P(?:[0-9]+W|T{_HMS}"
    f"|(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)(?:T{_HMS})?)"
)
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,58}[A-Za-z0-9])?"
_HOSTNAME = rf"{_LABEL}(?:\.{_LABEL}){{0,3}}"
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_EMAIL = rf"{_ATOM}(?:\.{_ATOM})*@{_HOSTNAME}"
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
_UUID = "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
_UCS = r"\u{A0}-\u{D7FF}\u{F900}-\u{FDCF}\u{FDF0}-\u{FFEF}\u{10000}-\u{1FFFD}"


def _uri(more: str) -> tuple[str, str]:
    """RFC 3986 and, with more characters, RFC 3987: absolute, and either."""
    plain = rf"[A-Za-z0-9._~!$&'()*+,;=:@{more}-]|%[0-9A-Fa-f]{{2}}"
    segment = f"(?:{plain})*"
    without_colon = f"(?:{plain.replace(':@', '@')})+"
    host = rf"(?:\[{_IPV6}\]|(?:{plain.replace(':@', '')})*)"
    user = f"(?:(?:{plain.replace(':@', ':')})*@)?"
    authority = f"{user}{host}(?::[0-9]*)?"
    hierarchy = f"(?://{authority}(?:/{segment})*|/(?:(?:{plain})+(?:/{segment})*)?"
    tail = rf"(?:\?(?:{plain}|[/?])*)?(?:#(?:{plain}|[/?])*)?"
    absolute = f"[A-Za-z][A-Za-z0-9+.-]*:{hierarchy}|(?:{plain})+(?:/{segment})*|){tail}"
    relative = f"{hierarchy}|{without_colon}(?:/{segment})*|){tail}"
    return absolute, f"(?:{absolute}|{relative})"


_URI, _URI_REFERENCE = _uri("")
_IRI, _IRI_REFERENCE = _uri(_UCS)
_POINTER = "(?:/(?:[^~/]|~[01])*)*"
_VARIABLE = r"(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2})(?:\.?(?:[A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*"
_VARSPEC = rf"{_VARIABLE}(?::[1-9][0-9]{{0,3}}|\*)?"
_URI_TEMPLATE = (
    r"(?:[A-Za-z0-9!#$&()*+,./:;=?@\[\]_~-]|%[0-9A-Fa-f]{2}"
    rf"|\{{[+#./;?&]?{_VARSPEC}(?:,{_VARSPEC})*\}})*"
)


def _regex(depth: int) -> str:
    """Regexes that every dialect can read, with groups nested so deep at most."""
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
_WIDE_TIME = rf"{_CLOCK}:(?:[0-5][0-9]|60)(?:\.[0-9]+)?(?:[Zz]|[+-]{_CLOCK})"
_AMOUNT = r"[0-9]+(?:[.,][0-9]+)?"
_WIDE_DURATION = f"P(?:{_AMOUNT}[YMWD])*(?:T(?:{_AMOUNT}[HMS])*)?"
_ANY = r"[\x00-\u{10FFFF}]*"
_WIDE_EMAIL = f"{_ANY}@{_ANY}"
_WIDE_HOSTNAME = r"[A-Za-z0-9_.-]+"
_WIDE_IDN_HOSTNAME = r"[^\x00-,/:-@[-^`{-\x7F]+"
_WIDE_POINTER = f"[0-9]+(?:[+-][0-9]+)?(?:#|{_POINTER})"
# Nothing begins a regex that would repeat what stands before it, in any dialect.
_WIDE_REGEX = f"(?:[^*+?)]{_ANY})?"

FORMATS: dict[str, Format] = {
    "date": Format(_DATE, _WIDE_DATE),
    "time": Format(_TIME, _WIDE_TIME),
    "date-time": Format(f"{_DATE}T{_TIME}", f"{_WIDE_DATE}[Tt ]{_WIDE_TIME}"),
    "duration": Format(_DURATION, _WIDE_DURATION),
    "email": Format(_EMAIL, _WIDE_EMAIL),
    "idn-email": Format(_EMAIL, _WIDE_EMAIL),
    "hostname": Format(_HOSTNAME, _WIDE_HOSTNAME),
    "idn-hostname": Format(_HOSTNAME, _WIDE_IDN_HOSTNAME),
    "ipv4": _exact(_IPV4),
    "ipv6": _exact(_IPV6),
    "uuid": _exact(_UUID),
    "uri": _exact(_URI),
    "uri-reference": _exact(_URI_REFERENCE),
    "iri": _exact(_IRI),
    "iri-reference": _exact(_IRI_REFERENCE),
    "uri-template": _exact(_URI_TEMPLATE),
    "json-pointer": _exact(_POINTER),
    "relative-json-pointer": Format(f"(?:0|[1-9][0-9]*)(?:#|{_POINTER})", _WIDE_POINTER),
    "regex": Format(_regex(2), _WIDE_REGEX),
}
