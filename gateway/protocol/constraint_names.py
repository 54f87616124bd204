"""Names that look like a constraint. Ignoring one would break a promise that the client believes
in, so an unknown field of such a name is refused, at whatever depth of a body it stands. `strict`
is no such name: every schema is enforced whether or not it is set.
"""

from __future__ import annotations

import re

# Of other servers and of future versions.
_ANYWHERE = (
    r"guided_(?!decoding_backend).+|structured_.+|structural_tag|regex|pattern|ebnf|gbnf|grammar"
    r"|lark|schema|json_schema|jsonSchema|json_object|enum"
    r"|response_(?:format|schema|json_schema|mime_type)|responseSchema"
    r"|output_(?:schema|format|config)|format|constraints?|choice|whitespace_pattern"
)
# A schema that stands beside its place.
_KEYWORD = (
    r"type|properties|required|items|prefixItems|additionalProperties|patternProperties"
    r"|propertyNames|const|anyOf|oneOf|allOf|not|if|then|else|\$ref|\$defs|definitions"
    r"|minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|min[LIP]\w+|max[LIP]\w+"
    r"|uniqueItems|contains|dependentRequired|dependentSchemas"
)

CONSTRAINT_NAME = re.compile(_ANYWHERE)
IN_A_FORMAT = re.compile(f"{_ANYWHERE}|{_KEYWORD}")
# What a tool answers (`output_schema`) binds its client, not the model.
IN_A_TOOL = re.compile(f"(?!output_)(?:{_ANYWHERE})|parameters|input_?[sS]chema")
