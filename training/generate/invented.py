"""Tools made up on the spot: names, parameters, and requests that ask for them.

They teach the model to read the tools in its prompt instead of knowing them. Verbs, nouns and
word shapes marked as held out never appear in training.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from training.generate import values
from training.generate.bank import Use, definition, draw_argument, schema_of
from training.generate.values import DATA

# kind -> usual parameter names, a phrase in English, one in Chinese ("" = only with its label)
NATURAL: dict[str, tuple[list[str], str, str]] = {
    "person": (["name", "customer", "user", "owner", "recipient", "assignee"], "for {}", "给{}"),
    "city": (["city", "location", "destination"], "in {}", "在{}"),
    "anydate": (["date", "day", "due_date", "start_date"], "on {}", "日期{}"),
    "clock": (["time", "start_time", "at"], "at {}", "时间{}"),
    "code": (["id", "code", "reference", "number"], "with the id {}", "编号{}"),
    "money": (["price", "amount", "budget", "cost"], "for {}", "价格{}"),
    "small": (["count", "quantity", "copies", "limit"], "{} times", "{}次"),
    "email": (["email", "contact", "notify_email"], "and notify {}", "并通知{}"),
    "phrase": (["title", "label", "subject", "name", "topic"], 'called "{}"', "名为“{}”"),
    "company": (["company", "vendor", "client"], "from {}", "来自{}"),
    "path": (["path", "file", "target"], "at {}", "路径{}"),
    "bool": (["urgent", "force", "public", "notify", "dry_run", "silent"], "", ""),
    "number": (["weight", "size", "speed", "threshold", "rate", "level"], "", ""),
    "count": (["max_results", "width", "height", "timeout", "page"], "", ""),
    "list": (["tags", "labels", "items", "keywords"], "with {}", ""),
    "enum": (["mode", "priority", "format", "size", "type", "color", "status"], "", ""),
    "word": (["query", "text", "key", "comment", "value"], "", ""),
}
CHINESE_LABELS = {
    "name": "名称", "customer": "客户", "user": "用户", "owner": "所有者", "city": "城市",
    "location": "地点", "date": "日期", "time": "时间", "id": "编号", "code": "代码", "price": "价格",
    "amount": "金额", "budget": "预算", "count": "数量", "quantity": "数量", "email": "邮箱",
    "title": "标题", "subject": "主题", "company": "公司", "path": "路径", "urgent": "紧急",
    "public": "公开", "weight": "重量", "size": "大小", "speed": "速度", "width": "宽度",
    "height": "高度", "tags": "标签", "mode": "模式", "priority": "优先级", "format": "格式",
    "type": "类型", "color": "颜色", "status": "状态", "query": "关键词", "text": "文本",
    "comment": "备注", "value": "值",
}  # fmt: skip
ENUMS = (
    ["low", "medium", "high"], ["small", "medium", "large"], ["red", "green", "blue", "yellow"],
    ["pdf", "csv", "json", "html"], ["fast", "slow"], ["draft", "final"], ["daily", "weekly", "monthly"],
    ["public", "private"], ["north", "south", "east", "west"], ["auto", "manual"], ["asc", "desc"],
)  # fmt: skip


@cache
def actions(section: str, held_out: bool) -> tuple[tuple[str, str], ...]:
    inside, found = False, []
    for line in (DATA / "actions.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside and line.startswith("!") == held_out:
            en, zh = line.lstrip("!").split("|")
            found.append((en, zh))
    return tuple(found)


def odd_word(r: Random, held_out: bool) -> str:
    """A word without meaning; held-out ones are built of other syllables."""
    if not held_out:
        return values.made_up(r)
    inner = "aeiou"
    shape = [
        r.choice("bcdfghjklmnpqrstvwz") + r.choice(inner) + r.choice("bdgklmnprst") for _ in "ab"
    ]
    return "".join(shape)


@dataclass
class Slot:
    name: str
    kind: str
    required: bool
    schema: dict[str, Any]


@dataclass
class Invention:
    """`verb` and `noun` are what requests say, in both languages. Of an `unlinked` tool the name
    says something else, so that only its parameters and its description tell what it is for."""

    name: str
    verb: tuple[str, str]
    noun: tuple[str, str]
    slots: list[Slot]
    json: dict[str, Any]
    unlinked: bool = False


def _style(parts: list[str], r: Random) -> str:
    roll = r.random()
    if roll < 0.7:
        return "_".join(parts)
    if roll < 0.85:
        return parts[0] + "".join(p.capitalize() for p in parts[1:])
    return "-".join(parts) if roll < 0.92 else "".join(p.capitalize() for p in parts)


def _slot(r: Random, held_out: bool) -> Slot:
    kind = r.choice(list(NATURAL))
    name = r.choice(NATURAL[kind][0])
    if held_out or r.random() < 0.35:
        name = odd_word(r, held_out)
        if r.random() < 0.3:
            name += "_" + odd_word(r, held_out)
    if kind == "enum":
        options = r.choice(ENUMS)
        if r.random() < 0.4:
            options = [odd_word(r, held_out) for _ in range(r.randint(2, 4))]
        schema: dict[str, Any] = {"type": "string", "enum": list(dict.fromkeys(options))}
        kind = "enum:" + ",".join(f"{o}={o}/{o}" for o in schema["enum"])
    else:
        schema = dict(schema_of(kind))
    if r.random() < 0.4:
        words = name.replace("_", " ")
        schema["description"] = r.choice(
            [f"The {words}", f"{words.capitalize()}", f"The {words} to use"]
        )
    return Slot(name, kind, r.random() < 0.6, schema)


def invent(r: Random, held_out: bool = False, like: Invention | None = None) -> Invention:
    """A tool; `like` gives a near miss: the same noun with another verb, or the reverse."""
    verb = r.choice(actions("verbs", held_out))
    noun = r.choice(actions("nouns", held_out))
    if r.random() < 0.25:
        word = odd_word(r, held_out)
        noun = (word, word)
    if r.random() < 0.1:
        word = odd_word(r, held_out)
        verb = (word, word)
    if like is not None:
        if r.random() < 0.5:
            noun = like.noun
        else:
            verb = like.verb
    slots: list[Slot] = []
    for _ in range(r.choice([0, 1, 1, 2, 2, 3, 3, 4, 5])):
        slot = _slot(r, held_out)
        if all(slot.name != s.name and slot.kind != s.kind for s in slots):
            slots.append(slot)
    name = _style([verb[0], noun[0]], r)
    unlinked = not held_out and r.random() < 0.2 and any(s.required for s in slots)
    if unlinked:
        verb, noun = _unrelated(verb, noun, r)
    article = "an" if noun[0][0] in "aeiou" else "a"
    description = r.choice(
        [
            f"{verb[0].capitalize()} {article} {noun[0]}.",
            f"{verb[0].capitalize()} {article} {noun[0]}",
            f"Use this to {verb[0]} {article} {noun[0]}.",
            f"{verb[0].capitalize()} the {noun[0]} of the user.",
            f"{verb[1]}{noun[1]}",
            "",
        ]
    )
    required = [s.name for s in slots if s.required]
    json = definition(name, description, {s.name: s.schema for s in slots}, required, r)
    return Invention(name, verb, noun, slots, json, unlinked)


def _unrelated(
    verb: tuple[str, str], noun: tuple[str, str], r: Random
) -> tuple[tuple[str, str], tuple[str, str]]:
    """Words for the request that the tool's name does not have: the one, the other, or both."""

    def word() -> tuple[str, str]:
        return values.made_up(r), values.hanzi(r, 2, 3)

    which = r.choice(["verb", "verb", "noun", "both"])
    return (word() if which != "noun" else verb), (word() if which != "verb" else noun)


def _phrase(slot: Slot, surface: str, r: Random, lang: str, labelled: bool) -> str:
    en, zh = NATURAL.get(slot.kind, ([], "", ""))[1:]
    words = slot.name.replace("_", " ")
    usual = slot.name in NATURAL.get(slot.kind, ([],))[0] and not labelled
    if lang == "zh":
        label = CHINESE_LABELS.get(slot.name, words)
        if slot.kind == "bool":
            surface = "是" if surface == "true" else "否"
        if usual and zh and r.random() < 0.5:
            return zh.format(surface)
        return r.choice(
            [
                f"{label}为{surface}",
                f"{label}是{surface}",
                f"{label}：{surface}",
                f"{label}{surface}",
            ]
        )
    if slot.kind == "bool":
        on = surface == "true"
        pair = r.choice([("on", "off"), ("true", "false"), ("yes", "no"), ("enabled", "disabled")])
        return r.choice(
            [
                f"with {words} {pair[not on]}",
                f"{words}: {pair[not on]}",
                f"{words} = {pair[not on]}",
            ]
        )
    if usual and en and r.random() < 0.55:
        return en.format(surface)
    return r.choice(
        [
            f"with {words} {surface}",
            f"with {words} {surface}",
            f"{words}: {surface}",
            f"{words} {surface}",
            f"with the {words} {surface}",
            f"using {surface} as {words}",
            f"with {words} set to {surface}",
            f"{words} = {surface}",
        ]
    )


def use_invention(tool: Invention, r: Random, lang: str) -> Use:
    arguments: dict[str, Any] = {}
    phrases: list[str] = []
    for slot in tool.slots:
        if not slot.required and r.random() < 0.4:
            continue
        value, surface = draw_argument(slot.kind, r, lang)
        arguments[slot.name] = value
        phrases.append(_phrase(slot, surface, r, lang, tool.unlinked))
    if r.random() < 0.4:
        r.shuffle(phrases)
    if lang == "zh":
        verb, noun = tool.verb[1], tool.noun[1]
        head = r.choice(
            [f"{verb}{noun}", f"请{verb}{noun}", f"帮我{verb}{noun}", f"{verb}一个{noun}"]
        )
        request = "，".join([head, *phrases]) + r.choice(["", "。"])
    else:
        verb, noun = tool.verb[0], tool.noun[0]
        article = r.choice(["the", "the", "a" if noun[0] not in "aeiou" else "an", "my"])
        head = f"{verb} {article} {noun}"
        head = r.choice(
            [
                head,
                head,
                f"please {head}",
                f"can you {head}",
                f"I want to {head}",
                f"I need you to {head}",
            ]
        )
        joined = [head, *phrases]
        if len(phrases) > 1 and r.random() < 0.5:
            request = ", ".join([" ".join(joined[:2]), *joined[2:-1]]) + f" and {joined[-1]}"
        else:
            request = r.choice([", ", " "]).join(joined) if len(phrases) < 3 else ", ".join(joined)
        request = request[0].upper() + request[1:] if r.random() < 0.8 else request
        request += r.choice([".", ".", ""]) if not head.startswith("can") else "?"
    return Use(request, tool.name, arguments, *_outcome(tool, r, lang))


def _outcome(tool: Invention, r: Random, lang: str) -> tuple[str, str]:
    roll, noun = r.random(), tool.noun[lang == "zh"]
    if roll < 0.35:
        result = r.choice(
            ['{"status": "ok"}', '{"success": true}', "ok", "done", '{"result": "success"}']
        )
        return result, "Done." if lang == "en" else "已完成。"
    if roll < 0.6:
        code = values.code(r)
        text = f"Done. The id is {code}." if lang == "en" else f"已完成，编号是{code}。"
        return f'{{"status": "ok", "id": "{code}"}}', text
    if roll < 0.75:
        error = r.choice(
            ["not found", "permission denied", "timeout", "invalid input", "already exists"]
        )
        text = (
            f"Sorry, that did not work: {error}." if lang == "en" else f"抱歉，操作失败：{error}。"
        )
        return f'{{"error": "{error}"}}', text
    word = odd_word(r, False) if r.random() < 0.5 else r.choice(["state", "value", "total", "name"])
    value = draw_argument(r.choice(["small", "count", "word", "person"]), r, lang)[0]
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    text = f"The {word} of the {noun} is {value}." if lang == "en" else f"{noun}的{word}是{value}。"
    return f'{{"{word}": {shown}}}', text
