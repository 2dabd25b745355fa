"""The size of a network's weights in Huffman's code: Huffman 1952, "A Method for the Construction of Minimum-Redundancy
Codes"; of networks Han et al. 2016, "Deep Compression".
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

MOST_VALUES = 65536  # distinct values of a tensor beyond which no code is made: it would be as long as the tensor
LENGTH_BITS = 8  # of a code word's length in the table


def huffman_bytes(state: Mapping[str, torch.Tensor]) -> int:
    """The bytes of a state dict whose tensors each have a code of their own, with the table of the code's values.

    A tensor that is no smaller so counts as it is stored.
    """
    bits = 0
    for tensor in state.values():
        stored = 8 * tensor.numel() * tensor.element_size()
        table = 8 * tensor.element_size() + LENGTH_BITS
        values, counts = tensor.detach().unique(return_counts=True)
        coded = stored
        if len(values) <= MOST_VALUES:
            coded = code_bits(counts.numpy()) + table * len(values)
        bits += min(stored, coded)
    return -(-bits // 8)


def code_bits(counts: np.ndarray) -> int:
    """The bits of a message in Huffman's code: the sum of all counts that merging the two least makes.

    counts  how often each of its values occurs; a single value takes a bit each time.
    """
    heap = [int(count) for count in counts]
    if len(heap) == 1:
        return heap[0]
    heapq.heapify(heap)
    bits = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        bits += merged
        heapq.heappush(heap, merged)
    return bits
