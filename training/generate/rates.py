"""Word problems about rates: speed, price, work, and the conversion of units."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from training.generate.problem import Problem, divide, multiply, show, somebody
from training.generate.values import of


def _hours(r: Random) -> Decimal:
    return Decimal(
        r.choice(["0.5", "1.5", "2.5", "3.5", "4.5", "1", "2", "3", "4", "5", "6", "8", "10"])
    )


VEHICLES = {"en": ["train", "car", "bus", "truck", "plane", "ship", "cyclist", "motorcycle", "boat", "runner"],
            "zh": ["火车", "汽车", "公交车", "卡车", "飞机", "轮船", "摩托车", "高铁"]}  # fmt: skip


def speed(r: Random, lang: str) -> Problem:
    classic = r.random() < 0.12
    time, speed = (
        _hours(r),
        Decimal(r.choice([r.randint(4, 30) * 10, r.randint(5, 120), r.randint(4, 130)])),
    )
    if r.random() < 0.5:
        speed = Decimal(r.choice([40, 50, 60, 70, 75, 80, 90, 100, 120, 150, 200]))
    if classic:
        time, speed = Decimal("1.5"), Decimal(80)
    distance = time * speed
    if distance != distance.to_integral_value():
        distance, speed = distance * 2, speed * 2
    d, t, v = show(distance), show(time), show(speed)
    kind = "train" if classic and lang == "en" else "火车" if classic else r.choice(VEHICLES[lang])
    what = "speed" if classic else r.choice(["speed", "speed", "distance", "time"])
    hours = "hour" if t == "1" else "hours"
    if lang == "zh":
        if what == "speed":
            ask = r.choice([
                f"一列{kind}{t}小时行驶{d}公里，平均速度是多少？", f"一辆{kind}{t}小时行驶{d}公里，平均速度是多少？",
                f"一列{kind}在{t}小时内行驶了{d}公里，它的平均速度是多少？", f"{kind}{t}小时走了{d}公里，速度是多少？",
                f"{kind}行驶{d}公里用了{t}小时，求平均速度。", f"一列{kind}{t}小时跑{d}公里，平均时速多少？",
                f"一列{kind}行驶了{d}公里，用时{t}小时，平均速度是多少？"])  # fmt: skip
            steps = f"速度 = 路程 / 时间\n{divide(distance, time)}"
            return Problem(
                ask,
                steps,
                f"平均速度是{v}公里/小时。",
                f"平均速度是{d} / {t} = {v}公里/小时。",
                v,
                lang,
            )
        if what == "distance":
            ask = r.choice([f"{kind}以每小时{v}公里的速度行驶{t}小时，行驶了多少公里？", f"一辆{kind}时速{v}公里，{t}小时能走多远？",
                            f"{kind}的速度是{v}公里/小时，行驶{t}小时，路程是多少？"])  # fmt: skip
            return Problem(
                ask,
                f"路程 = 速度 * 时间\n{multiply(speed, time)}",
                f"路程是{d}公里。",
                f"路程是{v} * {t} = {d}公里。",
                d,
                lang,
            )
        ask = r.choice(
            [
                f"{kind}以每小时{v}公里的速度行驶{d}公里需要几小时？",
                f"路程{d}公里，{kind}时速{v}公里，需要多长时间？",
            ]
        )
        return Problem(
            ask,
            f"时间 = 路程 / 速度\n{divide(distance, speed)}",
            f"需要{t}小时。",
            f"需要{d} / {v} = {t}小时。",
            t,
            lang,
        )
    unit = r.choice(["km", "km", "miles", "kilometers"])
    per = {"km": "km/h", "miles": "mph", "kilometers": "km/h"}[unit]
    if what == "speed":
        ask = r.choice([
            f"A {kind} travels {d} {unit} in {t} {hours}. What is its average speed?",
            f"A {kind} travels {d} {unit} in {t} {hours}. What is its average speed?",
            f"If a {kind} travels {d} {unit} in {t} {hours}, what is its average speed?",
            f"A {kind} covers {d} {unit} in {t} {hours}. How fast is it?",
            f"What is the average speed of a {kind} that goes {d} {unit} in {t} {hours}?",
            f"A {kind} goes {d} {unit} in {t} {hours}. Find the speed.",
            f"A {kind} needs {t} {hours} for {d} {unit}. What is the average speed?",
            f"In {t} {hours} a {kind} travels {d} {unit}. How fast does it travel?",
            f"A {kind} drove {d} {unit} in {t} {hours}. What was its average speed in {per}?"])  # fmt: skip
        steps = f"speed = distance / time\n{divide(distance, time)}"
        return Problem(
            ask,
            steps,
            f"The average speed is {v} {per}.",
            f"The average speed is {d} / {t} = {v} {per}.",
            v,
            lang,
        )
    if what == "distance":
        ask = r.choice([
            f"A {kind} travels at {v} {per} for {t} {hours}. How far does it go?",
            f"How far does a {kind} travel in {t} {hours} at {v} {per}?",
            f"A {kind} drives {t} {hours} at {v} {per}. What distance does it cover?"])  # fmt: skip
        steps = f"distance = speed * time\n{multiply(speed, time)}"
        return Problem(
            ask, steps, f"It travels {d} {unit}.", f"It travels {v} * {t} = {d} {unit}.", d, lang
        )
    ask = r.choice([
        f"How long does a {kind} need for {d} {unit} at {v} {per}?",
        f"A {kind} travels {d} {unit} at {v} {per}. How long does it take?",
        f"A {kind} goes at {v} {per}. How many hours does it take to go {d} {unit}?"])  # fmt: skip
    steps = f"time = distance / speed\n{divide(distance, speed)}"
    return Problem(
        ask, steps, f"It takes {t} {hours}.", f"It takes {d} / {v} = {t} {hours}.", t, lang
    )


def price(r: Random, lang: str) -> Problem:
    count = r.randint(2, 12)
    each = Decimal(r.choice([r.randint(1, 20), r.randint(2, 60), r.randint(1, 19)])) + r.choice(
        [0, 0, 0, Decimal("0.5")]
    )
    total, item = each * count, of(r, "products", lang)
    e, t = show(each), show(total)
    if lang == "zh":
        if r.random() < 0.6:
            ask = r.choice(
                [
                    f"一个{item}{e}元，{count}个多少钱？",
                    f"{item}每个{e}元，买{count}个要多少元？",
                    f"{somebody(r, lang)}买了{count}个{item}，每个{e}元，一共多少钱？",
                ]
            )
            return Problem(
                ask,
                f"总价 = 单价 * 数量\n{multiply(each, count)}",
                f"一共{t}元。",
                f"一共{e} * {count} = {t}元。",
                t,
                lang,
            )
        ask = r.choice(
            [f"{count}个{item}{t}元，一个多少钱？", f"买{count}个{item}花了{t}元，每个多少元？"]
        )
        return Problem(
            ask,
            f"单价 = 总价 / 数量\n{divide(total, count)}",
            f"每个{e}元。",
            f"每个{t} / {count} = {e}元。",
            e,
            lang,
        )
    things = item if item.endswith("s") else item + "s"
    if r.random() < 0.6:
        ask = r.choice([f"One {item} costs {e} dollars. How much do {count} cost?", f"A {item} costs ${e}. What do {count} {things} cost?",
                        f"{somebody(r, lang)} buys {count} {things} for {e} dollars each. How much is that in total?"])  # fmt: skip
        return Problem(
            ask,
            f"total = price * count\n{multiply(each, count)}",
            f"The total is {t} dollars.",
            f"The total is {e} * {count} = {t} dollars.",
            t,
            lang,
        )
    ask = r.choice(
        [
            f"{count} {things} cost {t} dollars. How much is one?",
            f"If {count} {things} cost ${t}, what does one {item} cost?",
        ]
    )
    return Problem(
        ask,
        f"price = total / count\n{divide(total, count)}",
        f"One costs {e} dollars.",
        f"One costs {t} / {count} = {e} dollars.",
        e,
        lang,
    )


def work(r: Random, lang: str) -> Problem:
    rate, time = r.randint(2, 60), r.randint(2, 12)
    total = rate * time
    if lang == "zh":
        who = r.choice(["一台机器", "工人", somebody(r, lang)])
        if r.random() < 0.5:
            ask = f"{who}每小时做{rate}个零件，{time}小时做多少个？"
            return Problem(
                ask,
                f"总数 = 每小时数量 * 时间\n{multiply(rate, time)}",
                f"做{total}个。",
                f"{rate} * {time} = {total}个。",
                str(total),
                lang,
            )
        ask = f"{who}{time}小时做了{total}个零件，每小时做多少个？"
        return Problem(
            ask,
            f"每小时数量 = 总数 / 时间\n{divide(total, time)}",
            f"每小时{rate}个。",
            f"每小时{total} / {time} = {rate}个。",
            str(rate),
            lang,
        )
    who, thing = r.choice(
        [
            ("A machine", "parts"),
            ("A worker", "boxes"),
            (somebody(r, lang), "pages"),
            ("A printer", "pages"),
        ]
    )
    verb = {"parts": "makes", "boxes": "packs", "pages": "finishes"}[thing]
    if r.random() < 0.5:
        ask = r.choice([f"{who} {verb} {rate} {thing} per hour. How many {thing} in {time} hours?",
                        f"{who} {verb} {rate} {thing} an hour. How many does it make in {time} hours?"])  # fmt: skip
        return Problem(
            ask,
            f"total = rate * time\n{multiply(rate, time)}",
            f"That is {total} {thing}.",
            f"That is {rate} * {time} = {total} {thing}.",
            str(total),
            lang,
        )
    ask = r.choice(
        [
            f"{who} {verb} {total} {thing} in {time} hours. How many per hour?",
            f"{who} {verb} {total} {thing} in {time} hours. What is the rate per hour?",
        ]
    )
    return Problem(
        ask,
        f"rate = total / time\n{divide(total, time)}",
        f"The rate is {rate} {thing} per hour.",
        f"The rate is {total} / {time} = {rate} {thing} per hour.",
        str(rate),
        lang,
    )


UNITS = (
    ("hours", "minutes", 60, "小时", "分钟"), ("minutes", "seconds", 60, "分钟", "秒"), ("days", "hours", 24, "天", "小时"),
    ("weeks", "days", 7, "周", "天"), ("meters", "centimeters", 100, "米", "厘米"), ("kilometers", "meters", 1000, "公里", "米"),
    ("kilograms", "grams", 1000, "千克", "克"), ("liters", "milliliters", 1000, "升", "毫升"), ("years", "months", 12, "年", "个月"),
    ("tons", "kilograms", 1000, "吨", "千克"), ("dozens", "pieces", 12, "打", "个"), ("feet", "inches", 12, "英尺", "英寸"),
    ("km", "m", 1000, "千米", "米"), ("kg", "g", 1000, "公斤", "克"),
)  # fmt: skip


def convert(r: Random, lang: str) -> Problem:
    big, small, factor, big_zh, small_zh = r.choice(UNITS)
    count = Decimal(r.randint(2, 30) if factor < 100 else r.randint(1, 99))
    if factor in (60, 100, 1000) and r.random() < 0.25:
        count += Decimal("0.5")
    total = count * factor
    a, b = show(count), show(total)
    down = r.random() < 0.6
    if lang == "zh":
        if down:
            ask = r.choice(
                [
                    f"{a}{big_zh}等于多少{small_zh}？",
                    f"{a}{big_zh}是多少{small_zh}？",
                    f"把{a}{big_zh}换算成{small_zh}",
                ]
            )
            return Problem(
                ask,
                f"1{big_zh} = {factor}{small_zh}\n{multiply(count, factor)}",
                f"{a}{big_zh}等于{b}{small_zh}。",
                f"{a} * {factor} = {b}{small_zh}。",
                b,
                lang,
            )
        ask = r.choice([f"{b}{small_zh}等于多少{big_zh}？", f"{b}{small_zh}是多少{big_zh}？"])
        return Problem(
            ask,
            f"1{big_zh} = {factor}{small_zh}\n{divide(total, factor)}",
            f"{b}{small_zh}等于{a}{big_zh}。",
            f"{b} / {factor} = {a}{big_zh}。",
            a,
            lang,
        )
    one = big.rstrip("s") if big not in ("feet", "kg", "km") else {"feet": "foot"}.get(big, big)
    if down:
        ask = r.choice(
            [
                f"How many {small} are {a} {big}?",
                f"Convert {a} {big} to {small}.",
                f"How many {small} are in {a} {big}?",
                f"What is {a} {big} in {small}?",
            ]
        )
        return Problem(
            ask,
            f"1 {one} = {factor} {small}\n{multiply(count, factor)}",
            f"{a} {big} are {b} {small}.",
            f"{a} * {factor} = {b} {small}.",
            b,
            lang,
        )
    ask = r.choice(
        [
            f"How many {big} are {b} {small}?",
            f"Convert {b} {small} to {big}.",
            f"What is {b} {small} in {big}?",
        ]
    )
    return Problem(
        ask,
        f"1 {one} = {factor} {small}\n{divide(total, factor)}",
        f"{b} {small} are {a} {big}.",
        f"{b} / {factor} = {a} {big}.",
        a,
        lang,
    )
