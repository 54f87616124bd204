import pytest
import torch

from formgate.kernels.quantized.grouped_linear import (
    MAX_ROWS,
    Tiles,
    grouped_linear,
    grouped_linear_ref,
    grouped_linear_triton,
    new_locks,
    tiles_of,
)
from formgate.kernels.quantized.packed_weight import (
    can_pack,
    pack_weight,
    unpack_ref,
    unpack_triton,
)

DTYPES = [torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
bit_widths = pytest.mark.parametrize("bits", [4, 8])


def make(device, outputs, inputs, group, bits, scale_dtype=torch.float16):
    """(packed, the weight in float64)"""
    values = torch.randint(0, 2**bits, (outputs, inputs), device=device).to(torch.uint8)
    groups = inputs // group
    zeros = torch.randint(0, 2**bits, (groups, outputs), device=device).to(torch.uint8)
    zeros[0, 0] = 2**bits - 1
    scales = ((torch.rand(groups, outputs, device=device) + 0.5) / 2**bits).to(scale_dtype)
    less, times = (one.t().double().repeat_interleave(group, 1) for one in (zeros, scales))
    return pack_weight(values, scales, zeros, bits), (values.double() - less) * times


@bit_widths
@pytest.mark.parametrize(
    ("outputs", "inputs", "group", "scale_dtype"),
    [
        (1, 32, 32, torch.float16),
        (70, 128, 32, torch.bfloat16),
        (33, 192, 64, torch.float16),
        (65, 384, 128, torch.bfloat16),
        (9, 272, 272, torch.float16),
        (5, 512, 256, torch.float16),
    ],
)
def test_the_layout_holds_any_weight(device, bits, outputs, inputs, group, scale_dtype):
    packed, expected = make(device, outputs, inputs, group, bits, scale_dtype)
    assert packed.groups.dtype is scale_dtype or scale_dtype is torch.bfloat16
    assert packed.words.nbytes == outputs * -(-inputs // packed.block) * 64
    for unpack in (unpack_ref, unpack_triton):
        assert torch.equal(unpack(packed, torch.float32), expected.float())
        assert torch.equal(unpack(packed, torch.float16), expected.float().half())


def test_groups_that_the_layout_does_not_hold():
    assert can_pack(96, 1, 4)  # one group may have any size
    assert can_pack(96, 3, 4)
    assert not can_pack(96, 6, 4)  # 16 inputs
    assert not can_pack(192, 2, 4)  # 96 inputs cut blocks of 128
    assert not can_pack(192, 2, 8)
    assert not can_pack(100, 3, 4)


@dtypes
@bit_widths
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "group"),
    [
        (1, 1, 32, 32),
        (1, 70, 512, 128),
        (3, 40, 320, 64),  # ends within a block
        (8, 130, 1024, 32),
        (17, 65, 1280, 256),
        (33, 129, 272, 272),  # one group
        (MAX_ROWS, 70, 768, 128),
    ],
)
def test_against_float64(device, assert_close, dtype, bits, rows, outputs, inputs, group):
    packed, weight = make(device, outputs, inputs, group, bits)
    x = torch.randn(rows, inputs, device=device).to(dtype)
    bias = torch.randn(outputs, device=device).to(dtype)
    expected = x.double() @ weight.T
    scale = inputs**0.5
    locks = new_locks(packed)
    assert_close(grouped_linear_triton(x, packed, locks=locks), expected, dtype, scale)
    assert_close(grouped_linear_ref(x, packed), expected, dtype, scale)
    found = grouped_linear_triton(x, packed, bias, locks=locks)
    assert_close(found, expected + bias.double(), dtype, scale)
    assert not locks.any()


@pytest.mark.parametrize(("splits", "tile"), [(1, 64), (2, 32), (3, 128), (5, 64)])
def test_splits_of_the_inputs(device, assert_close, splits, tile):
    """The last of 5 splits of 9 blocks has one."""
    packed, weight = make(device, 70, 9 * 128, 128, 4)
    x = torch.randn(2, 9 * 128, device=device).half()
    tiles = Tiles(rows=16, outputs=tile, splits=splits)
    locks = new_locks(packed)
    for _ in range(2):
        found = grouped_linear_triton(x, packed, locks=locks, tiles=tiles)
        assert_close(found, x.double() @ weight.T, x.dtype, 34)
        assert not locks.any()


@pytest.mark.parametrize("rows", [1, 8, 16, 64])
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(8, 32), (6144, 4096), (4096, 14336), (28672, 4096)]
)
def test_no_split_is_empty(rows, outputs, inputs):
    blocks = -(-inputs // 128)
    tiles = tiles_of(rows, outputs, blocks)
    assert tiles.rows >= rows
    assert 1 <= tiles.splits <= blocks
    assert (tiles.splits - 1) * -(-blocks // tiles.splits) < blocks


def test_a_row_does_not_see_the_others(device):
    packed, _ = make(device, 70, 1024, 128, 4)
    locks = new_locks(packed)
    x = torch.randn(8, 1024, device=device).bfloat16()
    together = grouped_linear_triton(x, packed, locks=locks)
    x[1:] = float("nan")
    assert torch.equal(grouped_linear_triton(x, packed, locks=locks)[0], together[0])
    assert torch.equal(grouped_linear_triton(x[:1], packed, locks=locks), together[:1])


def test_no_rows(device):
    packed, _ = make(device, 40, 96, 32, 4)
    x = torch.randn(0, 96, device=device).half()
    assert grouped_linear_triton(x, packed, locks=new_locks(packed)).shape == (0, 40)


@bit_widths
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [2, MAX_ROWS + 1])
def test_any_rows_and_type_are_taken(device, assert_close, dtype, rows, bits):
    """What the kernel is not made for is dequantized."""
    packed, weight = make(device, 40, 96, 32, bits)
    x = torch.randn(rows, 96, device=device).to(dtype)
    found = grouped_linear(x, packed, locks=new_locks(packed))
    assert_close(found, x.double() @ weight.T, dtype, 10)
