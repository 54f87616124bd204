"""`/v1/schema/check`: reports how each keyword of a JSON Schema is enforced, without an answer."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema_report import refused_report
from formgate.gateway.errors import bad_request
from formgate.gateway.http.request_body import json_body, request_body_schema
from formgate.gateway.http.sse import encode_json
from formgate.gateway.http.state import GatewayState, state_of
from formgate.gateway.protocol.json_text import write_json
from formgate.gateway.protocol.schema_check import SchemaCheckRequest

router = APIRouter(tags=["schemas"])

State = Annotated[GatewayState, Depends(state_of)]

EXAMPLE = {"schema": {"type": "object", "properties": {"name": {"type": "string"}}}}


@router.post(
    "/v1/schema/check",
    openapi_extra=request_body_schema(SchemaCheckRequest, EXAMPLE),
    response_model=dict[str, Any],
)
async def check_schema(
    body: Annotated[SchemaCheckRequest, Depends(json_body(SchemaCheckRequest))], state: State
) -> Response:
    """How each keyword of a schema is enforced, or why the schema is refused."""
    schema = body.asked()
    try:
        text = write_json(schema)
    except ValueError:
        param = "schema" if body.json_schema is None else "json_schema.schema"
        message = "A schema must not hold NaN or Infinity."
        raise bad_request(message, param, "invalid_schema") from None
    try:
        report = (await state.compiling.compiled("schema_report", text)).encode()
    except ConstraintError as error:  # the compiler timed out or died
        report = encode_json(refused_report(schema, error))
    return Response(report, media_type="application/json")
