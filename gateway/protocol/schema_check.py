"""The body of `POST /v1/schema/check`, as a type."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import Field, StrictBool

from formgate.gateway.errors import bad_request
from formgate.gateway.protocol.constraint_names import IN_A_FORMAT
from formgate.gateway.protocol.constraints import refuse_unknown_constraints
from formgate.gateway.protocol.fields import Body, Name, RequestBody
from formgate.gateway.protocol.nullable import offering_null

JsonSchema = dict[str, Any] | StrictBool


class NamedSchema(Body):
    """`json_schema` of OpenAI's `response_format`."""

    constraint_names = IN_A_FORMAT

    name: Name | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class SchemaCheckRequest(RequestBody):
    """Either `schema`, or the two fields of a `response_format` of type `json_schema`."""

    constraint_names = IN_A_FORMAT

    schema_: JsonSchema | None = Field(default=None, alias="schema")
    type: Literal["json_schema"] | None = None
    json_schema: NamedSchema | None = None

    def asked(self) -> dict[str, Any] | bool:
        """The schema to check, with null where `nullable` allows it. Raises ApiError 400."""
        refuse_unknown_constraints(self)
        if self.json_schema is None:
            if self.schema_ is None:
                missing = "json_schema" if self.type else "schema"
                raise bad_request(
                    f"Missing required parameter: '{missing}'.",
                    missing,
                    "missing_required_parameter",
                )
            return cast(JsonSchema, offering_null(self.schema_))
        if self.schema_ is not None:
            raise bad_request("Give 'schema' or 'json_schema', not both.", "schema")
        return cast(JsonSchema, offering_null(self.json_schema.schema_))
