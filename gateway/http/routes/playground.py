"""`/playground`: a page to try the server on, from the package's own files. It needs no network and
no build, and calls the same endpoints as every client.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

router = APIRouter()

PAGE = "/playground"
FOLDER = Path(str(files("formgate.gateway.playground")))
INDEX = "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
NAMES = frozenset(
    path.name for path in FOLDER.iterdir() if path.suffix in MEDIA_TYPES and path.name != INDEX
)
PATHS = frozenset({PAGE, *(f"{PAGE}/{name}" for name in NAMES)})

# A model's text must never run: no inline script, no other host, and no text becomes markup, as
# Trusted Types make `innerHTML` an error.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # modules of two versions do not fit together
}


def file_response(name: str, **more: str) -> FileResponse:
    path = FOLDER / name
    return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers={**HEADERS, **more})


def asks_for_a_page(request: Request) -> bool:
    """Whether a browser asks: curl and most clients accept `*/*`, and get plain text at `/`."""
    return "text/html" in request.headers.get("accept", "")


@router.get(PAGE, include_in_schema=False)
async def page() -> FileResponse:
    return file_response(INDEX)


@router.get(PAGE + "/{name}", include_in_schema=False)
async def asset(name: str) -> FileResponse:
    if name not in NAMES:
        raise HTTPException(404)
    return file_response(name)
