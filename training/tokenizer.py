"""Trains the byte-level BPE tokenizer on a generated sample, and writes it with the chat template.

    python -m training.tokenizer --out embedded

A word never takes the blank before it into its token, digits and Chinese characters stand alone,
and a closing quote is a token of its own. So a value has the same tokens in a sentence, between
quotes and in a tool call, and copying it is copying tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from training.generate.mixture import document
from training.generate.values import HANZI

SPECIAL = [
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<think>", "</think>"),
]
# JSON joints, escapes, capitalized words, capitals, one digit, blanks, line ends, anything else.
PATTERN = "|".join(
    (
        r'": (?:\[?\{"?|\["?|")?',
        r', (?:\{?")?',
        r'\[?\{"',
        r'\\["\\/bfnrtu]',
        r"\p{Lu}?\p{Ll}+",
        r"\p{Lu}+(?!\p{Ll})",
        r"\p{N}",
        r" +",
        r"\n+",
        r"[\s\S]",
    )
)
MAX_LENGTH = 4096


def train(vocabulary: int, documents: int, common: int, seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    r = Random(seed)

    def texts():
        for _ in range(documents):
            for text, _ in document(r):
                for mark in SPECIAL:
                    text = text.replace(mark, "\n")
                yield text
        for _ in range(common):
            yield HANZI

    tokenizer.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        "additional_special_tokens": SPECIAL[3:],
        "clean_up_tokenization_spaces": False,
        "model_max_length": MAX_LENGTH,
    }
    (out / "tokenizer_config.json").write_text(
        json.dumps(config, indent=2) + "\n", encoding="utf-8"
    )
    template = Path(__file__).with_name("chat_template.jinja")
    shutil.copyfile(template, out / "chat_template.jinja")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("embedded"))
    parser.add_argument("--vocabulary", type=int, default=6400)
    parser.add_argument("--documents", type=int, default=24_000)
    parser.add_argument(
        "--common", type=int, default=110, help="weight of the 3,755 common characters"
    )
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    save(train(options.vocabulary, options.documents, options.common, options.seed), options.out)


if __name__ == "__main__":
    main()
