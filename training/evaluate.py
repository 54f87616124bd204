"""Measures the embedded model on fresh values, on forms kept out of training, and on the exact
prompts of the examples.

    python -m training.evaluate --model embedded

Greedy decoding writes an answer exactly when every token of it is the most likely one after those
before it, so extraction and tools need one forward pass per prompt. A field counts when its value
is right to the last token; the keys, and whether a value is a string or a number, are the
grammar's work and are not counted. Reasoning may take other steps to the same result, so there
the model generates and the result is compared.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.generate import extraction, reasoning, tools
from training.generate.chat import Chat, dumps

BATCH = 32
SHOWN = 6  # failures printed per group
NUMERIC = re.compile(r"[\d.eE+-]+")


@dataclass(frozen=True)
class Case:
    """spans: characters of `answer`, one list of (start, end, is_number) per thing that counts."""

    group: str
    prompt: str
    answer: str
    spans: list[tuple[int, int, bool]]


def leaves(value: Any, at: int) -> Iterator[tuple[int, int, bool]]:
    """Where in `dumps(value)` the model decides: a string's text and closing quote, a number, a
    null, whether a list goes on. at: the position of the value in the whole text."""
    text = dumps(value)
    if isinstance(value, str):
        yield at + 1, at + len(text), False
    elif isinstance(value, dict):
        position = at + 1
        for key, item in value.items():
            position += len(dumps(key)) + 2
            yield from leaves(item, position)
            position += len(dumps(item)) + 2
    elif isinstance(value, list):
        position = at + 1
        for item in value:
            yield from leaves(item, position)
            position += len(dumps(item)) + 2
        yield at + len(text) - 1, at + len(text), False
    else:
        yield at, at + len(text), isinstance(value, int | float) and not isinstance(value, bool)


def extraction_cases(r: Random, count: int, held_out: bool) -> Iterator[Case]:
    group = "extraction, forms kept out" if held_out else "extraction, fresh values"
    for _ in range(count):
        turn = extraction.sample(r, held_out)
        made = Chat().user(turn.prompt)
        prompt = "".join(text for text, _ in made.segments)
        position = 1
        for key, value in turn.answer.items():
            position += len(dumps(key)) + 2
            for_key = list(leaves(value, position))
            position += len(dumps(value)) + 2
            yield Case(group, prompt, dumps(turn.answer) + "</s>", for_key)


def tool_cases(r: Random, count: int) -> Iterator[Case]:
    for group, kind, held_out in (
        ("tools, one call", "one", False),
        ("tools, two calls", "two", False),
        ("tools, never seen", "one", True),
        ("tools, none fits", "none", False),
        ("get_weather", "weather", False),
    ):
        for _ in range(count):
            turn = tools.weather(r) if kind == "weather" else tools.sample(r, held_out, kind)
            made = Chat().tools(turn.tools).user(turn.prompt)
            prompt = "".join(text for text, _ in made.segments)
            if turn.calls:
                answer = Chat().call(turn.calls).segments[-1][0]
                yield Case(group, prompt, answer, [(0, len(answer), False)])
            else:
                yield Case(group, prompt, "[TOOL_CALLS]", [(0, 12, False)])


class Judge:
    def __init__(self, folder: Path, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = (
            AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device).eval()
        )
        self.device = device
        vocabulary = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        self.numeric = {i for i, token in enumerate(vocabulary) if NUMERIC.fullmatch(token)}
        self.tally: dict[str, Counter[bool]] = defaultdict(Counter)

    @torch.inference_mode()
    def forced(self, cases: list[Case]) -> None:
        """One forward pass for each prompt; counts the cases whose spans are all most likely."""
        texts: dict[tuple[str, str], list[Case]] = defaultdict(list)
        for case in cases:
            texts[(case.prompt, case.answer)].append(case)
        ordered = sorted(texts, key=lambda pair: sum(map(len, pair)))
        for start in range(0, len(ordered), BATCH):
            pairs = ordered[start : start + BATCH]
            heads = [self.tokenizer(p, add_special_tokens=False).input_ids for p, _ in pairs]
            tails = [
                self.tokenizer(a, add_special_tokens=False, return_offsets_mapping=True)
                for _, a in pairs
            ]
            rows = [h + t.input_ids for h, t in zip(heads, tails, strict=True)]
            length = max(map(len, rows))
            padded = torch.tensor([row + [2] * (length - len(row)) for row in rows])
            best = self.model(padded.to(self.device)).logits.argmax(-1).cpu()  # [rows, length]
            for pair, head, tail, guess in zip(pairs, heads, tails, best, strict=True):
                said = guess[len(head) - 1 :]
                for case in texts[pair]:
                    self._judge(case, tail, said)

    def _judge(self, case: Case, tail: Any, said: Tensor) -> None:
        if case.group == "tools, none fits":
            self._count(case, int(said[0]) != tail.input_ids[0], tail, said)
            return
        good = True
        for start, end, is_number in case.spans:
            touched = [i for i, (a, b) in enumerate(tail.offset_mapping) if a < end and b > start]
            if not is_number and case.answer[start:end] != "null":
                # A token that brings the opening quote is the grammar's.
                touched = [i for i in touched if tail.offset_mapping[i][0] >= start]
            good &= all(int(said[i]) == tail.input_ids[i] for i in touched)
            if is_number:
                good &= int(said[touched[-1] + 1]) not in self.numeric
        self._count(case, good, tail, said)

    def _count(self, case: Case, good: bool, tail: Any, said: Tensor) -> None:
        tally = self.tally[case.group]
        tally[good] += 1
        if not good and tally[False] <= SHOWN:
            wrote = self.tokenizer.decode(said[: len(tail.input_ids)])
            spans = [case.answer[a:b] for a, b, _ in case.spans]
            print(f"[{case.group}] {case.prompt[-300:]!r}\n  wanted {spans}\n  wrote  {wrote!r}")

    @torch.inference_mode()
    def write(self, prompts: list[str], limit: int = 200) -> list[str]:
        self.tokenizer.padding_side = "left"
        batch = self.tokenizer(prompts, add_special_tokens=False, return_tensors="pt", padding=True)
        out = self.model.generate(**batch.to(self.device), max_new_tokens=limit, do_sample=False)
        return [
            self.tokenizer.decode(row[batch.input_ids.size(1) :]).split("</s>")[0] for row in out
        ]

    def reason(self, r: Random, count: int) -> None:
        problems = [reasoning.sample(r) for _ in range(count)]
        for start in range(0, count, 128):
            part = problems[start : start + 128]
            written = self.write([f"<s>[INST]{p.prompt}[/INST]<think>\n" for p in part])
            for problem, text in zip(part, written, strict=True):
                said = text.split("</think>")[-1] if "</think>" in text else ""
                good = problem.result in re.findall(r"-?[\d.]*\d", said)
                tally = self.tally["reasoning"]
                tally[good] += 1
                if not good and tally[False] <= SHOWN:
                    print(f"[reasoning] {problem.prompt!r}\n  wanted {problem.result}")
                    print(f"  wrote  {text!r}")

    def page(self) -> None:
        """The prompts of the examples, as a user's client would render them."""
        prompts, wanted = [], []
        for line in (
            (Path(__file__).with_name("page.jsonl")).read_text(encoding="utf-8").splitlines()
        ):
            item = json.loads(line)
            if "text" in item:
                prompts.append("<s>" + item["text"])
            else:
                prompts.append(
                    self.tokenizer.apply_chat_template(
                        item["messages"],
                        tools=item.get("tools"),
                        add_generation_prompt=True,
                        tokenize=False,
                        **item.get("kwargs", {}),
                    )
                    + item.get("forced", "")
                )
            wanted.append(item["wanted"])
        for prompt, want, text in zip(prompts, wanted, self.write(prompts), strict=True):
            good = re.search(want, text, re.DOTALL) is not None
            self.tally["the examples' prompts"][good] += 1
            print(f"[page] {'ok ' if good else 'BAD'} {prompt[-70:]!r} -> {text!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("embedded"))
    parser.add_argument("--count", type=int, default=400, help="prompts per group")
    parser.add_argument("--seed", type=int, default=90_001)
    options = parser.parse_args()
    judge = Judge(options.model, "cuda" if torch.cuda.is_available() else "cpu")
    r = Random(options.seed)
    judge.page()
    judge.reason(r, options.count)
    judge.forced(list(extraction_cases(r, options.count, False)))
    judge.forced(list(extraction_cases(r, options.count, True)))
    judge.forced(list(tool_cases(r, options.count)))
    print("\n| group | right | of |\n|---|---|---|")
    for group, tally in judge.tally.items():
        print(f"| {group} | {100 * tally[True] / tally.total():.1f} % | {tally.total()} |")


if __name__ == "__main__":
    main()
