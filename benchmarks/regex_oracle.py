"""Random patterns of ECMA-262 against V8: for each, all strings of up to five characters of a
small alphabet made for it, and some of more characters. The strings that a schema with the pattern
lets through must be those in which `new RegExp(pattern, "u")` finds it, or the schema is refused
with the keyword and its place.

    python benchmarks/regex_oracle.py --patterns 5000 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import sys
import time
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product
from typing import Any

from py_mini_racer import MiniRacer

from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.matcher_pool import CompiledGrammar
from formgate.constrain.masks.vocabulary import Vocabulary

LETTERS = "ab"
INTERESTING = (
    "\n",
    " ",
    "_",
    "1",
    "é",
    "😀",
    "B",
    "-",
    '"',
    "\\",
    "\r",
    "\u2028",
    "\ufeff",
    "Ж",
    "٣",
)
LONGEST = 5
FAMILIES = (
    *("plain", "classes", "properties", "anchors", "boundaries", "looks", "counted", "escapes"),
    *("all", "broken"),
)
JUDGE = """
(pattern, texts) => {
  let regex, mode = "u";
  try { regex = new RegExp(pattern, "uy"); }
  catch (error) {
    mode = "";
    try { regex = new RegExp(pattern, "y"); }
    catch (error) { return "invalid"; }
  }
  // A match may begin at each character. V8's own search also begins inside of surrogate pairs.
  const finds = (text) => {
    for (let at = 0; at <= text.length; at += text.codePointAt(at) > 0xffff ? 2 : 1) {
      regex.lastIndex = at;
      if (regex.test(text)) return true;
    }
    return false;
  };
  let found = "";
  for (const text of JSON.parse(texts)) found += finds(text) ? "1" : "0";
  return mode + ":" + found;
}
"""


class Patterns:
    """Random patterns, of one family after the other."""

    def __init__(self, seed: int) -> None:
        self._r = random.Random(seed)
        self._family = ""

    def __iter__(self) -> Any:
        while True:
            for family in FAMILIES:
                self._family = family
                yield family, self._alternatives(3)

    def _is(self, *families: str) -> bool:
        return self._family in families or self._family in ("all", "broken")

    def _alternatives(self, depth: int) -> str:
        count = self._r.choice((1, 1, 1, 1, 2, 2, 3))
        return "|".join(self._sequence(depth) for _ in range(count))

    def _sequence(self, depth: int) -> str:
        count = self._r.choice((0, 1, 1, 2, 2, 2, 3, 4))
        return "".join(self._term(depth) for _ in range(count))

    def _term(self, depth: int) -> str:
        r = self._r
        pick = r.random()
        if self._is("anchors") and pick < 0.25:
            return r.choice("^$")
        if self._is("boundaries") and pick < 0.3:
            return r.choice((r"\b", r"\b", r"\B"))
        if self._is("looks") and depth and pick < 0.35:
            inner = self._alternatives(depth - 1)
            if r.random() < 0.4:
                inner = r.choice(("^", "$", "")) + inner + r.choice(("$", "", ""))
            return f"(?{r.choice('=!')}{inner})"
        if self._family == "broken" and pick < 0.4:
            return r.choice(
                (
                    *("{", "}", "]", "{2}", "*", "+", "?", "(", ")", r"\1", r"\k<n>", "[b-a]"),
                    *(r"\-", r"\_", r"\e", r"\8", r"\c", r"\x1", r"\u12", "a{2}{3}", "a**"),
                    *(r"\p{Foo}", r"\p{latin}", "(?<n>a)", "^*", "$+", r"\b?", "(?=a)*", "a{,2}"),
                    *("(?<=a)", "(?<!a)", "(?#a)", "[]", "[]a]", "[^]", r"\00", "(?:a", "a++"),
                )
            )
        if depth and pick > 0.75:
            kind = r.choice(("(", "(?:", "(?:", f"(?<n{r.randrange(10**9)}>"))
            return self._quantified(f"{kind}{self._alternatives(depth - 1)})")
        return self._quantified(self._character())

    def _quantified(self, atom: str) -> str:
        r = self._r
        if r.random() > (0.6 if self._is("counted") else 0.3):
            return atom
        low = r.randrange(3)
        counted = f"{{{low}}}", f"{{{low},}}", f"{{{low},{low + r.randrange(3)}}}"
        return atom + r.choice(("*", "+", "?", *counted)) + r.choice(("", "", "?"))

    def _character(self) -> str:
        r = self._r
        pick = r.random()
        if self._is("classes", "properties") and pick < 0.5:
            return self._class()
        if self._is("properties") and pick < 0.7:
            return self._property()
        if self._is("escapes") and pick < 0.5:
            return self._escape()
        if pick < 0.8:
            return r.choice((*"aabb1B_ é-", "😀", r"\\", '"'))
        return r.choice((".", ".", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S"))

    def _property(self) -> str:
        name = self._r.choice(
            (
                *("L", "Lu", "Ll", "N", "Nd", "P", "Pc", "S", "Z", "Zs", "C", "Cc", "Letter"),
                *("General_Category=Lu", "gc=Nd", "Script=Latin", "sc=Greek", "scx=Cyrillic"),
                *("Script_Extensions=Latin", "Alphabetic", "ASCII", "Any", "Emoji", "White_Space"),
                *("ID_Start", "Lowercase", "Uppercase", "ASCII_Hex_Digit", "Script=Cyrillic"),
            )
        )
        return f"\\{self._r.choice('ppP')}{{{name}}}"

    def _escape(self) -> str:
        return self._r.choice(
            (
                *(r"\n", r"\r", r"\t", r"\f", r"\v", r"\0", r"\cJ", r"\cj", r"\x61", r"\x0A"),
                *(r"\u0062", r"\u{61}", r"\u{1F600}", r"\u{00000a}", r"\uD83D\uDE00", r"\/", r"\."),
                *(r"\^", r"\$", r"\*", r"\+", r"\?", r"\(", r"\)", r"\[", r"\]", r"\{", r"\}"),
                *(r"\|", r"\\", r"\u00e9", r"\u2028", r"\ufeff", r"\uD83D", r"[\b]"),
            )
        )

    def _class(self) -> str:
        r = self._r
        items = []
        for _ in range(r.choice((0, 1, 1, 2, 2, 3))):
            pick = r.random()
            if pick < 0.4:
                items.append(r.choice((*"abB1_ é", "😀", '"', r"\\", ".", "^", "$", "(", "|")))
            elif pick < 0.6:
                items.append(
                    r.choice(("a-c", "A-Z", "0-9", " -_", "é-я", "\\x00- ", "a-😀", "\\t-\\r"))
                )
            elif pick < 0.75:
                items.append(r.choice((r"\d", r"\w", r"\s", r"\D", r"\W", r"\S")))
            elif self._is("properties") and pick < 0.9:
                items.append(self._property())
            else:
                items.append(
                    r.choice((r"\b", r"\-", r"\n", r"\]", r"\u{1F600}", r"\cJ", r"\uDE00"))
                )
        text = "".join(items)
        if text.startswith("^"):
            text = "\\" + text
        return f"[{r.choice(('', '', '^'))}{text}{r.choice(('', '', '-'))}]"


@dataclass(frozen=True)
class Judged:
    """How a pattern fared: "equal", "refused", "invalid" (V8 refuses it too, under the u
    flag), or "different".
    """

    verdict: str
    detail: str = ""


class LimitHit(Exception):
    """llguidance gives up within a text, which is an error of that request."""


class Oracle:
    """Compares the masks of schemas with V8."""

    def __init__(self) -> None:
        byte_tokens = [bytes([byte]) for byte in range(256)] + [b"</s>"]
        vocabulary = Vocabulary(tuple(byte_tokens), frozenset({256}), (256,))
        self._compiler = GrammarCompiler(vocabulary, padded_vocab_size=257)
        self._v8 = MiniRacer()
        self._judge: Any = self._v8.eval(JUDGE)

    def close(self) -> None:
        self._v8.close()

    def compare(self, pattern: str, r: random.Random) -> Judged:
        texts = texts_for(pattern, r)
        mode, found = self._judged(pattern, texts)
        tree = {"kind": "json", "schema": {"type": "string", "pattern": pattern}}
        try:
            taken = self.taken(tree, texts, '"', '"')
        except ConstraintError as error:
            if (error.keyword, error.pointer) == ("pattern", "/pattern"):
                return Judged("refused" if mode == "u" else "invalid", error.message)
            if any(found):
                return Judged("different", f"no keyword and place: {error.message}")
            return Judged("equal", "nothing matches")
        except LimitHit as error:
            return Judged("refused", f"within a text: {error}")
        if mode == "invalid":
            return Judged("different", "V8 refuses it, with and without the u flag")
        if not mode and re.search(r"\\(p|P|u\{)", pattern):
            return Judged("invalid", "means something else without the u flag")
        wrong = [
            text
            for text, want in zip(texts, found, strict=True)
            if want != (text in taken)
            # Without the u flag, V8 reads halves of characters.
            and (mode == "u" or max(text, default="") <= "\uffff")
        ]
        if wrong:
            text = min(wrong, key=len)
            return Judged("different", f"{text!r} is {'' if text in taken else 'not '}let through")
        return Judged("equal")

    def found(self, pattern: str, texts: list[str]) -> list[bool]:
        """In which of the texts V8 finds the pattern."""
        return self._judged(pattern, texts)[1]

    def _judged(self, pattern: str, texts: list[str]) -> tuple[str, list[bool]]:
        """And how it reads it: under the u flag ("u"), only without, or not at all ("invalid")."""
        mode, _, found = str(self._judge(pattern, json.dumps(texts))).partition(":")
        return mode, [one == "1" for one in found]

    def taken(self, tree: Any, texts: list[str], before: str, behind: str) -> set[str]:
        """Those of the texts that an answer under the tree may be, between two others."""
        compiled = self._compiler.compile(json.dumps({"tree": tree}))
        assert isinstance(compiled, CompiledGrammar)
        return _taken(compiled, texts, before, behind)


def texts_for(pattern: str, r: random.Random) -> list[str]:
    own = [char for char in dict.fromkeys(pattern) if char in "".join(INTERESTING)]
    alphabet = list(LETTERS) + r.sample(own, min(len(own), 1))
    alphabet += [c for c in r.sample(INTERESTING, len(INTERESTING)) if c not in alphabet]
    many = [*LETTERS, "c", *INTERESTING]
    texts = [
        "".join(chars) for n in range(LONGEST + 1) for chars in product(alphabet[:3], repeat=n)
    ]
    texts += ["".join(chars) for n in range(LONGEST) for chars in product(alphabet[:4], repeat=n)]
    texts += many
    texts += ["".join(r.choices(many, k=r.randint(2, 8))) for _ in range(100)]
    return list(dict.fromkeys(texts))


@lru_cache(maxsize=256)
def _in_json(char: str) -> list[int]:
    return list(json.dumps(char, ensure_ascii=False)[1:-1].encode())


def _plain(char: str) -> list[int]:
    return list(char.encode())


def _taken(grammar: CompiledGrammar, texts: list[str], before: str, behind: str) -> set[str]:
    matcher = grammar.first.deep_copy()
    encoded = _in_json if before else _plain
    taken: set[str] = set()
    if matcher.try_consume_tokens(list(before.encode())) < len(before):
        return taken
    branches: dict[str, Any] = {}
    for text in texts:
        at = branches
        for char in text:
            at = at.setdefault(char, {})
        at[""] = None
    end = list(behind.encode())

    def visit(branch: dict[str, Any], text: str) -> None:
        if len(text) < 3:
            matcher.compute_bitmask()  # the lexer may work so much for one mask
        for char, more in branch.items():
            if not char:
                # Nothing but the end stands behind what is behind the text.
                if matcher.validate_tokens(end) == len(end) if end else matcher.is_accepting():
                    taken.add(text)
                continue
            data = encoded(char)
            consumed = matcher.try_consume_tokens(data)
            if matcher.is_error():
                raise LimitHit(matcher.get_error())
            if consumed == len(data):
                visit(more, text + char)
            matcher.rollback(consumed)

    visit(branches, "")
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--patterns", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    verdicts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    slowest = (0.0, "")
    oracle = Oracle()
    r = random.Random(arguments.seed)
    for family, pattern in islice(Patterns(arguments.seed), arguments.patterns):
        started = time.perf_counter()
        judged = oracle.compare(pattern, r)
        slowest = max(slowest, (time.perf_counter() - started, pattern))
        verdicts[judged.verdict] += 1
        if judged.verdict == "different":
            print(f"{family}: {pattern!r}: {judged.detail}")
        elif judged.verdict == "refused":
            reasons[re.sub(r"^.*?: |\(at .*?\)|'.*'", "", judged.detail)] += 1
    oracle.close()
    print(f"{arguments.patterns} patterns of seed {arguments.seed}: {dict(verdicts)}")
    for reason, count in reasons.most_common():
        print(f"  refused {count}: {reason}")
    print(f"slowest: {slowest[0]:.2f} s for {slowest[1]!r}")
    sys.exit(bool(verdicts["different"]))


if __name__ == "__main__":
    main()
