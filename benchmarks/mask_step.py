"""What the masks of one engine step cost: 64 sequences, each under a schema of its own, advance
along valid instances of it; the time to fill all their rows, with so many threads.

    python benchmarks/mask_step.py DATA.jsonl.gz --model FOLDER [--rows 64] [--threads 2]

DATA has one JSON object a line: `schema`, and `tests` with `data` and `valid`. The folder needs a
tokenizer and a config.json, no weights.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from formgate.constrain.errors import ConstraintError
from formgate.constrain.masks.constraint import Constraint
from formgate.engine.sampling.masks import MaskFiller
from formgate.engine.sampling_params import SamplingParams
from formgate.engine.scheduling.finish import FinishRules
from formgate.engine.sequence import Sequence
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.grammar_setup import grammar_compiler, padded_vocab_size

STEPS = 2000
PARAMS = SamplingParams(max_tokens=1 << 20)


def instances(path: Path, compiler: Any, encode: Any, rng: random.Random) -> Iterator[Any]:
    """Constraints and the tokens of their instances, over and over in any order."""
    found = []
    with gzip.open(path, "rt") as lines:
        for line in lines:
            record = json.loads(line)
            spec = json.dumps({"tree": {"kind": "json", "schema": record["schema"]}})
            try:
                blueprint = compiler.blueprint(spec)
            except ConstraintError:
                continue
            for test in record["tests"]:
                if test["valid"]:
                    text = json.dumps(test["data"], ensure_ascii=False)
                    found.append(
                        (Constraint.of(blueprint).dumps(), encode(text, add_special_tokens=False))
                    )
    print(f"{len(found)} instances")
    while True:
        yield from rng.sample(found, len(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.model)
    compiler = grammar_compiler(tokenizer, options.model, "llguidance", for_masks=True)
    words = -(-padded_vocab_size(options.model, tokenizer.size) // 32)
    bitmask = np.zeros((options.rows, words), dtype=np.int32)
    filler = MaskFiller(bitmask, compiler.filler(options.threads))
    rules = FinishRules(frozenset(tokenizer.eos_ids), 1 << 20)
    supply = instances(options.data, compiler, tokenizer.encode, random.Random(0))

    sequences: list[Sequence] = []
    answers: list[list[int]] = []

    def start(row: int) -> None:
        constraint, tokens = next(supply)
        masks = compiler.factory(constraint)
        sequences[row] = Sequence(str(row), [0], 1, PARAMS, constraint=masks)
        answers[row] = tokens

    for row in range(options.rows):
        sequences.append(Sequence("", [0], 1, PARAMS))
        answers.append([])
        start(row)
    seconds = []
    for _ in range(STEPS):
        masks = filler.fill(sequences)
        seconds.append(masks.seconds)
        for row, sequence in enumerate(sequences):
            done = sequence.num_output_tokens
            token = answers[row][done] if done < len(answers[row]) else tokenizer.eos_ids[0]
            allowed = bitmask[row, token >> 5] >> (token & 31) & 1
            # An instance whose keys are in another order than the schema's ends there.
            if not allowed or rules.accept(sequence, token) is not None:
                start(row)
    points = (50, 90, 99, 99.9, 100)
    figures = ", ".join(
        f"p{point} {value:.2f}"
        for point, value in zip(points, np.percentile(seconds, points) * 1e3, strict=True)
    )
    print(f"{options.rows} rows, {options.threads} threads: {figures} ms")


if __name__ == "__main__":
    main()
