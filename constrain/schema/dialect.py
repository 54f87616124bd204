"""The drafts of JSON Schema, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import jsonschema
from jsonschema.protocols import Validator


class Draft(IntEnum):
    D4 = 4
    D6 = 6
    D7 = 7
    D2019 = 2019
    D2020 = 2020

    @property
    def validator(self) -> type[Validator]:
        return _VALIDATORS[self]

    @property
    def ref_hides_siblings(self) -> bool:
        """True up to draft 7, where the keywords beside a `$ref` are ignored."""
        return self <= Draft.D7


_VALIDATORS: dict[Draft, type[Validator]] = {
    Draft.D4: jsonschema.Draft4Validator,
    Draft.D6: jsonschema.Draft6Validator,
    Draft.D7: jsonschema.Draft7Validator,
    Draft.D2019: jsonschema.Draft201909Validator,
    Draft.D2020: jsonschema.Draft202012Validator,
}
_BY_URI = {
    "json-schema.org/draft-04/schema": Draft.D4,
    "json-schema.org/draft-06/schema": Draft.D6,
    "json-schema.org/draft-07/schema": Draft.D7,
    "json-schema.org/draft/2019-09/schema": Draft.D2019,
    "json-schema.org/draft/2020-12/schema": Draft.D2020,
}


def draft_of(schema: Any) -> Draft:
    """The draft that `$schema` names; 2020-12 if it is absent or unknown."""
    if isinstance(schema, Mapping):
        uri = schema.get("$schema")
        if isinstance(uri, str):
            return _BY_URI.get(uri.rstrip("#").partition("://")[2], Draft.D2020)
    return Draft.D2020
