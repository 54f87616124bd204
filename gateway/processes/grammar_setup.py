"""The grammar compiler of one model, as its processes need it: the compile workers turn specs into
blueprints before admission, the engine process builds token masks from them.
"""

from __future__ import annotations

import json
from pathlib import Path

from formgate.constrain.compiler import Backend, GrammarCompiler
from formgate.gateway.model.tokenizer import Tokenizer


def grammar_compiler(
    tokenizer: Tokenizer, model_dir: Path, backend: Backend, *, for_masks: bool
) -> GrammarCompiler:
    """`for_masks`: its grammars are to mask tokens, not only to be compiled."""
    return GrammarCompiler(
        tokenizer.vocabulary(),
        padded_vocab_size=padded_vocab_size(model_dir, tokenizer.size),
        backend=backend,
        for_masks=for_masks,
    )


def padded_vocab_size(model_dir: Path, num_tokens: int) -> int:
    """How many logits the model has: its vocabulary may be padded past the tokenizer's."""
    config = json.loads((model_dir / "config.json").read_bytes())
    size = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
    return max(int(size or 0), num_tokens)
