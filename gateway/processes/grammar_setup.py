"""Makes a model's grammar compiler. Compile workers turn specs into blueprints before admission;
the engine process builds token masks from these.
"""

from __future__ import annotations

import json
from pathlib import Path

from formgate.constrain.compiler import Backend, GrammarCompiler
from formgate.gateway.model.tokenizer import Tokenizer


def grammar_compiler(
    tokenizer: Tokenizer, model_dir: Path, backend: Backend, *, for_masks: bool
) -> GrammarCompiler:
    """`for_masks`: the compiler also builds token masks."""
    return GrammarCompiler(
        tokenizer.vocabulary(),
        padded_vocab_size=padded_vocab_size(model_dir, tokenizer.size),
        backend=backend,
        for_masks=for_masks,
    )


def padded_vocab_size(model_dir: Path, num_tokens: int) -> int:
    """The number of logits: a model may pad its vocabulary past the tokenizer's."""
    config = json.loads((model_dir / "config.json").read_bytes())
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    return max(int(size or 0), num_tokens)
