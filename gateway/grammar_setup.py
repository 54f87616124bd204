"""The grammar compiler of one model, as its processes need it: the compile workers turn specs into
blueprints before admission, the engine process builds token masks from them.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from formgate.constrain.compiler import Backend, GrammarCompiler
from formgate.constrain.schema_report import schema_report
from formgate.gateway.compile_pool import NewCompiler
from formgate.gateway.tokenizer import Tokenizer, load_tokenizer


def grammar_compiler(tokenizer: Tokenizer, model_dir: Path, backend: Backend) -> GrammarCompiler:
    return GrammarCompiler(
        tokenizer.vocabulary(),
        padded_vocab_size=padded_vocab_size(model_dir, tokenizer.size),
        backend=backend,
    )


def padded_vocab_size(model_dir: Path, num_tokens: int) -> int:
    """How many logits the model has: its vocabulary may be padded past the tokenizer's."""
    config = json.loads((model_dir / "config.json").read_bytes())
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    return max(int(size or 0), num_tokens)


def worker_compiler(tokenizer_dir: Path, model_dir: Path, backend: Backend) -> NewCompiler:
    return partial(_tasks, tokenizer_dir, model_dir, backend)


def _tasks(tokenizer_dir: Path, model_dir: Path, backend: Backend) -> CompileTasks:
    return CompileTasks(grammar_compiler(load_tokenizer(tokenizer_dir), model_dir, backend))


class CompileTasks:
    """What a compile worker can be asked for. Texts in, texts out; each raises ConstraintError."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler

    def blueprint(self, spec_text: str) -> str:
        return self._compiler.blueprint(spec_text)

    def size(self, spec_text: str) -> str:
        """`[tokens of the shortest answer, tokens of its grammar's largest part]` as JSON."""
        shortest = self._compiler.shortest(spec_text)
        return json.dumps([self._compiler.num_tokens(shortest.text), shortest.largest_part])

    def schema_report(self, schema_text: str) -> str:
        return json.dumps(schema_report(json.loads(schema_text), self._compiler))
