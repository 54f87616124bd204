"""The playground, played by a real browser against the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import Server, StartServer
from tests.browser.page import Playground, facts_of, tokens_of

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = sync_api.expect

STRONGEST = 0.75  # opacity of a token of which the mask took away everything
PERSON = {"name": "John Smith", "age": 30, "occupation": "software engineer"}


@pytest.fixture
def play(context: Any, server: Server) -> Playground:
    playground = Playground(context, server)
    playground.wait_for_models()
    return playground


def shown(token: str) -> str:
    return token if token else "∅"


def agrees(answer: Any, trace: list[dict[str, Any]]) -> None:
    """The colours and marks are the API's numbers."""
    tokens = tokens_of(answer)
    assert [token["text"] for token in tokens] == [shown(entry["token"]) for entry in trace]
    for token, entry in zip(tokens, trace, strict=True):
        assert token["rgb"] == ([225, 87, 40] if token["opacity"] else token["rgb"])
        assert token["opacity"] == pytest.approx(entry["masked"] * STRONGEST, abs=0.004)
        assert token["forced"] is entry["forced"] is (entry["allowed"] == 1)
        assert (token["line"] != "rgba(0, 0, 0, 0)") is entry["forced"]
    share = sum(entry["forced"] for entry in trace) / len(trace)
    said = float(facts_of(answer)["forced"].split()[0])
    assert said == pytest.approx(share * 100, abs=0.51)


def test_free_text_streams_and_tells_its_times(play: Playground) -> None:
    answer = play.send()
    expect(answer.locator(".text")).to_have_text("The capital of France is Paris.")
    assert answer.locator(".token").count() == 0
    usage = play.received()[-1]["usage"]
    facts = facts_of(answer)
    assert facts["tokens"] == str(usage["completion_tokens"])
    assert facts["ended by"] == "stop"
    assert facts["first token"].endswith(" ms")
    # The second turn sends the first one.
    play.send("Who are you?")
    roles = [message["role"] for message in play.sent()["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_a_schema_with_its_mask_and_its_tree(play: Playground, screenshots: Path) -> None:
    page = play.page
    play.choose("schema")
    expect(page.locator("#verdict")).to_have_attribute("data-state", "supported")
    answer = play.send()
    assert json.loads(play.received_content()) == PERSON
    trace = play.received_trace()
    agrees(answer, trace)
    for name, value in PERSON.items():
        node = answer.locator(f".tree [data-pointer='/{name}']")
        expect(node).to_have_text(f"{name}: {json.dumps(value)}")
    for index in (3, len(trace) - 2):  # by pointing, and then by keys
        answer.locator(".token").nth(index).hover()
        facts = answer.locator(".facts")
        pointer, allowed = trace[index]["pointer"], trace[index]["allowed"]
        expect(facts).to_contain_text(f"at {pointer}" if pointer else "at the root")
        expect(facts).to_contain_text("forced" if allowed == 1 else f"{allowed:,} tokens allowed")
        expect(answer.locator(".tree .pointed")).to_have_attribute("data-pointer", pointer)
    answer.locator(".tokens").focus()
    page.keyboard.press("Home")
    expect(answer.locator(".token").first).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowRight")
    expect(answer.locator(".facts code").first).to_have_text(json.dumps(trace[1]["token"]))
    answer.locator(".token").nth(3).hover()
    page.screenshot(path=screenshots / "playground-schema.png")


def test_the_page_asks_what_any_client_asks(play: Playground, server: Server) -> None:
    play.choose("schema")
    play.send()
    body = play.sent() | {"stream": False}
    del body["stream_options"]
    whole = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60).json()
    [choice] = whole["choices"]
    assert choice["message"]["content"] == play.received_content()
    pairs = zip(choice["trace"], play.received_trace(), strict=True)
    for one, other in pairs:
        assert one["token"] == other["token"]
        assert one["pointer"] == other["pointer"]
        assert one["allowed"] == other["allowed"]


@pytest.mark.parametrize("schema", ['{"type": "string", "pattern": "(?<!a)b"}'])
def test_a_refused_schema_says_where(play: Playground, schema: str, screenshots: Path) -> None:
    page, verdict = play.page, play.page.locator("#verdict")
    play.choose("schema")
    expect(verdict).to_have_attribute("data-state", "supported")
    page.get_by_label("JSON Schema", exact=True).last.press_sequentially("x")
    expect(verdict).to_contain_text("Not JSON")
    editor = page.locator("#schema")
    editor.fill("")
    editor.press_sequentially(schema)
    expect(verdict).to_have_attribute("data-state", "refused")
    expect(verdict).to_contain_text("look-behind")
    expect(editor).to_have_attribute("aria-invalid", "true")
    verdict.locator(".keyword.refused").click()
    chosen = editor.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)")
    assert chosen == '"pattern": "(?<!a)b"'
    answer = play.send()
    expect(answer).to_have_attribute("data-state", "failed")
    expect(answer.locator(".note")).to_contain_text("look-behind")
    expect(answer.locator(".note")).to_contain_text("/pattern")
    page.screenshot(path=screenshots / "playground-refused.png")
    editor.fill('{"const": 1}')
    expect(verdict).to_have_attribute("data-state", "supported")
    expect(verdict.locator(".instance")).to_have_text("1")
    expect(play.send().locator(".tree")).to_have_text("1")


def test_a_tool_call_its_result_and_the_answer(play: Playground, screenshots: Path) -> None:
    page = play.page
    page.get_by_role("button", name="Theme").click()
    page.get_by_role("button", name="Theme").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    play.choose("tools")
    answer = play.send()
    agrees(answer, play.received_trace())
    card = answer.locator(".card")
    expect(card.locator("h3")).to_have_text("calls get_weather")
    expect(card.locator("[data-pointer='/city']")).to_have_text('city: "Paris"')
    card.get_by_label("Result of call 1").fill('{"temperature": 21, "condition": "sunny"}')
    answer.get_by_role("button", name="Send the results").click()
    last = play.ended(1)
    expect(last.locator(".text")).to_contain_text("21")
    user, call, result = play.sent()["messages"]
    assert (user["role"], call["role"], result["role"]) == ("user", "assistant", "tool")
    assert call["tool_calls"][0]["id"] == result["tool_call_id"]
    page.screenshot(path=screenshots / "playground-tools.png")


def test_a_choice_of_tool_follows_the_editor(play: Playground) -> None:
    page = play.page
    play.choose("tools")
    tool = {"type": "function", "function": {"name": "find_book", "parameters": {"type": "object"}}}
    page.locator("#tools").fill(json.dumps([tool]))
    expect(page.locator("#tools-state")).to_have_text("1 tool: find_book")
    page.get_by_label("Choice").select_option("find_book()")
    play.send()
    assert play.sent()["tool_choice"] == {"type": "function", "function": {"name": "find_book"}}
    page.locator("#tools").fill("[")
    expect(page.locator("#tools-state")).to_contain_text("Not JSON")


@pytest.mark.parametrize("mode", ["regex", "grammar"])
def test_regex_and_grammar(play: Playground, mode: str) -> None:
    play.choose(mode)
    answer = play.send()
    expect(answer.locator(".text")).to_have_text("The capital of France is Paris.")
    agrees(answer, play.received_trace())
    play.page.locator(f"#{mode}").fill("(" if mode == "regex" else "root ::= (")
    failed = play.send()
    expect(failed).to_have_attribute("data-state", "failed")
    expect(failed.locator(".note")).not_to_be_empty()


def test_reasoning_has_a_pane_of_its_own(play: Playground) -> None:
    page = play.page
    page.get_by_text("System prompt and reasoning").click()
    page.get_by_label("Reasoning").select_option("on")
    answer = play.send("A train travels 120 km in 1.5 hours. What is its average speed?")
    chunks = [chunk["choices"][0]["delta"] for chunk in play.received() if chunk["choices"]]
    thought = "".join(delta.get("reasoning_content") or "" for delta in chunks)
    assert thought
    assert answer.locator(".thoughts").text_content() == thought
    assert answer.locator(".text").text_content() == play.received_content()


def test_a_server_lost_in_mid_stream(context: Any, start_server: StartServer) -> None:
    server = start_server()
    play = Playground(context, server)
    play.wait_for_models()
    play.choose("regex")
    play.page.locator("#regex").fill("[a-z ]{400,}")
    play.page.get_by_role("button", name="Send", exact=True).click()
    play.page.wait_for_selector(".token >> nth=5")
    server.kill()
    answer = play.ended(0)
    expect(answer).to_have_attribute("data-state", "failed")
    expect(answer.locator(".note")).to_contain_text("The connection was lost.")
    assert answer.locator(".token").count() >= 6
    # The page goes on: the prompt is still there, and the next request says what is wrong.
    assert play.page.locator("#prompt").input_value() != ""
    again = play.send()
    expect(again.locator(".note")).to_have_text("The server does not answer.")


def test_stop_ends_an_answer(play: Playground) -> None:
    play.choose("regex")
    play.page.locator("#regex").fill("[a-z ]{400,}")
    play.page.get_by_role("button", name="Send", exact=True).click()
    play.page.wait_for_selector(".token >> nth=5")
    play.page.get_by_role("button", name="Stop").click()
    expect(play.ended(0).locator(".note")).to_contain_text("Stopped")
