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
is silently dropped. `POST /v1/schema/check` reports on one schema without generating:

```sh
curl localhost:8000/v1/schema/check -d '{"schema": {"type": "array", "uniqueItems": true}}'
```

## How a keyword is enforced

| | |
|---|---|
| mask | A token that no valid document can continue with is never sampled. |
| rewrite | The schema is rewritten, with the same instances, into one that the mask enforces. |
| guard | Siblings that must differ are compared with the answer so far. The guard also removes \
tokens that lead into a dead end. |
| annotation | The standard asserts nothing with it, and neither does formgate. |
| refused | A 400. The note names the replacement. |

## Keywords
"""

_RULES = f"""\

## General rules

- **Dialect.** `$schema` selects the draft; the default is 2020-12. Up to draft 7, keywords beside a
  `$ref` are ignored, as those drafts require. A keyword that no draft defines is an annotation.
- **References** resolve anywhere within the schema (`$id`, `$anchor`, JSON Pointers, recursion).
  Nothing is fetched; put an external definition into `$defs`.
- **Order of members.** Declared members come in the order of `properties`, then names that only
  `required` and similar keywords mention, then all others. Names of the second group come in any
  order if a keyword other than `required` mentions them and they are at most {MOST_IN_ANY_ORDER}.
- **White space** is that of Python's `json.dumps`, unless `whitespace_pattern` is given.
- **Numbers** are compared as decimals, so bounds are exact. An `integer` is written without
  fraction and exponent. `multipleOf` supports integer steps up to {MAX_STEP:,} and decimal
  fractions.
- **Lengths** count code points. They can be combined with `pattern` and `format`.
- **Patterns** are ECMA-262 with the `u` flag, and match anywhere in the string unless anchored:
  `\\d` and `\\w` are ASCII, a character is a code point. Syntax that is an error only under that
  flag (a brace as text, `\\-` outside of a class) keeps its meaning without it. Anchors, word
  boundaries and look-aheads are supported everywhere; inside of repetitions, while the automaton
  stays small. Look-behinds and back references cannot be enforced. A repetition counts to
  {MAX_REPEAT:,}.
- **Formats** follow the grammar of their RFCs. Where validators differ, a string of the format is
  one that all validators accept, and a string not of the format is one that none accepts.
- **`not`, `oneOf`, `if`** are rewritten by De Morgan's laws, down to types, values, bounds,
  lengths, patterns and members. Keywords whose negation no mask can enforce (`multipleOf`,
  `uniqueItems`, `unevaluated*`) are refused below them: describe the allowed values instead.
- **`nullable: true`** (OpenAPI 3.0) in a schema of a request allows null too: beside its `type` and
  in its `enum`, or else as one more alternative. The answer is validated against that schema.
- **A schema without instances** is refused.

## Formats

Asserted: {{formats}}. Every other `format` is an annotation.

## Limits

A schema is refused as too complex (`schema_too_complex`) if it has more than {MAX_DEPTH} levels of
sub-schemas, more than {MAX_SHAPES:,} combinations of `oneOf`, `anyOf` and `not`, more than
{MAX_RULES:,} grammar rules, or takes over a second of CPU time to compile. It is compiled in a
process of its own, which is killed at its limit of time or memory; other requests are unaffected.

## Token budgets

- A schema whose shortest document does not fit into `max_tokens` is a 400, `max_tokens_too_small`.
- `structured_outputs: {{{{"close_within_budget": true}}}}` ends an answer within its budget: once
  the remaining tokens just suffice, only tokens on a short path to a valid end are allowed. Such an
  answer has `finish_reason: "length"` and `closed_within_budget: true`, and is valid.
"""

_DRAFTS = {Draft.D2019: "2019-09", Draft.D2020: "2020-12"}


def page() -> str:
    lines = [
        "| keyword | drafts | enforced by | value | note |",
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
