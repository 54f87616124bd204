"""Writes docs/json-schema.md from the ledger: `python -m formgate.constrain.ledger_page > FILE`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from formgate.constrain.algebra.alternatives import MAX_SHAPES
from formgate.constrain.algebra.scalar_terms import MAX_STEP
from formgate.constrain.regex.formats import FORMATS
from formgate.constrain.regex.regex_syntax import MAX_REPEAT
from formgate.constrain.rules.grammar_rules import MAX_RULES
from formgate.constrain.rules.object_rules import MOST_IN_ANY_ORDER
from formgate.constrain.schema.dialect import Draft
from formgate.constrain.schema.ledger import LEDGER, How, Keyword
from formgate.constrain.schema.schema_check import MAX_DEPTH

_HEAD = """\
# JSON Schema in formgate

Every keyword of JSON Schema, drafts 4, 6, 7, 2019-09 and 2020-12, is enforced exactly or refused
with a 400 that names the keyword and its JSON Pointer. No answer is "mostly" valid, and no keyword
is dropped in silence. `POST /v1/schema/check` says the same of one schema, without generating:

```sh
curl localhost:8000/v1/schema/check -d '{"schema": {"type": "array", "uniqueItems": true}}'
```

## How a keyword is held

| | |
|---|---|
| mask | Tokens after which no valid document could come are never sampled. |
| rewrite | The schema is worked out into one that the mask enforces, with the same instances. |
| guard | Beside the mask, the answer so far is watched: siblings that must differ. It takes away \
the tokens that could lead into a dead end, too. |
| annotation | The standard gives it no power over a value; formgate neither. |
| refused | A 400. The note says what to write instead. |

## Keywords
"""

_RULES = f"""\

## What holds everywhere

- **Dialect.** `$schema` chooses the draft; without it, 2020-12. Up to draft 7, keywords beside a
  `$ref` are not there, as those drafts say. A keyword that no draft has is an annotation.
- **References** lead anywhere within the schema (`$id`, `$anchor`, JSON Pointers, recursion), never
  outside: nothing is fetched. Put the definition into `$defs` instead.
- **Order of members.** Declared members come in the order of `properties`, then names that only
  `required` and its like speak of (up to {MOST_IN_ANY_ORDER} of them in any order where another
  keyword speaks of them than `required` alone), then all others. A valid document in another order
  is not written; it would say nothing else.
- **White space** is that of Python's `json.dumps`, unless `whitespace_pattern` says otherwise.
- **Numbers** are compared as decimals, exactly: bounds hold at the edge. An `integer` is written
  without fraction and exponent. `multipleOf` works for whole steps up to {MAX_STEP:,} and for
  decimal fractions.
- **Lengths** count code points. They hold beside `pattern` and `format`.
- **Patterns** are ECMA-262 with the `u` flag, exactly, and match anywhere in the string unless
  anchored: `\\d` and `\\w` are ASCII, a character is a code point. Where that flag alone makes an
  error of a pattern (a brace as text, `\\-` outside of a class), it means what it does without.
  Anchors, word boundaries and look-aheads may stand anywhere, in repetitions too while the
  automaton stays small. Look-behinds and back references cannot be enforced. A repetition counts
  to {MAX_REPEAT:,}.
- **Formats** are held to the grammar of their RFCs. Where validators differ, a string of the format
  is one that all of them take, and one that must not be of it is one that none of them takes.
- **`not`, `oneOf`, `if`** are worked out with De Morgan's laws, down to types, values, bounds,
  lengths, patterns and members. What has no negation that a mask could hold (`multipleOf`,
  `uniqueItems`, `unevaluated*`) is refused below them: say what may come instead.
- **A schema that allows nothing** is refused.

## Formats

Asserted: {{formats}}. Every other `format` is an annotation.

## Limits

A schema is refused as too complex (`schema_too_complex`), never half enforced: deeper than
{MAX_DEPTH} levels of schemas, more than {MAX_SHAPES:,} ways through its `oneOf`, `anyOf` and `not`,
more than {MAX_RULES:,} grammar rules, or over a second of CPU time to compile. It is compiled in a
process of its own, which is killed at its limit of time or memory; other requests do not notice.

## Token budgets

- A schema whose shortest document does not fit into `max_tokens` is a 400, `max_tokens_too_small`.
- `structured_outputs: {{{{"close_within_budget": true}}}}` ends an answer in time: once the tokens
  left just suffice, only those on a short way to a valid end stay allowed. Such an answer has
  `finish_reason: "length"` and `closed_within_budget: true`, and is valid.
"""

_DRAFTS = {Draft.D2019: "2019-09", Draft.D2020: "2020-12"}


def page() -> str:
    lines = [
        "| keyword | drafts | held by | its value | note |",
        "|---|---|---|---|---|",
        *map(_row, sorted(LEDGER.values(), key=_place)),
    ]
    return _HEAD + "\n" + "\n".join(lines) + "\n" + _RULES.format(formats=_listed(FORMATS))


def _row(keyword: Keyword) -> str:
    cells = (f"`{keyword.name}`", _drafts(keyword), keyword.how, keyword.shape, keyword.note)
    return "| " + " | ".join(_escaped(cells)) + " |"


def _escaped(cells: Iterable[str]) -> Iterator[str]:
    return (str(cell).replace("|", "\\|") for cell in cells)


def _place(keyword: Keyword) -> int:
    return list(How).index(keyword.how)


def _drafts(keyword: Keyword) -> str:
    if keyword.how is How.REFUSED:
        return "3"
    first, last = (_DRAFTS.get(draft, str(int(draft))) for draft in (keyword.first, keyword.last))
    if keyword.last is Draft.D2020:
        return "all" if keyword.first is Draft.D4 else f"from {first}"
    return first if first == last else f"{first} to {last}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    sys.stdout.write(page())
