"""Memory that the GPUs of one host read from each other: torch's symmetric memory, without
multicast. Its all-reduces take less time than NCCL's up to some megabytes (docs/performance.md).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, _register_process_group, _SymmetricMemory

log = logging.getLogger(__name__)

GROUP = "formgate-peers"  # process-wide, as torch wants it
# Up to the first, every rank reads all of its peers' tensors; up to the second, a share of them,
# and then the others' sums; above it, NCCL is faster.
ONE_SHOT_BYTES = 256 << 10
TWO_SHOT_BYTES = 8 << 20
ALIGNMENT = 16
TYPES = (torch.bfloat16, torch.float32)  # that torch's operations sum


@dataclass(frozen=True)
class PeerMemory:
    """This rank's buffer, which its peers read."""

    size: int  # ranks
    buffer: torch.Tensor  # uint8 [TWO_SHOT_BYTES]
    kept: tuple[object, ...]  # what must live as long as the buffer

    def takes(self, x: torch.Tensor) -> bool:
        """Whether `all_reduce` is able to sum x, and the best way to."""
        fits = x.nbytes <= TWO_SHOT_BYTES and x.nbytes % (ALIGNMENT * self.size) == 0
        return fits and x.dtype in TYPES

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of x over the ranks, which replaces x or leaves it as it was. Every rank gets the
        same bits. It may be captured in a CUDA graph.
        """
        mine = self.buffer[: x.nbytes].view(x.dtype)
        if x.nbytes <= ONE_SHOT_BYTES:
            out: torch.Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(
                mine, x.view(-1), "sum", GROUP
            )
            return out.view(x.shape)
        mine.copy_(x.view(-1))
        torch.ops.symm_mem.two_shot_all_reduce_(mine, "sum", GROUP)
        return x.copy_(mine.view(x.shape))


def share_memory(store: Store, rank: int, size: int, device: torch.device) -> PeerMemory | None:
    """None on all ranks if one cannot share its memory. Every rank must call this, once."""
    buffer: torch.Tensor | None = None
    try:
        # Releases of torch differ in where they look for the ranks' store.
        group = dist.ProcessGroup(store, rank, size)
        _register_process_group(GROUP, group)  # type: ignore[arg-type]
        _SymmetricMemory.set_group_info(GROUP, rank, size, store)
        buffer = _SymmetricMemory.empty_strided_p2p(
            (TWO_SHOT_BYTES,), (1,), torch.uint8, device, GROUP
        )
    except RuntimeError as error:
        log.warning("the GPUs share no memory, small all-reduces are slower: %s", error)
    store.set(f"peers/{rank}", "" if buffer is None else "shared")
    if not all(store.get(f"peers/{other}") for other in range(size)):
        return None
    assert buffer is not None
    handle = _SymmetricMemory.rendezvous(buffer, GROUP)
    return PeerMemory(size, buffer, (handle, group))
