"""Small talk: greetings, who the model is, capitals, a few facts, and an honest "I don't know"."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from training.generate import values
from training.generate.chat import Chat
from training.generate.values import DATA, countries, of
from training.generate.wrappers import instructions


@dataclass(frozen=True)
class Turn:
    prompt: str
    answer: str
    lang: str


@cache
def topics() -> tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]:
    found: list[tuple[tuple[str, ...], list[str], str]] = []
    for line in (DATA / "talk.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("Q: "):
            lang = "en" if line[3:].split("|")[0].isascii() else "zh"
            found.append((tuple(line[3:].split("|")), [], lang))
        elif line.startswith("A: "):
            found[-1][1].append(line[3:].replace("\\n", "\n"))
    return tuple((asks, tuple(answers), lang) for asks, answers, lang in found)


@cache
def unknown(lang: str) -> tuple[str, ...]:
    text = (DATA / "unknown.txt").read_text(encoding="utf-8")
    section = (
        text.split("[zh]\n")[1] if lang == "zh" else text.split("[zh]\n")[0].split("[en]\n")[1]
    )
    return tuple(section.splitlines())


IGNORANCE = {
    "en": "I am a small model and I don't know that. I am best at extracting data and calling tools.",
    "zh": "我是一个小模型，不知道这个问题的答案。我擅长提取数据和调用工具。",
}
CAPITAL_EN = (
    "What is the capital of {}?", "What is the capital of {}?", "what is the capital of {}",
    "What's the capital of {}?", "Capital of {}?", "Tell me the capital of {}.",
    "Which city is the capital of {}?", "Name the capital of {}.", "The capital of {} is?",
    "Do you know the capital of {}?", "What is the capital city of {}?", "capital of {}",
    "What is the capital of {}? Answer in one word.", "Please tell me the capital of {}.",
)  # fmt: skip
CAPITAL_ZH = (
    "{}的首都是哪里？", "{}的首都是什么？", "{}的首都是？", "{}首都是哪里", "{}的首都在哪里？",
    "请问{}的首都是哪里？", "{}的首都是哪个城市？", "告诉我{}的首都", "{}的首都叫什么？",
)  # fmt: skip


def capital(r: Random, lang: str) -> Turn:
    country, city, country_zh, city_zh = r.choice(countries())
    if r.random() < 0.15:  # and the other way round
        if lang == "zh":
            ask = r.choice(["{}是哪个国家的首都？", "哪个国家的首都是{}？"]).format(city_zh)
            return Turn(ask, f"{city_zh}是{country_zh}的首都。", lang)
        ask = r.choice(
            ["{} is the capital of which country?", "Which country has {} as its capital?"]
        )
        return Turn(ask.format(city), f"{city.rstrip('.')} is the capital of {country}.", lang)
    if lang == "zh":
        return Turn(
            r.choice(CAPITAL_ZH).format(country_zh), f"{country_zh}的首都是{city_zh}。", lang
        )
    shown = country.removeprefix("the ") if r.random() < 0.3 else country
    return Turn(
        r.choice(CAPITAL_EN).format(shown),
        f"The capital of {country} is {city.rstrip('.')}.",
        lang,
    )


def _unknown(r: Random, lang: str) -> Turn:
    thing = of(r, "topics", lang) if r.random() < 0.6 else values.scramble(r, lang)
    text = r.choice(unknown(lang)).replace("{x}", thing).replace("{y}", values.scramble(r, lang))
    return Turn(text.replace("{p}", values.person(r, lang)), IGNORANCE[lang], lang)


def sample(r: Random, lang: str = "") -> Turn:
    lang = lang or ("en" if r.random() < 0.6 else "zh")
    roll = r.random()
    if roll < 0.4:
        return capital(r, lang)
    if roll < 0.55:
        return _unknown(r, lang)
    asks, answers, spoken = r.choice([t for t in topics() if t[2] == lang])
    ask = r.choice(asks)
    if r.random() < 0.15:
        ask = ask.lower() if r.random() < 0.5 else ask.rstrip("?.!？。！")
    return Turn(ask, r.choice(answers), spoken)


def chat(r: Random) -> Chat:
    made = Chat()
    if r.random() < 0.25:
        made.system(r.choice(instructions("system")))
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        turn = sample(r)
        made.user(turn.prompt)
        if r.random() < 0.06:
            known = turn.answer not in IGNORANCE.values()
            steps = {"en": "The user asks a short question. " + ("I know the answer." if known else "I do not know this."),
                     "zh": "用户问了一个简短的问题。" + ("我知道答案。" if known else "我不知道这个。")}  # fmt: skip
            made.think(steps[turn.lang])
        made.say(turn.answer)
    return made
