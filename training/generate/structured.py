"""Other answers that a grammar may force: labels to choose from, e-mail addresses, SQL, short
JSON about well-known things, and records made up on request.
"""

from __future__ import annotations

from random import Random
from typing import Any

from training.generate import values
from training.generate.chat import Chat, dumps
from training.generate.extraction import restyle
from training.generate.records import domains, draw
from training.generate.values import countries, of
from training.generate.wrappers import instructions

GOOD = ("wonderful", "great", "excellent", "amazing", "fantastic", "lovely", "perfect", "brilliant")
BAD = ("terrible", "awful", "bad", "horrible", "disappointing", "broken", "useless", "boring")
FLAT = ("okay", "average", "fine", "so-so", "nothing special")
GOOD_ZH, BAD_ZH, FLAT_ZH = (
    ("很好", "非常棒", "太好了", "很满意"),
    ("很差", "太糟了", "很失望", "坏了"),
    ("一般", "还行", "普通"),
)


def _opinion(r: Random, lang: str) -> tuple[str, str]:
    mood = r.choice(["positive", "negative", "positive", "negative", "neutral"])
    if lang == "zh":
        word = r.choice({"positive": GOOD_ZH, "negative": BAD_ZH, "neutral": FLAT_ZH}[mood])
        thing = r.choice(
            [of(r, "products", "zh"), "服务", "电影", "这家酒店", "菜", values.hanzi(r, 2, 3)]
        )
        extra = {"positive": "，我很喜欢", "negative": "，不会再买了", "neutral": ""}[mood]
        return f"{thing}{word}{extra if r.random() < 0.5 else ''}。", mood
    word = r.choice({"positive": GOOD, "negative": BAD, "neutral": FLAT}[mood])
    thing = r.choice(
        [
            f"The {of(r, 'products')}",
            f"The {of(r, 'nouns')}",
            values.made_up(r).title(),
            "vLLM",
            "formgate",
            "This",
        ]
    )
    tail = {
        "positive": ["", " I love it.", " I would buy it again!", " Highly recommended."],
        "negative": ["", " I hate it.", " I want my money back.", " Never again."],
        "neutral": ["", " It does its job.", " I have no opinion."],
    }[mood]
    adverb = (
        r.choice(["", "really ", "absolutely ", "very ", "quite "]) if mood != "neutral" else ""
    )
    return (
        f"{thing} {r.choice(['is', 'was'])} {adverb}{word}{r.choice(['.', '!'])}{r.choice(tail)}",
        mood,
    )


def _sentiment(r: Random, made: Chat) -> None:
    lang = "en" if r.random() < 0.65 else "zh"
    text, mood = _opinion(r, lang)
    ask = r.choice(["Classify this sentiment: {}", "Classify the sentiment: {}", "What is the sentiment of this text? {}",
                    "Is this positive or negative? {}", "Sentiment: {}", "{}", "Analyze the sentiment of: {}"])  # fmt: skip
    if lang == "zh":
        ask = r.choice(
            [
                "判断情感：{}",
                "请对下面的评论做情感分类：{}",
                "这条评论是正面还是负面？{}",
                "{}",
                "情感分析：{}",
            ]
        )
    made.user(ask.format(text))
    if r.random() < 0.5 and ask != "{}":
        style = r.random()
        if lang == "zh" and style < 0.4:
            mood = {"positive": "正面", "negative": "负面", "neutral": "中性"}[mood]
        made.say(mood.capitalize() if 0.4 < style < 0.6 else mood)
        return
    key = r.choice(["sentiment", "label", "polarity", "class", "category", "feeling"])
    answer: dict[str, Any] = {key: mood}
    if r.random() < 0.3:
        answer[r.choice(["text", "review", "input"])] = text
    if r.random() < 0.2:
        answer[r.choice(["confidence", "score"])] = r.choice([0.9, 0.95, 0.99])
    made.say(dumps(answer))


def _address(r: Random, made: Chat) -> None:
    first = of(r, "first_names") if r.random() < 0.5 else values.made_up(r).capitalize()
    last = of(r, "last_names") if r.random() < 0.5 else values.made_up(r).capitalize()
    firm = of(r, "company_words") if r.random() < 0.5 else values.made_up(r).capitalize()
    tail = r.choice(["com", "com", "org", "net"])
    ask = r.choice(["Generate an email address for {a} {b}, who works in {c}. End in .{t}.",
                    "Generate an example email address for {a} {b}, who works at {c}. End in .{t} and new line.",
                    "Make up an email address for {a} {b} of {c} ending in .{t}"])  # fmt: skip
    made.user(ask.format(a=first, b=last, c=firm, t=tail))
    made.say(f"{first}.{last}@{firm}.{tail}".lower())


def _sql(r: Random, made: Chat) -> None:
    table = r.choice(["users", "orders", "products", "customers", values.made_up(r)])
    pool = ["username", "email", "id", "name", "price", "age", values.made_up(r)]
    columns = r.sample(pool, r.randint(1, 3))
    quote = r.choice(["'", "", '"'])
    shown = " and ".join(f"{quote}{c}{quote}" for c in columns)
    ask = r.choice(["Generate an SQL query to show the {} from the {} table.", "Write an SQL query that selects {} from {}.",
                    "SQL to get {} from the table {}"])  # fmt: skip
    made.user(ask.format(shown, f"{quote}{table}{quote}"))
    made.say(f"SELECT {', '.join(columns)} FROM {table}")


def _known(r: Random, made: Chat) -> None:
    """JSON about a country."""
    country, city, country_zh, city_zh = r.choice(countries())
    country = country.removeprefix("the ")
    if r.random() < 0.3:
        made.user(r.choice(["{}的首都是哪里？", "介绍一下{}", "{}"]).format(country_zh))
        keys = [
            (r.choice(["country", "国家", "name"]), country_zh),
            (r.choice(["capital", "首都"]), city_zh),
        ]
    else:
        asks = [
            "What is the capital of {}?",
            "Tell me about {}.",
            "Give me information about {} as JSON.",
            "{}",
            "Describe {}.",
        ]
        made.user(r.choice(asks).format(country))
        keys = [
            (r.choice(["country", "name", "country_name"]), country),
            (r.choice(["capital", "capital_city", "answer", "city"]), city),
        ]
    r.shuffle(keys)
    made.say(dumps(dict(keys[: r.choice([1, 2, 2])])))


def _imagined(r: Random, made: Chat) -> None:
    """A record that the model may fill as it likes."""
    lang = "en" if r.random() < 0.7 else "zh"
    domain = r.choice(domains())
    entity = r.choice(domain.entities[lang])
    ask = r.choice(["Generate a JSON for a {}.", "Create a sample {}.", "Give me a random {}.", "Make up a {} as JSON.",
                    "Generate an example {}", "Generate a JSON object describing a {}"]).format(entity)  # fmt: skip
    if lang == "zh":
        ask = r.choice(["生成一个{}的JSON。", "随机生成一个{}", "编一个{}的例子"]).format(entity)
    if domain.name == "car" and lang == "en" and r.random() < 0.5:
        ask = "Generate a JSON with the brand, model and car_type of the most iconic car from the 90's"
    names = r.sample(list(domain.fields), r.randint(2, min(6, len(domain.fields))))
    answer: dict[str, Any] = {}
    for name in names:
        field = domain.fields[name]
        value = r.random() < 0.5 if field.kind == "bool" else draw(field.kind, r, lang)[0]
        answer[restyle(r.choice(field.keys[lang]), r.random() * 0.9)] = value
    made.user(ask)
    made.say(dumps(answer))


def chat(r: Random) -> Chat:
    made = Chat()
    if r.random() < 0.15:
        made.system(r.choice(instructions("system")))
    makers = (_sentiment, _address, _sql, _known, _imagined)
    r.choices(makers, [0.4, 0.15, 0.12, 0.18, 0.15])[0](r, made)
    return made
