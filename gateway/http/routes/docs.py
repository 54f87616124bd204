"""`/docs`: Swagger UI for `/openapi.json`. This server also serves its script and style, because a
model server often reaches no CDN.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse

router = APIRouter()

SCRIPT = "/docs/swagger-ui-bundle.js"
STYLE = "/docs/swagger-ui.css"
# The links are relative, so that they hold behind a proxy that adds a prefix. Without an icon and a
# validator of ours, the page would ask FastAPI's and Swagger's hosts.
PAGE = get_swagger_ui_html(
    title="formgate",
    openapi_url="openapi.json",
    swagger_js_url=SCRIPT.lstrip("/"),
    swagger_css_url=STYLE.lstrip("/"),
    swagger_favicon_url="data:,",
    swagger_ui_parameters={"validatorUrl": None},
).body
ASSETS = str(files("fastapi_offline").joinpath("static"))


@router.get("/docs", include_in_schema=False)
async def docs() -> HTMLResponse:
    return HTMLResponse(PAGE)


@router.get(SCRIPT, include_in_schema=False)
@router.get(STYLE, include_in_schema=False)
async def asset(request: Request) -> FileResponse:
    name = request.url.path.rpartition("/")[2]
    return FileResponse(f"{ASSETS}/{name}", headers={"Cache-Control": "max-age=86400"})
