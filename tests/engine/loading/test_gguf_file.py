"""The header of a GGUF file: what the gguf package wrote is read, and everything else costs one
line and little memory.
"""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest

from formgate.engine.loading.gguf_file import TYPES, GGUFError, read_gguf_header

MATRIX = np.arange(96, dtype=np.float32).reshape(3, 32)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 7)
    writer.add_float32("llama.rope.freq_base", 0.5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ä", "\u2581語"])
    writer.add_array("tokenizer.ggml.scores", [0.5, -1.0, 2.0])
    writer.add_array("tokenizer.ggml.token_type", [1, 3, 6])
    writer.add_tensor("token_embd.weight", MATRIX)
    quantized = gguf.quantize(MATRIX, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blk.0.q.weight", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def error_of(path: Path) -> str:
    tracemalloc.start()
    try:
        with pytest.raises(GGUFError) as error:
            read_gguf_header(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(path.name)
    return message


def test_what_the_package_wrote_is_read(file: Path) -> None:
    header = read_gguf_header(file)
    assert header.require("general.architecture", str) == "llama"
    assert header.get("llama.block_count", int) == 7
    assert header.get("llama.rope.freq_base", float) == 0.5
    assert header.get("tokenizer.ggml.add_bos_token", bool) is True
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "ä", "\u2581語"]
    assert list(header.metadata["tokenizer.ggml.scores"]) == [0.5, -1.0, 2.0]
    assert list(header.metadata["tokenizer.ggml.token_type"]) == [1, 3, 6]
    stored = header.tensors["token_embd.weight"]
    assert (stored.shape, stored.type.name, stored.num_bytes) == ((3, 32), "F32", 384)
    content = file.read_bytes()[stored.start : stored.start + stored.num_bytes]
    assert np.array_equal(np.frombuffer(content, np.float32).reshape(3, 32), MATRIX)
    quantized = header.tensors["blk.0.q.weight"]
    assert (quantized.shape, quantized.type.name, quantized.num_bytes) == ((3, 32), "Q8_0", 102)


def test_the_types_are_the_packages() -> None:
    for number, kind in TYPES.items():
        theirs = gguf.GGMLQuantizationType(number)
        assert kind.name == theirs.name
        assert (kind.block, kind.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]


def test_a_value_of_another_kind_is_named(file: Path) -> None:
    header = read_gguf_header(file)
    with pytest.raises(GGUFError, match=r"llama\.block_count holds a int"):
        header.get("llama.block_count", str)
    with pytest.raises(GGUFError, match=r"has no llama\.context_length"):
        header.require("llama.context_length", int)


def test_every_cut_is_one_line(file: Path) -> None:
    content = file.read_bytes()
    last = read_gguf_header(file).tensors["blk.0.q.weight"]
    for kept in range(0, last.start + last.num_bytes, 7):
        file.write_bytes(content[:kept])
        error_of(file)


def test_damage_never_raises_anything_else(file: Path) -> None:
    content = file.read_bytes()
    rng = np.random.default_rng(5)
    for _ in range(500):
        damaged = bytearray(content)
        for place in rng.integers(0, 600, size=3):
            damaged[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
        file.write_bytes(damaged)
        with contextlib.suppress(GGUFError):
            read_gguf_header(file)


def header_bytes(tensors: int, entries: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


ENTRY = text("key")
TENSOR = text("weight")
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "a web page": (b"<html>404</html>" * 9, "is not a GGUF file"),
    "version 1": (header_bytes(0, 0, version=1), "has GGUF version 1"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
    "2^60 tensors": (header_bytes(1 << 60, 0), f"promises {1 << 60} tensors"),
    "2^60 entries": (header_bytes(0, 1 << 60), f"promises 0 tensors and {1 << 60} entries"),
    "a text of 2^60 bytes": (header_bytes(0, 1, struct.pack("<Q", 1 << 60)), "a text of"),
    "a cut text": (header_bytes(0, 1, struct.pack("<Q", 99) + b"ab"), "is cut"),
    "2^60 strings": (
        header_bytes(0, 1, ENTRY + struct.pack("<IIQ", 9, 8, 1 << 60)),
        f"promises {1 << 60} items in key",
    ),
    "8 million numbers": (header_bytes(0, 1, ENTRY + struct.pack("<IIQ", 9, 10, 1 << 23)), "cut"),
    "nested arrays": (header_bytes(0, 1, ENTRY + struct.pack("<IIQ", 9, 9, 1)), "of kind 9"),
    "an unknown kind": (header_bytes(0, 1, ENTRY + struct.pack("<I", 77)), "of kind 77"),
    "no UTF-8": (header_bytes(0, 1, struct.pack("<Q", 2) + b"\xff\xfe"), "not UTF-8"),
    "2^31 dimensions": (header_bytes(1, 0, TENSOR + struct.pack("<I", 1 << 31)), "dimensions"),
    "2^62 numbers": (
        header_bytes(1, 0, TENSOR + struct.pack("<IQQIQ", 2, 1 << 31, 1 << 31, 0, 0)),
        "weight has shape",
    ),
    "no numbers": (
        header_bytes(1, 0, TENSOR + struct.pack("<IQQIQ", 2, 0, 4, 0, 0)),
        "weight has shape",
    ),
    "a half block": (
        header_bytes(1, 0, TENSOR + struct.pack("<IQIQ", 1, 33, 8, 0)),
        "weight has shape [33]",
    ),
    "an unknown type": (
        header_bytes(1, 0, TENSOR + struct.pack("<IQIQ", 1, 4, 99, 0)),
        "stores weight as type 99, which is none of F32",
    ),
    "a tensor far behind": (
        header_bytes(1, 0, TENSOR + struct.pack("<IQIQ", 1, 4, 0, 1 << 62)),
        "is cut or damaged: weight ends at byte",
    ),
    "a tensor between units": (
        header_bytes(1, 0, TENSOR + struct.pack("<IQIQ", 1, 4, 0, 5) + bytes(99)),
        "weight begins between two units",
    ),
    "one name twice": (
        header_bytes(2, 0, (TENSOR + struct.pack("<IQIQ", 1, 4, 0, 0)) * 2 + bytes(99)),
        "holds two tensors weight",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_line(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    assert message in error_of(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in error_of(tmp_path / "absent.gguf")


@pytest.mark.parametrize(
    "value", [struct.pack("<II", 4, 0), struct.pack("<II", 4, 3), struct.pack("<I", 8) + text("x")]
)
def test_a_wrong_alignment(value: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(header_bytes(0, 1, text("general.alignment") + value + bytes(64)))
    assert "has alignment" in error_of(path)
