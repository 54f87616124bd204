import pytest
import torch

from formgate.kernels.fill_pending import fill_pending, fill_pending_ref, fill_pending_triton


@pytest.mark.parametrize("op", [fill_pending, fill_pending_ref, fill_pending_triton])
@pytest.mark.parametrize("n", [0, 1, 7, 256, 700])
def test_ids_below_zero_name_a_row_of_the_last_step(device, op, n):
    sampled = torch.randint(0, 1 << 40, (300,), device=device)
    ids = torch.randint(-300, 1 << 40, (n,), device=device)
    ids[::2] = torch.randint(-300, 0, (len(ids[::2]),), device=device)
    expected = [int(sampled[-1 - i]) if i < 0 else i for i in ids.tolist()]
    op(ids, sampled)
    assert ids.tolist() == expected
