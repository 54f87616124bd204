"""`POST /v1/schema/check` with a real compile worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from formgate.gateway.processes.compile_pool import CompilePool

CHECK = "/v1/schema/check"
PERSON = {
    "type": "object",
    "properties": {"tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True}},
    "required": ["tags"],
    "additionalProperties": False,
    "title": "Person",
}
Run = Callable[..., None]


def test_a_schema_in_both_forms(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        report = (await client.post(CHECK, json={"schema": PERSON})).json()
        assert report["supported"] is True
        assert report["refused"] is None
        assert report["draft"] == "2020"
        assert report["guarded"] is True
        assert report["shortest"]["value"] == {"tags": []}
        assert report["shortest"]["tokens"] == len(report["shortest"]["text"])  # bytes
        held = {entry["pointer"]: entry["how"] for entry in report["keywords"]}
        assert held["/properties/tags/uniqueItems"] == "guard"
        assert held["/title"] == "annotation"
        assert held["/additionalProperties"] == "mask"
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        assert (await client.post(CHECK, json=form)).json() == report

    with_gateway(test)


@pytest.mark.parametrize(
    ("schema", "pointer", "keyword", "code"),
    [
        (
            {"properties": {"a": {"divisibleBy": 2}}},
            "/properties/a/divisibleBy",
            "divisibleBy",
            "unsupported_schema",
        ),
        ({"minLength": "x"}, "/minLength", "minLength", "invalid_schema"),
    ],
)
def test_a_refused_schema_is_a_report(
    with_gateway: Run, schema: Any, pointer: str, keyword: str, code: str
) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        response = await client.post(CHECK, json={"schema": schema})
        assert response.status_code == 200
        report = response.json()
        assert report["supported"] is False
        assert report["shortest"] is None
        refused = report["refused"]
        found = (refused["pointer"], refused["keyword"], refused["code"])
        assert found == (pointer, keyword, code)
        assert keyword in refused["message"]

    with_gateway(test)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "schema"),
        ({"schema": 5}, "schema"),
        ({"type": "json_schema"}, "json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "json_schema.schema"),
        ({"schema": {}, "json_schema": {"schema": {}}}, "schema"),
    ],
)
def test_a_bad_body(with_gateway: Run, body: Any, param: str) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        response = await client.post(CHECK, json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == param

    with_gateway(test)


def test_it_is_behind_the_key(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        assert (await client.post(CHECK, json={"schema": PERSON})).status_code == 401
        headers = {"Authorization": "Bearer sesame"}
        response = await client.post(CHECK, json={"schema": PERSON}, headers=headers)
        assert response.json()["supported"] is True

    with_gateway(test, api_key=["sesame"])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^(?=^b)[ab]$"},
        {"const": "a" * 60 + "c", "pattern": "^(?:(?:a|aa)+b|a+c)$"},
        {"enum": [int("1" * 4000)]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}},
        {"pattern": "(" * 5000},
        {"pattern": "(?:a{1,1000}){1,1000}"},
    ],
)
def test_no_schema_costs_more_than_a_compile_or_the_next_one(
    with_gateway: Run, compile_pool: CompilePool, schema: Any
) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        await client.post(CHECK, json={"schema": {}})
        host = compile_pool.workers.process_id
        response = await client.post(CHECK, json={"schema": schema})
        assert response.status_code == 200
        assert response.json().keys() >= {"supported", "refused", "shortest"}
        assert (await client.post(CHECK, json={"schema": PERSON})).json()["supported"]
        assert compile_pool.workers.process_id == host

    with_gateway(test)


@pytest.mark.parametrize("number", ["NaN", "1e999"])
@pytest.mark.parametrize("form", ['{"schema": %s}', '{"json_schema": {"schema": %s}}'])
def test_a_schema_with_a_number_that_json_lacks(with_gateway: Run, number: str, form: str) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        response = await client.post(CHECK, content=form % ('{"maximum": ' + number + "}"))
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == ("schema" if form.startswith('{"s') else "json_schema.schema")
        assert error["code"] == "invalid_schema"

    with_gateway(test)
