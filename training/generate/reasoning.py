"""Short word problems with true steps: rates, sums, gains and losses, differences.

Every problem gives the steps for a `<think>` block, the final answer, and a one-line answer for
when no thinking is asked for.
"""

from __future__ import annotations

from random import Random

from training.generate.chat import Chat
from training.generate.problem import Problem, multiply, somebody
from training.generate.rates import convert, price, speed, work
from training.generate.values import of
from training.generate.wrappers import instructions


def _sum(r: Random, lang: str) -> Problem:
    """Bare arithmetic."""
    high = r.choice([20, 100, 1000])
    sign = r.choice("+-*/+-")
    a, b = r.randint(1, high), r.randint(1, high)
    if sign == "*":
        a, b = r.randint(2, r.choice([12, 99, 999])), r.randint(2, 12)
    if sign == "/":
        b = r.randint(2, 12)
        a = b * r.randint(2, 99)
    if sign == "-" and a < b:
        a, b = b, a
    result = {"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign]
    line = multiply(a, b) if sign == "*" else f"{a} {sign} {b} = {result}"
    written = f"{a} {sign} {b}" if r.random() < 0.75 else f"{a}{sign}{b}"
    if lang == "zh":
        word = {"+": "加", "-": "减", "*": "乘以", "/": "除以"}[sign]
        ask = r.choice(
            [f"{written}等于多少？", f"计算{written}", f"{a}{word}{b}等于多少？", f"{written}=？"]
        )
        return Problem(
            ask, line, f"答案是{result}。", f"{a} {sign} {b} = {result}。", str(result), lang
        )
    word = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[sign]
    ask = r.choice(
        [
            f"What is {written}?",
            f"What is {written}?",
            f"Calculate {written}.",
            f"What is {a} {word} {b}?",
            f"{written} = ?",
            f"{written}",
            f"How much is {written}?",
        ]
    )
    return Problem(
        ask, line, f"The answer is {result}.", f"{a} {sign} {b} = {result}.", str(result), lang
    )


def _story(r: Random, lang: str) -> Problem:
    """One or two steps of gaining and losing."""
    who, item, start = (
        somebody(r, lang),
        of(r, "products", lang),
        r.randint(3, r.choice([20, 99, 300])),
    )
    things = item if item.endswith("s") else item + "s"
    now, lines, told = start, [], []
    for _ in range(r.choice([1, 1, 2])):
        change = (
            r.randint(1, max(1, now - 1))
            if r.random() < 0.5 and now > 2
            else -r.randint(1, r.choice([20, 99]))
        )
        after = now - change
        lines.append(
            f"{now} - {change} = {after}" if change > 0 else f"{now} + {-change} = {after}"
        )
        if lang == "zh":
            told.append(
                r.choice(
                    ["用掉了{}个", "送给朋友{}个", "卖掉{}个"]
                    if change > 0
                    else ["又买了{}个", "又得到{}个"]
                ).format(abs(change))
            )
        else:
            told.append(
                r.choice(
                    ["gives away {}", "loses {}", "sells {}"]
                    if change > 0
                    else ["buys {} more", "gets {} more"]
                ).format(abs(change))
            )
        now = after
    steps = "\n".join(lines)
    if lang == "zh":
        ask = (
            f"{who}有{start}个{item}，"
            + "，".join(told)
            + r.choice(["，现在有多少个？", "，还有几个？", "，一共有多少个？"])
        )
        return Problem(
            ask,
            steps,
            f"现在有{now}个。",
            f"{lines[-1]}，现在有{now}个。"
            if len(lines) == 1
            else f"{lines[0]}，{lines[1]}，现在有{now}个。",
            str(now),
            lang,
        )
    plot = " and ".join(f"{t}" for t in told)
    ask = f"{who} has {start} {things}. {who} {plot}. " + r.choice(
        [
            f"How many {things} does {who} have now?",
            "How many are left?",
            f"How many {things} are there now?",
        ]
    )
    return Problem(
        ask,
        steps,
        f"{who} has {now} {things}.",
        f"{', '.join(lines)}, so {who} has {now} {things}.",
        str(now),
        lang,
    )


def _compare(r: Random, lang: str) -> Problem:
    a, b = r.randint(5, 150), r.randint(5, 150)
    if a == b:
        a += 1
    first, second = somebody(r, lang), somebody(r, lang)
    while first == second:
        second = somebody(r, lang)
    more, less = (first, second) if a > b else (second, first)
    high, low = max(a, b), min(a, b)
    if lang == "zh":
        ask = r.choice(
            [
                f"{first}{a}岁，{second}{b}岁，谁更大？大几岁？",
                f"{first}今年{a}岁，{second}今年{b}岁，相差几岁？",
            ]
        )
        return Problem(
            ask,
            f"{high} > {low}\n{high} - {low} = {high - low}",
            f"{more}大{high - low}岁。",
            f"{high} - {low} = {high - low}，{more}大{high - low}岁。",
            str(high - low),
            lang,
        )
    ask = r.choice([f"{first} is {a} years old and {second} is {b}. Who is older, and by how much?",
                    f"{first} is {a} and {second} is {b}. What is the difference in age?"])  # fmt: skip
    return Problem(ask, f"{high} > {low}\n{high} - {low} = {high - low}", f"{more} is {high - low} years older than {less}.",
                   f"{high} - {low} = {high - low}, so {more} is {high - low} years older than {less}.", str(high - low), lang)  # fmt: skip


MAKERS = (speed, price, work, convert, _sum, _story, _compare)


def sample(r: Random) -> Problem:
    lang = "en" if r.random() < 0.6 else "zh"
    return r.choices(MAKERS, [0.28, 0.15, 0.1, 0.15, 0.16, 0.12, 0.04])[0](r, lang)


WRAPS = (
    "{}",
    "{}",
    "{}",
    "{}",
    "{}",
    "{} Think step by step.",
    "Solve: {}",
    "Question: {}",
    "{} Please explain.",
    "{}",
)


def chat(r: Random) -> Chat:
    made = Chat()
    if r.random() < 0.15:
        made.system(r.choice(instructions("system")[:2]))
    for _ in range(r.choice([1, 1, 1, 2, 2, 3])):
        problem = sample(r)
        made.user(
            r.choice(WRAPS).format(problem.prompt) if problem.lang == "en" else problem.prompt
        )
        if r.random() < 0.68:
            made.think(problem.steps).say(problem.answer)
        else:
            made.say(problem.short)
    return made
