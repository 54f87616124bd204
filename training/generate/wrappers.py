"""What users write around a text that they want extracted: fixed forms from instructions.txt, and
forms put together from parts, of which there are thousands.
"""

from __future__ import annotations

from functools import cache
from random import Random

from training.generate.values import DATA

ASK = (
    "extract", "get", "find", "list", "collect", "pull out", "return", "note", "record", "save", "give me", "write down",
    "identify", "parse", "capture", "summarize", "store", "pick out", "fill in", "report", "show", "output", "determine",
)  # fmt: skip
WHAT = (
    "the information", "the details", "all details", "the fields", "the data", "the facts", "the key facts", "everything",
    "the entities", "the values", "the attributes", "the record", "the main points", "the important parts", "the properties",
)  # fmt: skip
WHERE = ("from", "in", "of", "out of", "based on", "given in")
TEXT = (
    "this", "this text", "the following", "the following text", "the text below", "this sentence", "this note", "this line",
    "this message", "the message", "my note", "the paragraph", "this description", "this snippet", "the input",
)  # fmt: skip
PLEASE = (
    "",
    "",
    "",
    "please ",
    "kindly ",
    "can you ",
    "could you ",
    "I want you to ",
    "now ",
    "your task: ",
    "help me ",
    "let's ",
)
ASK_ZH = (
    "提取",
    "抽取",
    "找出",
    "整理",
    "列出",
    "识别",
    "总结",
    "记录",
    "保存",
    "解析",
    "返回",
    "归纳",
    "摘录",
    "登记",
    "获取",
    "填写",
    "输出",
    "概括",
)
WHAT_ZH = (
    "信息",
    "内容",
    "字段",
    "数据",
    "要点",
    "关键信息",
    "详情",
    "资料",
    "实体",
    "重要内容",
    "事实",
    "属性",
    "所有信息",
    "记录",
)
TEXT_ZH = (
    "这段话",
    "下面的文字",
    "以下文本",
    "这句话",
    "下文",
    "这段文本",
    "以下内容",
    "这条消息",
    "这段描述",
    "下面这句",
    "我的笔记",
    "上述文字",
)
PLEASE_ZH = ("", "", "请", "请", "帮我", "麻烦", "请帮忙", "请你", "能否", "现在")
END = (": ", ": ", ":\n", ":\n\n", " - ", ". ", "\n", " -> ")
END_ZH = ("：", "：", "：\n", "。", "，", "\n\n", " ")


@cache
def instructions(section: str) -> tuple[str, ...]:
    inside, lines = False, []
    for line in (DATA / "instructions.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            inside = line == f"[{section}]"
        elif inside:
            lines.append(line.replace("\\n", "\n"))
    return tuple(lines)


def composed(r: Random, lang: str) -> str:
    """A form with `{t}` where the text goes."""
    before = r.random() < 0.72
    if lang == "zh":
        ask, what, text = r.choice(ASK_ZH), r.choice(WHAT_ZH), r.choice(TEXT_ZH)
        said = r.choice(
            [
                f"从{text}中{ask}{what}",
                f"{ask}{text}里的{what}",
                f"{ask}{text}的{what}",
                f"把{text}的{what}{ask}出来",
                f"{ask}{what}",
            ]
        )
        said = r.choice(PLEASE_ZH) + said
        return (
            f"{said}{r.choice(END_ZH)}{{t}}"
            if before
            else f"{{t}}{r.choice(['', ' ', chr(10)])}{said}{r.choice(['', '。'])}"
        )
    said = f"{r.choice(PLEASE)}{r.choice(ASK)} {r.choice(WHAT)}"
    if r.random() < 0.75:
        said += f" {r.choice(WHERE)} {r.choice(TEXT)}"
    if r.random() < 0.75:
        said = said[0].upper() + said[1:]
    return (
        f"{said}{r.choice(END)}{{t}}"
        if before
        else f"{{t}}{r.choice([' ', chr(10), chr(10) * 2, ' -- '])}{said}{r.choice(['', '.', '!'])}"
    )


def naming(r: Random, lang: str, keys: list[str]) -> str:
    """A form that names the keys it wants."""
    names = [key.replace("_", " ") if r.random() < 0.7 else key for key in keys]
    if lang == "zh":
        listed = (
            "、".join(names[:-1]) + (r.choice(["和", "、"]) if len(names) > 1 else "") + names[-1]
        )
        said = r.choice(PLEASE_ZH) + r.choice(ASK_ZH) + listed
        return f"{said}{r.choice(END_ZH[:4])}{{t}}" if r.random() < 0.8 else f"{{t}}\n{said}"
    listed = (
        ", ".join(names[:-1]) + (r.choice([" and ", ", "]) if len(names) > 1 else "") + names[-1]
    )
    said = f"{r.choice(PLEASE)}{r.choice(ASK)} {r.choice(['', 'the '])}{listed}"
    if r.random() < 0.4:
        said += f" {r.choice(WHERE)} {r.choice(TEXT)}"
    if r.random() < 0.75:
        said = said[0].upper() + said[1:]
    return f"{said}{r.choice(END[:5])}{{t}}" if r.random() < 0.8 else f"{{t}}\n{said}"
