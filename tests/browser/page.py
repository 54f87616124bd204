"""The playground as its reader handles it: fields are found by what they are called."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.browser.conftest import Server

ANSWER = ".answer"


class Playground:
    """One tab with the playground of `server`."""

    def __init__(self, context: Any, server: Server, path: str = "/") -> None:
        self.page = context.new_page()
        self.page.goto(server.url + path)
        self.responses: list[Any] = []
        self.page.on("response", self._remember)

    def _remember(self, response: Any) -> None:
        if response.url.endswith("/v1/chat/completions"):
            self.responses.append(response)

    def wait_for_models(self) -> None:
        self.page.wait_for_selector("#model option", state="attached")

    def choose(self, mode: str) -> None:
        self.page.check(f"input[name=mode][value={mode}]")

    def fill(self, name: str, text: str) -> None:
        self.page.get_by_label(name, exact=True).fill(text)

    def send(self, text: str | None = None) -> Any:
        """Sends the prompt; the answer's element as soon as it ends."""
        if text is not None:
            self.fill("Message", text)
        number = self.answers.count()
        self.page.get_by_role("button", name="Send", exact=True).click()
        return self.ended(number)

    @property
    def answers(self) -> Any:
        return self.page.locator(ANSWER)

    def ended(self, number: int) -> Any:
        answer = self.answers.nth(number)
        answer.wait_for()
        self.page.wait_for_selector(
            f"{ANSWER} >> nth={number} >> xpath=self::*[@data-state!='running']"
        )
        return answer

    def sent(self) -> dict[str, Any]:
        """The body of the last chat request."""
        return json.loads(self.responses[-1].request.post_data)

    def received(self) -> list[dict[str, Any]]:
        """The chunks of the last chat response, as the server sent them."""
        response = self.responses[-1]
        response.finished()
        lines = response.text().split("\n\n")
        return [json.loads(line[6:]) for line in lines if line and line != "data: [DONE]"]

    def received_trace(self) -> list[dict[str, Any]]:
        chunks = [chunk["choices"][0] for chunk in self.received() if chunk["choices"]]
        return [entry for choice in chunks for entry in choice.get("trace") or []]

    def received_content(self) -> str:
        chunks = [chunk["choices"][0] for chunk in self.received() if chunk["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in chunks)


def facts_of(answer: Any) -> dict[str, str]:
    """The times and numbers under an answer, by their names."""
    pairs = answer.locator(".times div").all()
    return {pair.get_attribute("data-fact"): pair.locator("dd").inner_text() for pair in pairs}


def tokens_of(answer: Any) -> list[dict[str, Any]]:
    """Of each token: its text, the opacity of its colour, and whether it is marked as forced."""
    found = answer.locator(".token").evaluate_all(
        """tokens => tokens.map((token) => ({
            text: token.textContent,
            colour: getComputedStyle(token).backgroundColor,
            forced: token.classList.contains("forced"),
            line: getComputedStyle(token).borderBottomColor,
        }))"""
    )
    for token in found:
        numbers = [float(number) for number in re.findall(r"[\d.e-]+", token.pop("colour"))]
        token["rgb"], token["opacity"] = numbers[:3], numbers[3] if len(numbers) == 4 else 1.0
    return found
