"""`/docs`: every endpoint, to read and to try. One page of our own, because Swagger's is loaded
from a network that a model server often does not have.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

router = APIRouter()

PAGE = files("formgate.gateway.http.routes").joinpath("docs.html").read_text(encoding="utf-8")


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    return HTMLResponse(PAGE)
