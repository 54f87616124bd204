import pytest
import torch

from formgate.kernels.skinny_linear import MAX_ROWS, linear, linear_ref, linear_triton

DTYPES = [torch.bfloat16, torch.float16]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def numbers(device, dtype, *shape):
    return torch.randn(*shape, device=device).to(dtype)


@dtypes
@pytest.mark.parametrize(
    ("rows", "out_features", "in_features"),
    [
        (1, 1, 1),
        (1, 70, 200),
        (2, 33, 512),
        (MAX_ROWS, 70, 520),
        (7, 5125, 48),  # tiles of a large matrix
        (3, 16390, 8),  # and of a larger one
    ],
)
def test_against_float64(device, assert_close, dtype, rows, out_features, in_features):
    x = numbers(device, dtype, rows, in_features)
    weight = numbers(device, dtype, out_features, in_features)
    expected = x.double() @ weight.double().T
    scale = in_features**0.5
    assert_close(linear_triton(x, weight), expected, dtype, scale)
    assert_close(linear_ref(x, weight), expected, dtype, scale)


@dtypes
def test_a_bias(device, assert_close, dtype):
    x, weight = numbers(device, dtype, 3, 64), numbers(device, dtype, 70, 64)
    bias = numbers(device, dtype, 70)
    expected = x.double() @ weight.double().T + bias.double()
    assert_close(linear_triton(x, weight, bias), expected, dtype, scale=8)


def test_a_row_does_not_see_the_others(device):
    x = numbers(device, torch.bfloat16, MAX_ROWS, 96)
    weight = numbers(device, torch.bfloat16, 40, 96)
    together = linear_triton(x, weight)
    x[1:] = float("nan")
    assert torch.equal(linear_triton(x, weight)[0], together[0])
    assert torch.equal(linear_triton(x[:1], weight), together[:1])


def test_no_rows(device):
    x, weight = numbers(device, torch.bfloat16, 0, 96), numbers(device, torch.bfloat16, 40, 96)
    assert linear_triton(x, weight).shape == (0, 40)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32], ids=str)
@pytest.mark.parametrize("rows", [2, MAX_ROWS + 1])
def test_any_rows_and_type_are_taken(device, assert_close, dtype, rows):
    """What the kernel is not made for goes to the library."""
    wide = numbers(device, dtype, rows, 200)
    weight = numbers(device, dtype, 30, 100)
    for x in (wide[:, :100].contiguous(), wide[:, :100]):
        out = linear(x, weight)
        assert out.dtype is dtype
        assert_close(out, x.double() @ weight.double().T, dtype, scale=10)
