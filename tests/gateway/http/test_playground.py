"""The playground as files: who gets them, with which headers, and what they may hold."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from formgate.gateway.http.routes import playground
from tests.gateway.http.test_app import Run

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = sorted(
    path for path in playground.FOLDER.iterdir() if path.suffix in playground.MEDIA_TYPES
)
MOST_BYTES = 300_000
MOST_LINES = 400


def get_all(with_gateway: Run, paths: list[str], **options: Any) -> dict[str, httpx.Response]:
    found = {}

    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        for path in paths:
            found[path] = await client.get(path, headers=BROWSER)

    with_gateway(test, **options)
    return found


def test_a_browser_gets_the_page_and_curl_gets_text(with_gateway: Run) -> None:
    async def test(client: httpx.AsyncClient, _: FastAPI) -> None:
        page = await client.get("/", headers=BROWSER)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.text == (playground.FOLDER / "index.html").read_text(encoding="utf-8")
        assert (await client.get("/playground")).text == page.text
        plain = await client.get("/")
        assert plain.headers["content-type"].startswith("text/plain")
        assert "/playground" in plain.text
        for answer in (page, plain):  # a cache must not mix them up
            assert "Accept" in answer.headers["vary"]

    with_gateway(test)


def test_every_file_comes_with_its_type_and_the_strict_policy(with_gateway: Run) -> None:
    paths = [f"/playground/{path.name}" for path in FILES if path.name != "index.html"]
    for path, answer in get_all(with_gateway, ["/", "/playground", *paths]).items():
        assert answer.status_code == 200
        kind = playground.MEDIA_TYPES[Path(path).suffix or ".html"]
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = dict(
            part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in str(policy)


@pytest.mark.parametrize(
    "name",
    ["__init__.py", "index.html", "never.js", "..%2fapi_keys.py", "%2e%2e/api_keys.py", "a/b", ""],
)
def test_no_other_file_is_served(with_gateway: Run, name: str) -> None:
    [answer] = get_all(with_gateway, [f"/playground/{name}"]).values()
    assert answer.status_code in (307, 404)
    assert "import" not in answer.text


def test_the_flag_takes_the_page_away_and_leaves_the_text(with_gateway: Run) -> None:
    paths = ["/playground", "/playground/app.js"]
    answers = get_all(with_gateway, ["/", *paths], disable_playground=True)
    assert answers["/"].headers["content-type"].startswith("text/plain")
    assert "playground" not in answers["/"].text
    for path in paths:
        assert answers[path].status_code == 404
        assert answers[path].json()["error"]["code"] == "unknown_url"


@pytest.mark.parametrize(
    ("options", "status"),
    [({}, 200), ({"protect_metrics": True}, 200), ({"disable_playground": True}, 401)],
)
def test_the_page_needs_no_key_to_ask_for_one(
    with_gateway: Run, options: dict[str, Any], status: int
) -> None:
    paths = ["/playground", "/playground/app.js", "/playground/never.js", "/v1/models"]
    answers = get_all(with_gateway, paths, api_key=("k",), **options)
    statuses = [answer.status_code for answer in answers.values()]
    assert statuses == [status, status, 401, 401]


def test_the_files_are_small_and_each_can_be_read_at_once() -> None:
    assert sum(path.stat().st_size for path in FILES) < MOST_BYTES
    assert len(FILES) <= 20
    for path in FILES:
        assert path.read_text(encoding="utf-8").count("\n") <= MOST_LINES, path.name


def test_the_files_name_no_other_host_and_make_no_markup_of_text() -> None:
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", source), path.name
        for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert way not in source, (path.name, way)
        assert not re.search(r"<script(?![^>]* src=)|<[^>]* (on\w+|style)=", source), path.name


def test_every_module_and_style_that_is_asked_for_exists() -> None:
    names = {path.name for path in FILES}
    for path in FILES:
        source = path.read_text(encoding="utf-8")
        links = re.findall(
            r'(?:from|import) "\./([^"]+)"|(?:src|href)="playground/([^"]+)"', source
        )
        assert {one or other for one, other in links} <= names, path.name
        for tag in re.findall(r'byId\("([\w-]+)"\)', source):
            known = f'id="{tag}"' in (playground.FOLDER / "index.html").read_text(encoding="utf-8")
            assert known or tag.startswith("s-"), (path.name, tag)


def test_a_wheel_holds_every_file() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    listed = tomllib.loads(pyproject.read_text())["tool"]["setuptools"]["package-data"]
    patterns = listed["formgate.gateway.playground"]
    others = {path for path in playground.FOLDER.iterdir() if path.is_file()} - set(FILES)
    assert {path.name for path in others} == {"__init__.py"}
    assert all(any(path.match(pattern) for pattern in patterns) for path in FILES)
