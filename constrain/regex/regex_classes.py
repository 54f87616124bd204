"""The character classes of ECMA-262 under the `u` flag, and the names of its Unicode properties.
llguidance decides which characters have a property.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

from formgate.constrain.regex.regex_tree import DIGITS, WORD, Ranges, beyond, common, merged

SPACE: Ranges = merged(
    (
        *((9, 13), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
        *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
        (0xFEFF, 0xFEFF),
    )
)
NO_LINE_END: Ranges = beyond(merged([(10, 10), (13, 13), (0x2028, 0x2029)]))
ESCAPES: dict[str, Ranges] = {
    "d": DIGITS,
    "D": beyond(DIGITS),
    "w": WORD,
    "W": beyond(WORD),
    "s": SPACE,
    "S": beyond(SPACE),
}

_CATEGORY_NAMES = (
    "C Other Cc Control cntrl Cf Format Cn Unassigned Co Private_Use Cs Surrogate L Letter LC "
    "Cased_Letter Ll Lowercase_Letter Lm Modifier_Letter Lo Other_Letter Lt Titlecase_Letter "
    "Lu Uppercase_Letter M Mark Combining_Mark Mc Spacing_Mark Me Enclosing_Mark Mn "
    "Nonspacing_Mark N Number Nd Decimal_Number digit Nl Letter_Number No Other_Number P "
    "Punctuation punct Pc Connector_Punctuation Pd Dash_Punctuation Pe Close_Punctuation Pf "
    "Final_Punctuation Pi Initial_Punctuation Po Other_Punctuation Ps Open_Punctuation S "
    "Symbol Sc Currency_Symbol Sk Modifier_Symbol Sm Math_Symbol So Other_Symbol Z Separator "
    "Zl Line_Separator Zp Paragraph_Separator Zs Space_Separator"
)
_BINARY_NAMES = (
    "ASCII ASCII_Hex_Digit AHex Alphabetic Alpha Any Assigned Bidi_Control Bidi_C "
    "Bidi_Mirrored Bidi_M Case_Ignorable CI Cased Changes_When_Casefolded CWCF "
    "Changes_When_Casemapped CWCM Changes_When_Lowercased CWL Changes_When_NFKC_Casefolded "
    "CWKCF Changes_When_Titlecased CWT Changes_When_Uppercased CWU Dash "
    "Default_Ignorable_Code_Point DI Deprecated Dep Diacritic Dia Emoji Emoji_Component EComp "
    "Emoji_Modifier EMod Emoji_Modifier_Base EBase Emoji_Presentation EPres "
    "Extended_Pictographic ExtPict Extender Ext Grapheme_Base Gr_Base Grapheme_Extend Gr_Ext "
    "Hex_Digit Hex IDS_Binary_Operator IDSB IDS_Trinary_Operator IDST ID_Continue IDC "
    "ID_Start IDS Ideographic Ideo Join_Control Join_C Logical_Order_Exception LOE Lowercase "
    "Lower Math Noncharacter_Code_Point NChar Pattern_Syntax Pat_Syn Pattern_White_Space "
    "Pat_WS Quotation_Mark QMark Radical Regional_Indicator RI Sentence_Terminal STerm "
    "Soft_Dotted SD Terminal_Punctuation Term Unified_Ideograph UIdeo Uppercase Upper "
    "Variation_Selector VS White_Space space XID_Continue XIDC XID_Start XIDS"
)
_PROPERTIES = frozenset(f"{_CATEGORY_NAMES} {_BINARY_NAMES}".split())
_CATEGORIES = frozenset(_CATEGORY_NAMES.split())
_LONG_FORM = re.compile(
    "(?:(?:gc|General_Category)=(?P<category>[A-Za-z_]+)"
    "|(?P<script>sc|scx|Script|Script_Extensions)=(?P<name>[A-Z][a-z]+(?:_[A-Z][a-z]+)*))"
)


def property_of(name: str) -> str | None:
    """Translate the name in `\\p{..}` for llguidance; None for a property that ECMA-262 does not
    define or llguidance does not know.
    """
    if name in _PROPERTIES:
        found = name
    elif (long := _LONG_FORM.fullmatch(name)) is None:
        return None
    elif long["category"] is not None:
        if long["category"] not in _CATEGORIES:
            return None
        found = long["category"]
    else:
        found = (
            f"{'scx' if long['script'] in ('scx', 'Script_Extensions') else 'sc'}={long['name']}"
        )
    return found if _matcher(found) is not None else None


@lru_cache(maxsize=256)
def ascii_with(property: str) -> Ranges:
    """The ASCII characters that have a property, which is spelled as in `Chars`."""
    matcher = _matcher(property[2:-1])
    assert matcher is not None
    held = []
    for code in range(128):
        matcher.reset()
        if matcher.validate_tokens([code]) == 1:
            held.append((code, code))
    having = merged(held)
    return having if property[0] == "p" else common(beyond(having), ((0, 127),))


@lru_cache(maxsize=256)
def _matcher(name: str) -> LLMatcher | None:
    grammar = LLMatcher.grammar_from_lark(f"start: T\nT: /\\p{{{name}}}/\n")
    matcher = LLMatcher(_byte_tokenizer(), grammar, log_level=0)
    return None if matcher.is_error() else matcher


@lru_cache(maxsize=1)
def _byte_tokenizer() -> LLTokenizer:
    return LLTokenizer("byte")


def with_other_cases(ranges: Ranges) -> Ranges:
    """`ranges` and all characters that differ from one of theirs only in case."""
    same_case = _same_case()
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        found = same_case.get(ranges[0][0], ())
        return merged([*ranges, *((code, code) for code in found)])
    others = [
        (other, other)
        for code, members in same_case.items()
        if any(low <= code <= high for low, high in ranges)
        for other in members
    ]
    return merged([*ranges, *others])


@lru_cache(maxsize=1)
def _same_case() -> dict[int, list[int]]:
    """For each character, those with the same simple case folding, by which ECMA-262 compares under
    the `u` and `i` flags.
    """
    classes: dict[str, list[int]] = {}
    for code in _cased():
        classes.setdefault(_folded(chr(code)), []).append(code)
    return {code: members for members in classes.values() if len(members) > 1 for code in members}


def _cased() -> Iterator[int]:
    last = 0x1E944  # the end of Adlam, the last script with case
    return (code for code in range(last) if chr(code).lower() != chr(code) or _rises(chr(code)))


def _rises(char: str) -> bool:
    return char.upper() != char or char.casefold() != char


def _folded(char: str) -> str:
    for folded in (char.casefold(), char.lower()):
        if len(folded) == 1:
            return folded
    return char
