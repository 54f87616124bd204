"""The training stream: conversations of every kind in fixed shares, tokenized and packed in rows.

Deterministic for a seed. A row holds whole documents one after another, each opened by `<s>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.generate import extraction, prose, reasoning, structured, talk, tools
from training.generate.chat import Chat, Segment

MAKERS = (
    (extraction.chat, 0.48),
    (tools.chat, 0.24),
    (reasoning.chat, 0.13),
    (talk.chat, 0.08),
    (structured.chat, 0.04),
    (prose.chat, 0.03),
)
LONG = 0.012  # share of documents that go on for thousands of tokens
BLOCK = 256  # documents tokenized at once


def _long(r: Random) -> Chat:
    """Many exchanges in one conversation, so that far positions are trained too."""
    made = tools.chat(r)
    size = r.randint(4000, 14000)  # characters
    while sum(len(text) for text, _ in made.segments) < size:
        maker = r.choice((extraction.chat, reasoning.chat, talk.chat))
        made.segments += [
            s for s in maker(r).segments[1:] if not s[0].startswith("[SYSTEM_PROMPT]")
        ]
    return made


def document(r: Random) -> list[Segment]:
    if r.random() < LONG:
        return _long(r).segments
    maker = r.choices([m for m, _ in MAKERS], [share for _, share in MAKERS])[0]
    return maker(r).segments


def encoded(r: Random, tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[bool]]]:
    """(ids, is_target) of one document after another, without end."""
    while True:
        documents = [document(r) for _ in range(BLOCK)]
        texts = [text for segments in documents for text, _ in segments]
        pieces = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
        for segments in documents:
            ids: list[int] = []
            target: list[bool] = []
            for _, wanted in segments:
                piece = next(pieces).ids
                ids += piece
                target += [wanted] * len(piece)
            yield ids, target


def rows(
    seed: int, tokenizer: Tokenizer, length: int
) -> Iterator[tuple[NDArray[np.uint16], NDArray[np.bool_]]]:
    """Packed rows: tokens and targets, each of [length]. The last document of a row is cut short."""
    stream = encoded(Random(seed), tokenizer)
    ids: list[int] = []
    target: list[bool] = []
    while True:
        while len(ids) < length:
            more, wanted = next(stream)
            ids += more
            target += wanted
        yield np.array(ids[:length], np.uint16), np.array(target[:length], np.bool_)
        ids, target = [], []
