"""Extraction conversations: a text, and a JSON object with the keys that some schema names.

The schema is never in the prompt (the server's grammar forces the keys), so the key alone must
tell the model which value to copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from training.generate import values
from training.generate.chat import Chat, choose_form, dumps
from training.generate.records import Domain, Told, domains, draw, tell
from training.generate.wrappers import composed, instructions, naming


@dataclass(frozen=True)
class Sample:
    """One turn: what the user writes, what the answer must be, and what language it is in."""

    prompt: str
    answer: dict[str, Any]
    lang: str


def restyle(key: str, roll: float) -> str:
    """snake_case most often, sometimes camelCase, PascalCase, spaces or capitals; 0 <= roll < 1."""
    if roll < 0.72 or not key.isascii():
        return key
    parts = key.split("_")
    if roll < 0.88:
        return parts[0] + "".join(p.capitalize() for p in parts[1:])
    if roll < 0.94:
        return "".join(p[:1].upper() + p[1:] for p in parts)
    return " ".join(parts) if roll < 0.97 else key.upper()


def _absent(r: Random) -> Any:
    return "" if r.random() < 0.06 else None


def _shape(value: Any, r: Random) -> Any:
    """Schemas sometimes ask for a number, or a list, as a string."""
    roll = r.random()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float) and roll < 0.06:
        return str(value)
    if isinstance(value, list) and roll < 0.04:
        return ", ".join(value)
    return value


def _object(
    domain: Domain, facts: dict[str, Any], r: Random, lang: str, key_lang: str
) -> dict[str, Any]:
    names = list(facts)
    keep = len(names) if r.random() < 0.5 else r.randint(1, len(names))
    if r.random() < 0.7:
        r.shuffle(names)
    names = names[:keep]
    if r.random() < 0.25:
        absent = [n for n in domain.fields if n not in facts]
        for name in r.sample(absent, min(len(absent), r.randint(1, 2))):
            names.insert(r.randint(0, len(names)), name)
    style = r.random()  # one style for the whole object
    answer: dict[str, Any] = {}
    for name in names:
        key = restyle(r.choice(domain.fields[name].keys[key_lang]), style)
        if key not in answer:
            answer[key] = _shape(facts[name], r) if name in facts else _absent(r)
    return answer


def _nest(domain: Domain, answer: dict[str, Any], r: Random, key_lang: str) -> dict[str, Any]:
    entity = r.choice(domain.entities[key_lang])
    if r.random() < 0.5 or len(answer) < 3 or entity in answer:
        return {entity: answer}
    keys = list(answer)
    split = r.randint(1, len(keys) - 1)
    name = r.choice(
        ["details", "info", "data", "contact"] if key_lang == "en" else ["详情", "信息"]
    )
    outer: dict[str, Any] = {key: answer[key] for key in keys[:split]}
    outer[name] = {key: answer[key] for key in keys[split:]}
    return outer


def _noisy(text: str, r: Random, lang: str) -> str:
    if r.random() > 0.1:
        return text
    noise = r.choice(instructions(f"noise_{lang}"))
    gap = " " if lang == "en" else ""
    return f"{text}{gap}{noise}" if r.random() < 0.6 else f"{noise}{gap}{text}"


def _single(r: Random, lang: str, held_out: bool) -> tuple[str, dict[str, Any]]:
    domain = domains()[0] if r.random() < 0.35 else r.choice(domains())
    told = tell(domain, r, lang, held_out)
    key_lang = "en" if lang == "en" or r.random() < 0.55 else "zh"
    answer = _object(domain, told.facts, r, lang, key_lang)
    if r.random() < 0.1:
        answer = _nest(domain, answer, r, key_lang)
    return told.text, answer


def _many(r: Random, lang: str, held_out: bool) -> tuple[str, dict[str, Any]]:
    """Several entities, one list of objects."""
    domain = domains()[0] if r.random() < 0.5 else r.choice(domains())
    count = r.randint(2, 4)
    if r.random() < 0.5:  # the same sentence form for all, as in "Ann, 30; Bob, 25"
        seed = r.choice([t for t in domain.templates[lang] if t.startswith("!") == held_out])
        lone = Domain(domain.name, domain.subject, domain.entities, domain.fields, {lang: [seed]})
        told = [_template_only(lone, r, lang) for _ in range(count)]
    else:
        told = [tell(domain, r, lang, held_out) for _ in range(count)]
    shared = [n for n in told[0].facts if all(n in t.facts for t in told)]
    if not shared:
        return _single(r, lang, held_out)
    key_lang = "en" if lang == "en" or r.random() < 0.55 else "zh"
    picked = r.sample(shared, r.randint(1, len(shared)))
    keys = {n: r.choice(domain.fields[n].keys[key_lang]) for n in picked}
    if len(set(keys.values())) < len(keys):
        return _single(r, lang, held_out)
    rows = [{keys[n]: t.facts[n] for n in picked} for t in told]
    entity = r.choice(domain.entities[key_lang])
    name = r.choice(
        [entity + "s", entity, "items", "list"] if key_lang == "en" else [entity, "列表"]
    )
    if entity == "person" and r.random() < 0.6:
        name = "people"
    glue = r.choice(["\n", " ", "; "]) if lang == "en" else r.choice(["\n", "", "；"])
    text = glue.join(t.text for t in told)
    if len(picked) == 1 and r.random() < 0.5:
        return text, {name: [row[keys[picked[0]]] for row in rows]}
    return text, {name: rows}


def _template_only(domain: Domain, r: Random, lang: str) -> Told:
    told = tell(domain, r, lang)
    while not told.facts:
        told = tell(domain, r, lang)
    return told


def _labelled(r: Random, lang: str) -> tuple[str, dict[str, Any]]:
    """Labels that nobody has seen, so that a key finds its value by its own spelling."""
    kinds = [
        "person",
        "city",
        "company",
        "code",
        "count",
        "money",
        "date",
        "email",
        "color",
        "small",
    ]
    labels: dict[str, tuple[Any, str]] = {}
    for _ in range(r.randint(2, 6)):
        if lang == "zh":
            label = values.hanzi(r, 2, 4)
        else:
            label = " ".join(_label_word(r) for _ in range(r.choice([1, 1, 2])))
        kind = r.choice(kinds)
        text = values.scramble(r, lang)
        labels[label] = draw(kind, r, lang) if r.random() < 0.65 else (text, text)
    form = r.choice(
        ["{} : {}", "{}: {}", "{}: {}", "{}={}", "the {} is {}", "its {} is {}", "{} - {}"]
    )
    if lang == "zh":
        form = r.choice(["{}：{}", "{}：{}", "{}是{}", "{}为{}", "{} {}"])
    parts = [form.format(label, surface) for label, (_, surface) in labels.items()]
    text = r.choice(["\n", ", ", "; "] if lang == "en" else ["\n", "，", "；"]).join(parts)
    names = list(labels)
    r.shuffle(names)
    names = names[: r.randint(1, len(names))]
    style = r.random()
    answer: dict[str, Any] = {}
    for name in names:
        answer[restyle(name.lower().replace(" ", "_"), style)] = _shape(labels[name][0], r)
    if r.random() < 0.15:
        extra = _label_word(r) if lang == "en" else values.hanzi(r, 2, 3)
        answer.setdefault(extra, None)
    return text, answer


def _label_word(r: Random) -> str:
    return values.made_up(r) if r.random() < 0.5 else values.of(r, "nouns")


def sample(r: Random, held_out: bool = False) -> Sample:
    """One extraction turn; held_out takes only sentence forms that training never shows."""
    lang = "en" if r.random() < 0.6 else "zh"
    roll = r.random()
    if held_out:
        text, answer = _single(r, lang, True)
    elif roll < 0.76:
        text, answer = _single(r, lang, False)
    elif roll < 0.86:
        text, answer = _many(r, lang, False)
    else:
        text, answer = _labelled(r, lang)
    text = _noisy(text, r, lang)
    ask = lang if r.random() < 0.94 else "zh" if lang == "en" else "en"
    roll = 0.0 if held_out else r.random()
    if roll < 0.6:
        wrap = choose_form(r, instructions(ask), held_out and r.random() < 0.5)
    elif roll < 0.9 or not all(isinstance(value, str | int | float) for value in answer.values()):
        wrap = composed(r, ask)
    else:
        wrap = naming(r, ask, list(answer))
    return Sample(wrap.replace("{t}", text), answer, lang)


def chat(r: Random) -> Chat:
    """A training conversation of one or a few extraction turns."""
    made = Chat()
    if r.random() < 0.2:
        made.system(r.choice(instructions("system")))
    for _ in range(1 if r.random() < 0.8 else r.randint(2, 5)):
        turn = sample(r)
        made.user(turn.prompt)
        if r.random() < 0.02:
            made.think(f"I copy the values of {', '.join(turn.answer)} from the text.")
        made.say(dumps(turn.answer))
    return made.cut(r) if r.random() < 0.06 else made
