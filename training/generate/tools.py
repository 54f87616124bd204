"""Tool conversations: which tool, which arguments, several calls, none at all, and the answer
that uses a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from training.generate import talk
from training.generate.bank import Offer, Use, bank, offer, use
from training.generate.chat import Chat
from training.generate.invented import Invention, invent, use_invention
from training.generate.wrappers import instructions

Tools = list[Offer | Invention]
SYSTEM = (
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant with access to tools.",
    "Use the tools when they help.",
    "You are an assistant that can call functions.",
    "你是一个有用的助手。",
    "你可以调用工具来帮助用户。",
)
NO_TOOL = {
    "en": "I am sorry, none of my tools can do that.",
    "zh": "抱歉，我没有可以完成这件事的工具。",
}


@dataclass(frozen=True)
class Sample:
    """A prompt with tools, and the calls (or, without calls, the text) that answer it."""

    tools: list[dict[str, Any]]
    prompt: str
    calls: list[tuple[str, dict[str, Any]]]
    text: str
    uses: tuple[Use, ...]
    lang: str


def lineup(r: Random, held_out: bool = False, most: int = 8) -> Tools:
    """One to eight tools with different names; half the time with near misses among them."""
    count = r.choice([1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8])
    tools: Tools = []
    share = 0.0 if held_out else r.choice([0.0, 0.5, 1.0])
    for _ in range(min(count, most)):
        if r.random() < share:
            weather = r.random() < 0.1
            tools.append(offer(bank()[0] if weather else r.choice(bank()), r))
        else:
            inventions = [t for t in tools if isinstance(t, Invention)]
            like = r.choice(inventions) if inventions and r.random() < 0.5 else None
            tools.append(invent(r, held_out, like))
    r.shuffle(tools)
    return _distinct(tools)


def _distinct(tools: Tools) -> Tools:
    names: set[str] = set()
    acts: set[Any] = set()
    kept: Tools = []
    for tool in tools:
        act = (tool.verb, tool.noun) if isinstance(tool, Invention) else tool.tool.names[0]
        if tool.name not in names and act not in acts:
            names.add(tool.name)
            acts.add(act)
            kept.append(tool)
    return kept


def _use(tool: Offer | Invention, r: Random, lang: str) -> Use:
    return use_invention(tool, r, lang) if isinstance(tool, Invention) else use(tool, r, lang)


def _language(r: Random) -> str:
    return "en" if r.random() < 0.65 else "zh"


def _joined(first: str, second: str, r: Random, lang: str) -> str:
    if lang == "zh":
        return first.rstrip("。") + r.choice(["，", "，然后", "，还有", "。另外，"]) + second
    plain = (
        second
        if second[:2] in ("I ", "I'") or second[1:2].isupper()
        else second[0].lower() + second[1:]
    )
    stem = first.rstrip(".?")
    return r.choice(
        [
            f"{stem} and {plain}",
            f"{stem}, and {plain}",
            f"{first} {second}",
            f"{stem}. Also, {plain}",
            f"{stem} and then {plain}",
        ]
    )


def _twice(tool: Offer, r: Random, lang: str) -> tuple[str, list[Use]] | None:
    """One request that needs the same tool for two or three cities."""
    if len([p for p in tool.tool.parameters if p.required]) != 1:
        return None
    parameter = tool.tool.parameters[0]
    if parameter.kind not in ("city", "country", "ticker"):
        return None
    form = use(tool, r, lang)
    if len(form.arguments) != 1:
        return None
    key, value = next(iter(form.arguments.items()))
    uses = [form]
    for _ in range(r.choice([1, 1, 1, 2])):
        other = use(tool, r, lang)
        if len(other.arguments) == 1 and all(
            other.arguments[key] != u.arguments[key] for u in uses
        ):
            uses.append(other)
    if len(uses) < 2 or value not in form.request:
        return None
    named = [u.arguments[key] for u in uses]
    joint = {
        "en": ", ".join(named[:-1]) + f" and {named[-1]}",
        "zh": "、".join(named[:-1]) + r.choice(["和", "、"]) + named[-1],
    }
    return form.request.replace(value, joint[lang]), uses


def sample(r: Random, held_out: bool = False, kind: str = "") -> Sample:
    """One turn with tools. kind: "one", "two", "none", or "" for the training mixture."""
    lang, tools = _language(r), lineup(r, held_out)
    kind = kind or r.choices(["one", "two", "none"], [0.74, 0.12, 0.14])[0]
    listed = [tool.json for tool in tools]
    if kind == "none":
        prompt, text = _without(tools, r, lang)
        return Sample(listed, prompt, [], text, (), lang)
    tool = r.choice(tools)
    if kind == "two":
        both = _twice(tool, r, lang) if isinstance(tool, Offer) and r.random() < 0.7 else None
        if both is None:
            uses = [_use(tool, r, lang), _use(r.choice(tools), r, lang)]
            both = _joined(uses[0].request, uses[1].request, r, lang), uses
        prompt, uses = both
    else:
        uses = [_use(tool, r, lang)]
        prompt = uses[0].request
    return Sample(listed, prompt, [(u.name, u.arguments) for u in uses], "", tuple(uses), lang)


def weather(r: Random) -> Sample:
    """The classic: get_weather(city, unit), alone or among other tools."""
    lang = _language(r)
    tools = [offer(bank()[0], r)] + ([] if r.random() < 0.6 else list(lineup(r, most=4)))
    kept = _distinct(list(tools))
    one = use(tools[0], r, lang) if isinstance(tools[0], Offer) else None
    assert one is not None
    r.shuffle(kept)
    return Sample(
        [t.json for t in kept], one.request, [(one.name, one.arguments)], "", (one,), lang
    )


def _without(tools: Tools, r: Random, lang: str) -> tuple[str, str]:
    """A request that no tool fits: small talk, a missing argument, or somebody else's tool."""
    roll = r.random()
    offered = [t for t in tools if isinstance(t, Offer) and t.tool.missing[lang]]
    if offered and roll < 0.5:
        prompt, answer = r.choice(r.choice(offered).tool.missing[lang]).split(" => ")
        return prompt, answer
    if roll < 0.75:
        turn = talk.sample(r, lang)
        return turn.prompt, turn.answer
    taken = {t.tool.names[0] for t in tools if isinstance(t, Offer)}
    words = {w for t in tools if isinstance(t, Invention) for w in (t.verb, t.noun)}
    for _ in range(20):
        if r.random() < 0.4:
            other = r.choice(bank())
            risky = {"search_web", "get_my_location", "calculate"} & taken
            if other.names[0] in taken or risky or _related(other.names[0], taken):
                continue
            return use(offer(other, r), r, lang).request, NO_TOOL[lang]
        made = invent(r)
        if made.verb not in words and made.noun not in words:
            return use_invention(made, r, lang).request, NO_TOOL[lang]
    turn = talk.sample(r, lang)
    return turn.prompt, turn.answer


def _related(name: str, taken: set[str]) -> bool:
    stem = name.split("_")[-1]
    return any(stem in other or other.split("_")[-1] in name for other in taken)


def _finish(made: Chat, turn: Sample, r: Random) -> None:
    """The results of the calls and the answer that uses them."""
    for one in turn.uses:
        made.result(one.result)
    made.say((" " if turn.lang == "en" else "").join(one.answer for one in turn.uses))


def _turn(made: Chat, turn: Sample, r: Random, finish: bool) -> None:
    made.user(turn.prompt)
    if r.random() < 0.03:
        names = " and ".join(name for name, _ in turn.calls)
        made.think(f"The request needs {names}." if turn.calls else "No tool is needed here.")
    if turn.calls:
        made.call(turn.calls)
        if finish:
            _finish(made, turn, r)
    else:
        made.say(turn.text)


def chat(r: Random) -> Chat:
    """A training conversation: the first request, then often more with the same tools."""
    made = Chat()
    if r.random() < 0.25:
        made.system(r.choice(SYSTEM if r.random() < 0.9 else instructions("system")))
    if r.random() < 0.12:
        turn = weather(r)
        made.tools(turn.tools)
        _turn(made, turn, r, r.random() < 0.5)
        return made
    tools, lang = lineup(r), _language(r)
    made.tools([tool.json for tool in tools])
    turns = r.choice([1, 1, 2, 2, 3, 4, 6])
    for number in range(turns):
        turn = _again(tools, r, lang if r.random() < 0.9 else _language(r))
        _turn(made, turn, r, number < turns - 1 or r.random() < 0.6)
    return made.cut(r) if r.random() < 0.06 else made


def _again(tools: Tools, r: Random, lang: str) -> Sample:
    roll, listed = r.random(), [tool.json for tool in tools]
    if roll < 0.14:
        prompt, text = _without(tools, r, lang)
        return Sample(listed, prompt, [], text, (), lang)
    tool = r.choice(tools)
    both = None
    if roll < 0.3:
        both = _twice(tool, r, lang) if isinstance(tool, Offer) and r.random() < 0.7 else None
        if both is None:
            uses = [_use(tool, r, lang), _use(r.choice(tools), r, lang)]
            both = _joined(uses[0].request, uses[1].request, r, lang), uses
    else:
        one = _use(tool, r, lang)
        both = one.request, [one]
    return Sample(
        listed, both[0], [(u.name, u.arguments) for u in both[1]], "", tuple(both[1]), lang
    )
