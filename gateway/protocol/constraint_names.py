"""Field names that look like a constraint. To ignore such a field would break a promise, so an
unknown one is refused at any depth of a body. `strict` is not among them: every schema is enforced
with or without it.
"""

from __future__ import annotations

import re

# Constraints of other servers and of future versions.
_ANYWHERE = (
    r"guided_(?!decoding_backend).+|structured_.+|structural_tag|regex|pattern|ebnf|gbnf|grammar"
    r"|grammar_(?:lazy|triggers)|lark|schema|json_schema|jsonSchema|json_object|enum"
    r"|response_(?:format|schema|json_schema|mime_type)|responseSchema"
    r"|output_(?:schema|format|config)|format|constraints?|choice|whitespace_pattern"
)
# A misplaced schema.
_KEYWORD = (
    r"type|properties|required|items|prefixItems|additionalProperties|patternProperties"
    r"|propertyNames|const|anyOf|oneOf|allOf|not|if|then|else|\$ref|\$defs|definitions"
    r"|minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|min[LIP]\w+|max[LIP]\w+"
    r"|uniqueItems|contains|dependentRequired|dependentSchemas"
)

CONSTRAINT_NAME = re.compile(_ANYWHERE)
IN_A_FORMAT = re.compile(f"{_ANYWHERE}|{_KEYWORD}")
# A tool's `output_schema` constrains its client, not the model.
IN_A_TOOL = re.compile(f"(?!output_)(?:{_ANYWHERE})|parameters|input_?[sS]chema")

# Any of these in `json_schema`, in place of `schema`, says that the object is a schema itself.
SCHEMA_KEYWORDS = frozenset(
    {"type", "properties", "$ref", "anyOf", "oneOf", "allOf", "enum", "const", "items"}
)
