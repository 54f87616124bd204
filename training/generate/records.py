"""Records to extract: entities with random fields, and the sentences that tell of them.

Reads the domains (fields, their keys and clauses, sentence templates) from domains.txt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from training.generate import values
from training.generate.chat import choose_form
from training.generate.values import DATA, Value, of

SCRAMBLED = frozenset(
    "person occupation city company product title university dish car place event firstname".split()
)
ENGLISH = {
    "gender": ["male", "female", "non-binary"],
    "status": ["shipped", "pending", "delivered", "cancelled", "processing", "in transit"],
    "priority": ["low", "medium", "high", "critical", "urgent"],
    "cartype": ["sedan", "SUV", "truck", "coupe", "convertible", "hatchback", "van"],
    "carbrand": ["Toyota", "Honda", "BMW", "Ford", "Tesla", "Mazda", "Volvo", "Audi", "Kia"],
    "dish": ["spaghetti carbonara", "vegetable soup", "pancakes", "fried rice", "apple pie",
             "chicken curry", "Greek salad", "beef stew", "mushroom risotto", "fish tacos"],
    "foods": ["eggs", "flour", "milk", "butter", "sugar", "salt", "rice", "tomatoes", "onions",
              "garlic", "cheese", "chicken", "beef", "carrots", "potatoes", "basil", "lemon"],
}  # fmt: skip
CHINESE = {
    "gender": ["男", "女"],
    "status": ["已发货", "待处理", "已送达", "已取消", "处理中", "运输中"],
    "priority": ["低", "中", "高", "紧急"],
    "cartype": ["轿车", "越野车", "卡车", "跑车", "面包车"],
    "carbrand": ["丰田", "本田", "宝马", "福特", "特斯拉", "比亚迪", "大众", "奥迪"],
    "dish": ["西红柿炒鸡蛋", "宫保鸡丁", "麻婆豆腐", "红烧肉", "蛋炒饭", "酸辣汤", "饺子"],
    "foods": ["鸡蛋", "面粉", "牛奶", "黄油", "白糖", "盐", "米饭", "西红柿", "洋葱", "大蒜", "鸡肉", "牛肉", "土豆"],
}  # fmt: skip
LISTED = {
    "occupation": "occupations", "product": "products", "color": "colors", "genre": "genres",
    "degree": "degrees", "university": "universities", "department": "departments",
    "animal": "animals", "cuisine": "cuisines", "condition": "conditions",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    name: str
    kind: str
    keys: dict[str, list[str]]  # by language
    label: dict[str, str]
    clauses: dict[str, list[str]]


@dataclass(frozen=True)
class Domain:
    name: str
    subject: str
    entities: dict[str, list[str]]
    fields: dict[str, Field]
    templates: dict[str, list[str]]


def _field(line: str) -> Field:
    head, en_keys, zh_keys, label, en_clauses, zh_clauses = (p.strip() for p in line.split(" | "))
    name, kind = head.split(" ", 1)
    en, zh = en_clauses.split(";"), zh_clauses.split(";")
    if kind.startswith("bool:"):
        yes_no = kind.split(":")
        en, zh = yes_no[1].split("/"), yes_no[2].split("/")
        kind = "bool"
    keys = {"en": en_keys.split(","), "zh": zh_keys.split(",")}
    return Field(name, kind, keys, {"en": label, "zh": keys["zh"][0]}, {"en": en, "zh": zh})


@cache
def domains() -> tuple[Domain, ...]:
    found: list[Domain] = []
    for line in (DATA / "domains.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("@"):
            name, subject, en, zh = line[1:].split()
            entities = {"en": en[3:].split(","), "zh": zh[3:].split(",")}
            empty: dict[str, list[str]] = {"en": [], "zh": []}
            found.append(Domain(name, subject.split("=")[1], entities, {}, empty))
        elif line[:3] in ("T: ", "Z: "):
            found[-1].templates["en" if line[0] == "T" else "zh"].append(line[3:])
        elif line and not line.startswith("#"):
            field = _field(line)
            found[-1].fields[field.name] = field
    return tuple(found)


def _count(r: Random, lang: str) -> Value:
    value = r.choice(
        [r.randint(1, 99), r.randint(1, 999), r.randint(100, 9999), r.randint(1000, 99999)]
    )
    return value, f"{value:,}" if value > 999 and r.random() < 0.4 and lang == "en" else str(value)


def _number(kind: str, r: Random, lang: str) -> Value | None:
    value: float
    if kind == "age":
        value = r.randint(18, 70) if r.random() < 0.8 else r.randint(1, 110)
    elif kind == "small" or kind == "years":
        value = r.randint(1, 12) if kind == "small" else r.randint(1, 40)
    elif kind == "minutes":
        value = r.choice([5, 10, 15, 20, 30, 45, 60, 90, 120, r.randint(5, 200)])
    elif kind == "year":
        value = r.randint(1800, 2030)
    elif kind == "height":
        value = r.randint(140, 210)
    elif kind == "rating":
        value = round(r.uniform(1, 5), 1)
    elif kind == "weight":
        value = r.choice([r.randint(1, 90), round(r.uniform(0.1, 90), 1)])
    elif kind == "percent":
        value = r.randint(0, 100)
    elif kind == "temp":
        value = r.randint(-30, 45)
    elif kind == "count2":
        value = r.randint(0, 120)
    elif kind == "count":
        return _count(r, lang)
    elif kind == "money":
        return values.money(r, lang)
    else:
        return None
    return value, values.plain(value)


def _text(kind: str, r: Random, lang: str) -> str:
    match kind:
        case "person":
            return values.person(r, lang)
        case "firstname":
            return of(r, "first_names") if lang == "en" else of(r, "given", "zh")
        case "city":
            return values.city(r, lang)
        case "country":
            return values.country(r, lang)
        case "email":
            return values.email(r)
        case "phone":
            return values.phone(r, lang)
        case "company":
            return values.company(r, lang)
        case "date":
            return values.date(r, lang)
        case "anydate":
            return values.any_date(r, lang)
        case "time":
            return values.clock(r, lang)
        case "address":
            return values.address(r, lang)
        case "place":
            return values.place(r, lang)
        case "title":
            return values.title(r, lang)
        case "event":
            return values.event(r, lang)
        case "code" | "url":
            return values.code(r) if kind == "code" else values.url(r)
        case "car":
            return f"{values.made_up(r).title()} {values.letters(r, 0, 1, 'XSTRE')}".strip()
    if kind in LISTED:
        return of(r, LISTED[kind], lang)
    return r.choice((ENGLISH if lang == "en" else CHINESE)[kind])


def draw(kind: str, r: Random, lang: str) -> Value:
    """A random value of a kind (never "bool") and its surface form."""
    if kind in ("skills", "languages"):
        return values.several(r, lang, lambda: of(r, kind, lang))
    if kind == "people":
        return values.several(r, lang, lambda: values.person(r, lang), 2, 4)
    if kind == "foods":
        return values.several(r, lang, lambda: _text("foods", r, lang), 2, 5)
    drawn = _number(kind, r, lang)
    if drawn is not None:
        return drawn
    if kind in SCRAMBLED and r.random() < 0.2:
        text = values.scramble(r, lang)
    else:
        other = r.random() < (0.06 if lang == "zh" else 0.02)
        text = _text(kind, r, lang if not other else "zh" if lang == "en" else "en")
    return text, text


@dataclass
class Told:
    """A text, and the fields that it states."""

    text: str
    facts: dict[str, Any]


def _statements(field: Field, r: Random, lang: str, held_out: bool) -> tuple[Any, str]:
    forms = field.clauses[lang]
    if field.kind == "bool":
        value = r.random() < 0.5
        return value, forms[0] if value else r.choice(forms[1:])
    value, surface = draw(field.kind, r, lang)
    return value, choose_form(r, forms, held_out).replace("{}", surface)


def _from_template(domain: Domain, r: Random, lang: str, held_out: bool) -> Told:
    text = choose_form(r, domain.templates[lang], held_out)
    facts: dict[str, Any] = {}
    for name, field in domain.fields.items():
        if "{" + name + "}" in text:
            facts[name], surface = draw(field.kind, r, lang)
            text = text.replace("{" + name + "}", surface)
    text = text.replace("\\n", "\n")
    if r.random() < 0.2:  # a second sentence with what the first left out
        rest = [
            f for f in domain.fields.values() if f.name not in facts and f.name != domain.subject
        ]
        if rest:
            field = r.choice(rest)
            facts[field.name], clause = _statements(field, r, lang, held_out)
            pronoun = (
                "they" if clause.startswith(("are ", "have ")) else r.choice(["he", "she", "it"])
            )
            it = {"en": pronoun.capitalize() + " ", "zh": ""}[lang]
            text = f"{text.rstrip('.')}. {it}{clause}." if lang == "en" else f"{text}{clause}。"
    return Told(text, facts)


INTRO = {
    "en": ("I met {}", "This is {}", "Meet {}", "There is {}", "Yesterday I saw {}", "Have you heard of {}", "Please note {}",
           "A word about {}", "Today we talked about {}", "We have {}", "Next is {}", "Let me tell you about {}", "You know {}",
           "Then came {}", "I would like to mention {}", "Somebody asked for {}", "The next entry is {}", "We spoke with {}"),
    "zh": ("这是{}", "这位是{}", "听说{}", "今天说到{}", "前天看到{}", "刚才提到{}", "我们有{}", "我想说的是{}", "请看{}", "下一个是{}",
           "介绍一下{}", "有人问起{}", "关于{}", "记录一下{}", "比如{}", "就是{}", "大家都知道{}", "之前的{}", "我记得{}", "他们说的{}"),
}  # fmt: skip
FILLERS = {
    "en": ("by the way", "as far as I know", "I think", "actually", "of course", "as of today", "for now", "if I remember right",
           "apparently", "so they say", "to be exact", "in the end", "at the moment", "they told me", "in fact", "luckily"),
    "zh": ("其实", "据说", "目前", "好像", "听说", "另外", "而且", "顺便说一下", "我记得", "一般来说", "实际上", "最近", "现在", "以前", "大概", "确实", "当然", "原来"),
}  # fmt: skip


def _with_fillers(text: str, r: Random, lang: str) -> str:
    """Words that mean nothing for the answer, where a sentence has room for them."""
    mark, gap = (", ", " ") if lang == "en" else ("，", "")
    places = [i for i in range(len(text)) if text.startswith(mark, i)]
    if places and r.random() < 0.7:
        at = r.choice(places) + len(mark)
        return f"{text[:at]}{r.choice(FILLERS[lang])}{mark if lang == 'en' else ''}{gap if mark[-1] != ' ' else ''}{text[at:]}"
    filler = r.choice(FILLERS[lang])
    return f"{filler[0].upper()}{filler[1:]}{mark}{text}"


def _introduced(surface: str, clauses: list[str], r: Random, lang: str) -> str:
    intro = r.choice(INTRO[lang]).format(surface)
    if lang == "zh":
        return intro + "，" + "，".join(clauses) + r.choice(["", "。"])
    who = r.choice(["They", "He", "She", "It", surface])
    return f"{intro}. " + " ".join(f"{who} {c}." for c in clauses)


def _from_clauses(domain: Domain, r: Random, lang: str, held_out: bool) -> Told:
    fields = [f for f in domain.fields.values() if f.name != domain.subject]
    picked = r.sample(fields, min(len(fields), r.randint(1, 6)))
    value, surface = draw(domain.fields[domain.subject].kind, r, lang)
    facts = {domain.subject: value}
    clauses = []
    for field in picked:
        facts[field.name], clause = _statements(field, r, lang, held_out)
        clauses.append(clause)
    if not held_out and r.random() < 0.3:
        return Told(_introduced(surface, clauses, r, lang), facts)
    if lang == "zh":
        glue = r.choice(["，", "，", "。"])
        return Told(
            surface + clauses[0] + glue + glue.join(clauses[1:]) + ("。" if clauses[1:] else ""),
            facts,
        )
    if r.random() < 0.5 and len(clauses) < 5:
        joined = ", ".join(clauses[:-1]) + (" and " if len(clauses) > 1 else "") + clauses[-1]
        return Told(f"{surface} {joined}.", facts)
    again = r.choice([surface, "He", "She", "It", "They"])
    return Told(f"{surface} {clauses[0]}." + "".join(f" {again} {c}." for c in clauses[1:]), facts)


def _from_labels(domain: Domain, r: Random, lang: str) -> Told:
    fields = [f for f in domain.fields.values() if f.kind != "bool"]
    picked = r.sample(fields, min(len(fields), r.randint(2, 7)))
    if r.random() < 0.5:
        picked.sort(key=lambda f: f.name != domain.subject)
    facts: dict[str, Any] = {}
    parts = []
    colon = (
        r.choice([": ", ": ", " = ", " - ", ":"])
        if lang == "en"
        else r.choice(["：", "：", ": ", "是"])
    )
    for field in picked:
        facts[field.name], surface = draw(field.kind, r, lang)
        label = (
            field.label[lang] if r.random() < 0.5 else r.choice(field.keys[lang]).replace("_", " ")
        )
        parts.append((label.lower() if r.random() < 0.3 else label) + colon + surface)
    glue = r.choice(
        ["\n", "\n", "; ", ", ", " | "] if lang == "en" else ["\n", "，", "；", "，", "\n"]
    )
    return Told(glue.join(parts), facts)


def tell(domain: Domain, r: Random, lang: str, held_out: bool = False) -> Told:
    """A text about one random entity of the domain; held_out takes only forms unseen in training."""
    roll = r.random()
    if roll >= 0.85:
        return _from_labels(domain, r, lang)
    told = (_from_template if roll < 0.5 else _from_clauses)(domain, r, lang, held_out)
    if not held_out and r.random() < 0.15:
        told.text = _with_fillers(told.text, r, lang)
    return told
