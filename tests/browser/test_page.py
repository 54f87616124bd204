"""The page around the answer: keys, memory, code, widths, and text that is no markup."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Server, StartServer
from tests.browser.page import Playground
from tests.serving.test_adapters import make_adapter

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect

KEY = "ключ-1"
MODES = ("text", "schema", "tools", "regex", "grammar")


@pytest.fixture
def play(context: Any, server: Server) -> Playground:
    playground = Playground(context, server, "/playground")
    playground.wait_for_models()
    return playground


def test_a_key_is_asked_for_kept_and_sent(context: Any, start_server: StartServer) -> None:
    server = start_server("--api-key", KEY, "--protect-metrics")
    play = Playground(context, server)
    expect(play.page.get_by_role("alert")).to_contain_text("API key")
    play.fill("API key", KEY)
    play.wait_for_models()
    play.page.reload()
    play.wait_for_models()
    expect(play.page.locator("#notice")).to_be_hidden()
    expect(play.send().locator(".text")).to_have_text("The capital of France is Paris.")
    play.fill("API key", "wrong")
    expect(play.send("again").locator(".note")).to_contain_text("API key")
    play.page.get_by_role("button", name="Copy as code").last.click()
    assert KEY not in play.page.locator("#code-text").input_value()


def test_a_text_of_the_model_is_never_markup(play: Playground) -> None:
    markup = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    play.choose("schema")
    play.page.locator("#schema").fill(
        json.dumps(
            {"properties": {markup: {"const": markup}}, "type": "object", "required": [markup]}
        )
    )
    expect(play.page.locator("#verdict")).to_have_attribute("data-state", "supported")
    answer = play.send(markup)
    assert json.loads(play.received_content())[markup] == markup
    expect(answer.locator(".tree")).to_contain_text("<img src=x")
    assert play.page.locator("img").count() == 0
    assert play.page.locator("script").count() == 1  # the page's own
    assert play.page.title() == "formgate playground"


def test_the_last_requests_survive_a_reload(play: Playground) -> None:
    page = play.page
    play.choose("regex")
    page.locator("#regex").fill("Paris|Rome")
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("top_p").fill("0.5")
    play.send()
    assert play.sent()["top_p"] == 0.5
    page.reload()
    play.wait_for_models()
    page.get_by_text("Last requests").click()
    page.locator("#history button").first.click()
    expect(page.locator("input[value=regex]")).to_be_checked()
    assert page.locator("#regex").input_value() == "Paris|Rome"
    assert page.locator("#s-top_p").input_value() == "0.5"
    page.get_by_role("button", name="Forget them").click()
    page.reload()
    assert page.locator("#history button").count() == 0


@pytest.mark.parametrize("mode", MODES)
def test_the_code_that_is_copied_runs(play: Playground, mode: str, tmp_path: Path) -> None:
    page = play.page
    play.choose(mode)
    answer = play.send()
    answer.get_by_role("button", name="Copy as code").click()
    area, expected = page.locator("#code-text"), play.received_content()
    curl = subprocess.run(["sh", "-c", area.input_value()], capture_output=True, check=True)
    message = json.loads(curl.stdout)["choices"][0]["message"]
    page.get_by_role("button", name="TypeScript").click()
    typescript = area.input_value()
    start, end = typescript.index("create(") + 7, typescript.index(" as OpenAI.")
    assert json.loads(typescript[start:end])["model"] == "formgate-embedded"
    page.get_by_role("button", name="Python").click()
    (program := tmp_path / "asked.py").write_text(area.input_value(), encoding="utf-8")
    ran = subprocess.run([sys.executable, str(program)], capture_output=True, env=os.environ)
    assert ran.returncode == 0, ran.stderr.decode()
    if mode == "tools":
        assert message["tool_calls"][0]["function"]["name"] == "get_weather"
        assert "get_weather" in ran.stdout.decode()
    else:
        assert message["content"] == expected == ran.stdout.decode().rstrip("\n")


@pytest.mark.parametrize("mode", MODES)
def test_nothing_leaves_the_width_of_a_phone(
    play: Playground, mode: str, screenshots: Path
) -> None:
    page = play.page
    page.set_viewport_size({"width": 360, "height": 740})
    play.choose(mode)
    play.send()
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 360
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_in_viewport()
    if mode == "schema":
        page.locator(".answer").scroll_into_view_if_needed()
        page.screenshot(path=screenshots / "playground-phone.png")


def test_all_of_it_by_keyboard(play: Playground) -> None:
    page = play.page
    page.locator("input[value=text]").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("input[value=schema]")).to_be_checked()
    expect(page.locator("#verdict")).to_have_attribute("data-state", "supported")
    page.locator("#prompt").focus()
    page.keyboard.press("Shift+Enter")
    assert page.locator("#prompt").input_value().count("\n") == 1
    page.keyboard.press("Enter")
    answer = play.ended(0)
    for _ in range(30):
        page.keyboard.press("Shift+Tab")
        if page.evaluate("document.activeElement.className") == "tokens":
            break
    page.keyboard.press("End")
    expect(answer.locator(".token").last).to_have_attribute("aria-selected", "true")


TEXTS = (
    '{"a": [1, -2.5e+3, true, null, "x\\\\", "\\u00e9\\n"], "b/~": {"": {}}, "c": []}',
    '[[[["\\ud83d\\ude00", "😀"]]], {"a": {"b": {"c": 0}}}, ""]',
    '"\\"\\\\\\""',
    "12",
    ' { "a" : 1 , "b" : [ 2 , 3 ] } ',
)
READ = """async (text) => {
    const { parseGrowing, placeOf } = await import("/playground/json_text.js");
    const value = (node) => {
        if (node === null) return "growing";
        if (node.kind === "string") return node.value;
        if (!node.members) return JSON.parse(node.value);
        if (node.kind === "array") return node.members.map((member) => value(member.node));
        return Object.fromEntries(node.members.map((member) => [member.name, value(member.node)]));
    };
    const pointers = (node) => node
        ? [node.pointer, ...(node.members ?? []).flatMap((member) => pointers(member.node))] : [];
    const whole = parseGrowing(text).node;
    const prefixes = [...text].map((_, end) => parseGrowing(text.slice(0, end)).node);
    const places = pointers(whole).map((pointer) => [pointer, placeOf(whole, pointer)]);
    return {
        value: value(whole),
        early: prefixes.map((node) => pointers(node)),
        places: places.map(([pointer, { start, end }]) => [pointer, text.slice(start, end)]),
    };
}"""


@pytest.mark.parametrize("text", TEXTS)
def test_a_growing_text_is_read_like_a_whole_one(play: Playground, text: str) -> None:
    read = play.page.evaluate(READ, text)
    assert read["value"] == json.loads(text)
    pointers = [pointer for pointer, _ in read["places"]]
    for early in read["early"]:  # a text that grows has the same values, in the same order
        assert early == pointers[: len(early)]
    for pointer, part in read["places"]:
        value = json.loads(text)
        names = [name.replace("~1", "/").replace("~0", "~") for name in pointer.split("/")[1:]]
        for name in names:
            value = value[int(name) if isinstance(value, list) else name]
        if names and part.startswith(json.dumps(names[-1])) and ":" in part:
            part = part.partition(":")[2]  # of a member, its name too
        assert json.loads(part) == value


@pytest.mark.parametrize(
    "text", [*TEXTS, '{"s": "it\'s $HOME `x` \\u2028", "t": [true, false, null]}']
)
def test_python_literals_are_the_values(play: Playground, text: str) -> None:
    write = """async (value) =>
        (await import("/playground/snippets.js")).pythonLiteral(value)"""
    assert ast.literal_eval(play.page.evaluate(write, json.loads(text))) == json.loads(text)


def test_an_adapter_is_chosen_by_its_name(
    context: Any, start_server: StartServer, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "a", 4, 4)
    server = start_server("--enable-lora", "--lora-modules", f"other={adapter}")
    play = Playground(context, server)
    play.wait_for_models()
    play.page.locator("#model").select_option(label="other (adapter)")
    play.send()
    assert play.sent()["model"] == "other"
    assert {chunk["model"] for chunk in play.received()} == {"other"}
    play.page.reload()
    play.wait_for_models()
    expect(play.page.locator("#model")).to_have_value("other")


def test_light_and_dark_follow_the_system_and_the_button(play: Playground) -> None:
    page, ground = play.page, "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(ground)
    assert light != dark
    seen = []
    for _ in range(3):
        page.get_by_role("button", name="Theme").click()
        seen.append(page.evaluate(ground))
    assert seen == [light, dark, dark]  # light, dark, and as the system has it


def test_every_field_has_a_name(play: Playground) -> None:
    nameless = """() => [...document.querySelectorAll("input, select, textarea")]
        .filter((field) => !field.labels.length && !field.ariaLabel).map((field) => field.id)"""
    assert play.page.evaluate(nameless) == []


def test_the_page_is_small(context: Any, server: Server) -> None:
    page, sizes = context.new_page(), []
    page.on("response", lambda response: sizes.append(response))
    page.goto(server.url)
    page.wait_for_selector("#model option", state="attached")
    assert len(sizes) > 10
    assert sum(len(response.body()) for response in sizes) < 300_000
