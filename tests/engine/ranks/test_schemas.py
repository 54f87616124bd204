"""Answers under JSON schemas, with the real grammar compiler over the embedded model: two ranks
give one rank's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import jsonschema
import pytest

from formgate import embedded
from formgate.constrain.compiler import GrammarCompiler
from formgate.constrain.masks.constraint import Constraint
from formgate.engine.config import EngineConfig
from formgate.engine.engine import Engine
from formgate.engine.messages import AddRequest
from formgate.engine.sampling_params import SamplingParams
from formgate.gateway.model.tokenizer import Tokenizer
from formgate.gateway.model.tokenizer_folder import load_tokenizer
from formgate.gateway.processes.grammar_setup import grammar_compiler

SCHEMAS = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    {"type": "array", "items": {"enum": ["a", "b", 3]}, "minItems": 3, "maxItems": 5},
    {"const": {"a long answer": "that the grammar forces whole", "n": [1, 2, 3]}},
]
PROMPT = "John Smith, 30, software engineer. Extract: "


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded.path())


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return grammar_compiler(tokenizer, embedded.path(), "llguidance", for_masks=True)


def answers(size: int, tokenizer: Tokenizer, compiler: GrammarCompiler) -> list[list[int]]:
    config = EngineConfig(
        model_dir=embedded.path(),
        dtype="float32",
        device="cpu",
        tensor_parallel_size=size,
        tokenizer_vocab_size=tokenizer.size,
        max_model_len=256,
        max_num_seqs=4,
        max_num_batched_tokens=16,
        kv_cache_memory_bytes=1 << 24,
    )
    engine = Engine(config, compiler.factory, progress=lambda *report: None)
    prompt = tokenizer.encode(PROMPT)
    found: dict[str, list[int]] = {str(number): [] for number in range(len(SCHEMAS))}
    for number, schema in enumerate(SCHEMAS):
        blueprint = compiler.blueprint(json.dumps({"tree": {"kind": "json", "schema": schema}}))
        constraint = Constraint.of(blueprint).dumps()
        params = SamplingParams(max_tokens=64, temperature=0.0)
        engine.add_request(AddRequest(str(number), prompt, params, constraint=constraint))
    while engine.has_work:
        for output in engine.step().outputs:
            assert output.error is None
            found[output.request_id] += output.token_ids
    engine.close()
    return list(found.values())


def test_two_ranks_answer_a_schema_as_one_does(
    threads: object, tokenizer: Tokenizer, compiler: GrammarCompiler
) -> None:
    expected = answers(1, tokenizer, compiler)
    assert answers(2, tokenizer, compiler) == expected
    decode: Callable[[list[int]], str] = tokenizer.decode
    for tokens, schema in zip(expected, SCHEMAS, strict=True):
        text = decode([token for token in tokens if token not in tokenizer.eos_ids])
        jsonschema.validate(json.loads(text), schema)
