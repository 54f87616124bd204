"""`/v1/schema/check`: reports how each keyword of a JSON Schema is enforced, without an answer."""

from __future__ import annotations

import json
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from formgate.constrain.errors import ConstraintError
from formgate.constrain.schema_report import refused_report
from formgate.gateway.http.request_body import json_body, request_body_schema
from formgate.gateway.http.state import GatewayState, state_of
from formgate.gateway.protocol.schema_check import SchemaCheckRequest

router = APIRouter(tags=["schemas"])

State = Annotated[GatewayState, Depends(state_of)]

EXAMPLE = {"schema": {"type": "object", "properties": {"name": {"type": "string"}}}}


@router.post("/v1/schema/check", openapi_extra=request_body_schema(SchemaCheckRequest, EXAMPLE))
async def check_schema(
    body: Annotated[SchemaCheckRequest, Depends(json_body(SchemaCheckRequest))], state: State
) -> dict[str, Any]:
    """How each keyword of a schema is enforced, or why the schema is refused."""
    schema = body.asked()
    try:
        report: dict[str, Any] = json.loads(
            await state.compiling.compiled("schema_report", json.dumps(schema))
        )
    except ConstraintError as error:  # the compiler timed out or died
        return refused_report(schema, error)
    return report
