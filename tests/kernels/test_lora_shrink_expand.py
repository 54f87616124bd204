import pytest
import torch

from formgate.kernels.lora_shrink_expand import (
    OUTPUTS,
    RANKS,
    add_lora,
    add_lora_ref,
    add_lora_triton,
)

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


class Layer:
    """Adapters of random matrices for a layer, as the kernels take them and as plain ones.
    `ranks[slot][slice]`: the true ranks, which the bank pads to multiples of RANKS.
    """

    def __init__(self, device, dtype, in_features, outputs, ranks, max_rank):
        self.max_rank = max_rank
        self.plain, rows, table = [], [], []
        for slot_ranks in ranks:
            parts, entries, matrices, size = [], [], [], 0
            for rank, length in zip(slot_ranks, outputs, strict=True):
                stored = -(-rank // RANKS) * RANKS
                a = torch.zeros(stored, in_features, device=device, dtype=dtype)
                b = torch.zeros(length, stored, device=device, dtype=dtype)
                a[:rank] = torch.randn(rank, in_features, device=device) / in_features**0.5
                b[:, :rank] = torch.randn(length, rank, device=device) / max(rank, 1) ** 0.5
                entries.append((stored, size, size + a.numel()))
                size += a.numel() + b.numel()
                parts += [a.flatten(), b.flatten()]
                matrices.append((a.double(), b.double()))
            rows.append(torch.cat(parts))
            table.append(entries)
            self.plain.append(matrices)
        # What lies past an adapter in its slot is another's rest, and must never be read.
        size = max(len(row) for row in rows) + 32
        self.bank = torch.full((len(rows), size), float("nan"), device=device, dtype=dtype)
        for slot, row in enumerate(rows):
            self.bank[slot, : len(row)] = row
        self.table = torch.tensor(table, device=device)
        blocks, column = [], 0
        for number, length in enumerate(outputs):
            blocks += [(number, at, column + at) for at in range(0, length, OUTPUTS)]
            column += length
        self.blocks = torch.tensor(blocks, dtype=torch.int32, device=device)

    def added(self, x, slots):
        rows = []
        for row, slot in zip(x.double(), slots, strict=True):
            parts = [b @ (a @ row) for a, b in self.plain[max(slot, 0)]]
            rows.append(torch.cat(parts) * (slot >= 0))
        return torch.stack(rows)


def grouped(slots, tile_rows, device, spare=2):
    """(order, tiles) of tokens with these slots; `spare` tiles are unused."""
    order = sorted((i for i, slot in enumerate(slots) if slot >= 0), key=lambda i: slots[i])
    tiles = []
    for place, token in enumerate(order):
        same = tiles and tiles[-1][0] == slots[token] and tiles[-1][2] < tile_rows
        if same:
            tiles[-1][2] += 1
        else:
            tiles.append([slots[token], place, 1])
    tiles += [[-1, 0, 0]] * spare
    order += [10**6] * (len(slots) - len(order))  # never read
    return (
        torch.tensor(order, dtype=torch.int32, device=device),
        torch.tensor(tiles, dtype=torch.int32, device=device),
    )


CASES = {
    "one row": (40, [70], [[1]], 16, [0]),
    "a row without an adapter": (33, [70], [[3]], 16, [-1, 0]),
    "ranks side by side": (520, [40, 8, 8], [[8, 8, 8], [1, 1, 1], [33, 16, 17]], 48, [1, 0, 2, 0]),
    "slices left out": (48, [130, 5], [[4, 0], [0, 7]], 16, [1, -1, 0, 0, 1]),
    "several tiles": (64, [300], [[16], [2]], 64, [0] * 37 + [1] + [-1] * 2 + [0] * 3),
    "many rows": (272, [20, 140], [[5, 20], [16, 1]], 32, [i % 3 - 1 for i in range(75)]),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("op", [add_lora_ref, add_lora_triton, add_lora])
@pytest.mark.parametrize("tile_rows", [16, 64])
def test_against_float64(device, assert_close, dtype, case, op, tile_rows):
    in_features, outputs, ranks, max_rank, slots = case
    layer = Layer(device, dtype, in_features, outputs, ranks, max_rank)
    x = torch.randn(len(slots), in_features, device=device).to(dtype)
    base = torch.randn(len(slots), sum(outputs), device=device).to(dtype)
    out = base.clone()
    order, tiles = grouped(slots, tile_rows, device)
    op(
        out,
        x,
        layer.bank,
        layer.table,
        layer.blocks,
        order,
        tiles,
        max_rank=max_rank,
        tile_rows=tile_rows,
    )
    expected = base.double() + layer.added(x, slots)
    assert_close(out, expected, dtype, scale=4)
    without = torch.tensor(slots, device=device) < 0
    assert torch.equal(out[without], base[without])


def run(layer, x, slots, device):
    out = torch.zeros(len(slots), 40, device=device)
    order, tiles = grouped(slots, 16, device)
    bank, table, blocks = layer.bank, layer.table, layer.blocks
    add_lora_triton(out, x, bank, table, blocks, order, tiles, max_rank=16, tile_rows=16)
    return out


def test_a_row_does_not_see_the_others(device):
    layer = Layer(device, torch.float32, 96, [40], [[5], [9]], 16)
    x = torch.randn(6, 96, device=device)
    slots = [0, 1, 0, -1, 1, 1]
    together = run(layer, x, slots, device)
    x[1:] = float("nan")
    assert torch.equal(run(layer, x, slots, device)[0], together[0])
    layer.bank[1] = float("nan")
    assert torch.equal(run(layer, x, slots, device)[0], together[0])
    assert torch.equal(run(layer, x[:1], [0], device)[0], together[0])


def test_a_layer_is_a_view_of_a_table_of_many(device):
    """The table's rows may lie apart, as those of a layer among others do."""
    layer = Layer(device, torch.float32, 96, [40], [[5], [9]], 16)
    x = torch.randn(3, 96, device=device)
    expected = run(layer, x, [1, 0, -1], device)
    whole = torch.full((2, 4, 3), 10**9, device=device)
    whole[:, 2:3] = layer.table
    layer.table = whole[:, 2:3]
    assert torch.equal(run(layer, x, [1, 0, -1], device), expected)


def test_rows_may_lie_apart(device):
    layer = Layer(device, torch.float32, 96, [40], [[5]], 16)
    x = torch.randn(3, 96, device=device)
    expected = run(layer, x, [0, 0, 0], device)
    wide, out = torch.full((3, 130), 7.0, device=device), torch.zeros(3, 50, device=device)
    wide[:, :96] = x
    order, tiles = grouped([0, 0, 0], 16, device)
    bank, table, blocks = layer.bank, layer.table, layer.blocks
    add_lora_triton(
        out[:, :40], wide[:, :96], bank, table, blocks, order, tiles, max_rank=16, tile_rows=16
    )
    assert torch.equal(out[:, :40], expected)
    assert not out[:, 40:].any()


def test_no_tiles(device):
    layer = Layer(device, torch.float32, 8, [40], [[5]], 16)
    tiles = torch.zeros((0, 3), dtype=torch.int32, device=device)
    out = torch.ones(2, 40, device=device)
    order = torch.zeros(2, dtype=torch.int32, device=device)
    x = torch.ones(2, 8, device=device)
    bank, table, blocks = layer.bank, layer.table, layer.blocks
    add_lora_triton(out, x, bank, table, blocks, order, tiles, max_rank=16, tile_rows=16)
    assert torch.equal(out, torch.ones(2, 40, device=device))
