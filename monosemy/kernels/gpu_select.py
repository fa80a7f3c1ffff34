"""Selection of codes on a GPU (Triton): the k largest of each row, and the entries above a threshold.

Both are bound by memory: z [B, N] has to be read once, and little else is moved.

`topk`, exact, in two stages. A row is cut into groups of g ≈ √(N/k) neighbours; `_peaks` reads z once and writes
each group's maximum. The k largest entries of a row are then in the k groups of largest maximum (among equal maxima
those of lowest index), whatever the data: the maxima of those k groups are k entries that come before any entry of any
other group. `_pick` finds the k groups, then with the same code the k largest of their k·g entries. Bytes a row: 4N
once, 8N/g for the maxima, 4kg gathered in runs of g: at N=131,072 and k=64 (g=32) 1.08 times the read of z; 4.6 GB for
8192 rows, 1.0 ms at 4.8 TB/s. `_pick` holds a row of candidates in registers and bisects the 31 bits of the k-th key:
31 counts of √(N·k) candidates, an estimated 0.15 ms in all there; they are read again to be written. Short rows are
picked from at once; where k is a large part of N the candidates do not fit in registers and each bit reads them again
(from L2): right, but slow.

Keys: the bits of a positive fp32 order like an int32; NaN is put above all, what is not above 0 becomes 0 and is not
kept. All comparisons are of integers, so that ties are exact.

`above`: `_mark` reads z once and leaves one bit an entry and a count a chunk of 4096; after a prefix sum of the counts
`_fill` reads the bits, and of z only the entries that are kept: 1.06 times the read of z.

The number of firings depends on the data: each call waits for it once (`int(...)`). What was
left out: selection in the epilogue of the encode product, which would save z's traffic.

Shapes: B rows, N width, F firings, G groups of a row, K = k, C chunks of a row, W words (32 bits) of a row.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from monosemy.kernels.firings import Firings

RANKED_WHOLE = 4096  # rows up to this length are picked from without groups
HELD = 16384  # candidates that are held in registers at once
TILE = 4096  # entries of z that one program of `_peaks` or `_mark` reads
WORDS = TILE // 32


def launch(numbers: int) -> dict[str, Any]:
    """Launch options for a program that holds a block of so many numbers: 16 a thread and array, up to 16 warps."""
    return {"num_warps": min(16, max(1, numbers // 512)), "enable_fp_fusion": True}


def topk(z_BN: torch.Tensor, k: int) -> Firings:
    """`Kernels.topk`."""
    rows, width = z_BN.shape
    bits_BN = z_BN.view(torch.int32)
    size = 1
    while width > RANKED_WHOLE and 4 * size * size * k <= width:
        size *= 2
    if size == 1:
        feature_BK, bits_BK, count_B = _picked(bits_BN, k, width)
    else:
        groups = triton.cdiv(width, size)
        peak_BG = torch.empty(rows, groups, dtype=torch.int32, device=z_BN.device)
        chunks = triton.cdiv(groups, TILE // size)
        _peaks[(rows * chunks,)](bits_BN, peak_BG, width, groups, chunks, TILE // size, size, **launch(2048))
        group_BK, _, count_B = _picked(peak_BG, k, groups)
        feature_BK, bits_BK, count_B = _picked(bits_BN, k, k * size, group_BK, count_B, size)
    start_B1 = _starts(count_B)
    total = int(start_B1[-1])
    value_BK = bits_BK.view(torch.float32)
    if total == rows * k:
        return Firings(start_B1, feature_BK.view(-1), value_BK.view(-1))
    row_F = torch.repeat_interleave(torch.arange(rows, device=z_BN.device), count_B, output_size=total)
    place_F = torch.arange(total, device=z_BN.device) + (row_F * k - start_B1[row_F])
    return Firings(start_B1, feature_BK.view(-1)[place_F], value_BK.view(-1)[place_F])


def above(z_BN: torch.Tensor, threshold_N: torch.Tensor) -> Firings:
    """`Kernels.above`."""
    rows, width = z_BN.shape
    chunks, device = triton.cdiv(width, TILE), z_BN.device
    word_BW = torch.empty(rows, chunks * WORDS, dtype=torch.int32, device=device)
    count_BC = torch.empty(rows, chunks, dtype=torch.int32, device=device)
    _mark[(rows * chunks,)](z_BN, threshold_N, word_BW, count_BC, width, chunks, WORDS, **launch(2048))
    start_C1 = _starts(count_BC.view(-1))
    total = int(start_C1[-1])
    feature_F = torch.empty(total, dtype=torch.int64, device=device)
    value_F = torch.empty(total, dtype=torch.float32, device=device)
    _fill[(rows * chunks,)](z_BN, word_BW, start_C1, feature_F, value_F, width, chunks, WORDS, **launch(2048))
    return Firings(start_C1[:: max(chunks, 1)].contiguous(), feature_F, value_F)


def _starts(count_B: torch.Tensor) -> torch.Tensor:
    start_B1 = torch.zeros(len(count_B) + 1, dtype=torch.int64, device=count_B.device)
    torch.cumsum(count_B, 0, out=start_B1[1:])
    return start_B1


def _picked(
    bits_BX: torch.Tensor,
    k: int,
    candidates: int,
    group_BK: torch.Tensor | None = None,
    group_B: torch.Tensor | None = None,
    size: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Indices (rising) and bits of the k largest of each row, and how many they are; what is beyond is undefined.

    With groups, only entries of the first group_B[b] groups of group_BK[b] are candidates.
    """
    rows, width = bits_BX.shape
    index_BK = torch.empty(rows, k, dtype=torch.int64, device=bits_BX.device)
    bits_BK = torch.empty(rows, k, dtype=torch.int32, device=bits_BX.device)
    count_B = torch.empty(rows, dtype=torch.int32, device=bits_BX.device)
    block = min(HELD, max(32, triton.next_power_of_2(candidates)))
    grouped = group_BK is not None
    _pick[(rows,)](
        bits_BX,
        group_BK if grouped else index_BK,
        group_B if grouped else count_B,
        index_BK,
        bits_BK,
        count_B,
        width,
        k,
        size,
        grouped,
        block,
        triton.cdiv(candidates, block),
        **launch(block),
    )
    return index_BK, bits_BK, count_B


@triton.jit
def _key(bits):
    """An int32 that orders like the number, 0 where it is not above 0; a key is its own key."""
    return tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7FFFFFFF, tl.maximum(bits, 0))


@triton.jit
def _peaks(bits_BN, peak_BG, N, groups, chunks, GROUPS: tl.constexpr, SIZE: tl.constexpr):
    row = (tl.program_id(0) // chunks).to(tl.int64)
    group = (tl.program_id(0) % chunks) * GROUPS + tl.arange(0, GROUPS)
    index = group[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    bits = tl.load(bits_BN + row * N + index, mask=index < N, other=0)
    tl.store(peak_BG + row * groups + group, tl.max(_key(bits), 1), mask=group < groups)


@triton.jit
def _candidates(bits_X, group_K, slot, span, N, SIZE: tl.constexpr, GROUPED: tl.constexpr):
    """Index, bits and key of candidates by their number."""
    index = slot
    if GROUPED:
        index = tl.load(group_K + slot // SIZE, mask=slot < span, other=0).to(tl.int32) * SIZE + slot % SIZE
    bits = tl.load(bits_X + index, mask=(slot < span) & (index < N), other=0)
    return index, bits, _key(bits)


@triton.jit
def _pick(
    bits_BX, group_BK, group_B, index_BK, out_BK, count_B, N, k,
    SIZE: tl.constexpr, GROUPED: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    bits_X, group_K = bits_BX + row * N, group_BK + row * k
    span = tl.load(group_B + row) * SIZE if GROUPED else N
    slot = tl.arange(0, BLOCK)
    _, _, key = _candidates(bits_X, group_K, slot, span, N, SIZE, GROUPED)
    kth = tl.full((), 0, tl.int32)  # the k-th largest key: the largest that at least k candidates reach
    for step in range(31):
        trial = kth | (1 << (30 - step))
        reached = tl.sum((key >= trial).to(tl.int32))
        for block in range(1, BLOCKS):
            _, _, other = _candidates(bits_X, group_K, block * BLOCK + slot, span, N, SIZE, GROUPED)
            reached += tl.sum((other >= trial).to(tl.int32))
        kth = tl.where(reached >= k, trial, kth)
    larger = tl.sum((key > kth).to(tl.int32))
    for block in range(1, BLOCKS):
        _, _, other = _candidates(bits_X, group_K, block * BLOCK + slot, span, N, SIZE, GROUPED)
        larger += tl.sum((other > kth).to(tl.int32))
    ties, written = tl.full((), 0, tl.int32), tl.full((), 0, tl.int32)
    for block in range(BLOCKS):
        index, bits, key = _candidates(bits_X, group_K, block * BLOCK + slot, span, N, SIZE, GROUPED)
        tie = ((key == kth) & (kth > 0)).to(tl.int32)
        kept = (key > kth) | ((tie > 0) & (ties + tl.cumsum(tie, 0) <= k - larger))
        place = row * k + written + tl.cumsum(kept.to(tl.int32), 0) - 1
        tl.store(index_BK + place, index, mask=kept)
        tl.store(out_BK + place, bits, mask=kept)
        ties += tl.sum(tie)
        written += tl.sum(kept.to(tl.int32))
    tl.store(count_B + row, written)


@triton.jit
def _mark(z_BN, threshold_N, word_BW, count_BC, N, chunks, WORDS: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    row, chunk = program // chunks, program % chunks
    bit = tl.arange(0, 32)[None, :]
    index = (chunk * WORDS + tl.arange(0, WORDS))[:, None] * 32 + bit
    z = tl.load(z_BN + row * N + index, mask=index < N, other=0.0)
    threshold = tl.load(threshold_N + index, mask=index < N, other=0.0)
    kept = ((z <= threshold) == 0).to(tl.int32)  # what is beyond N is 0 ≤ 0
    tl.store(word_BW + program * WORDS + tl.arange(0, WORDS), tl.sum(kept << bit, 1))
    tl.store(count_BC + program, tl.sum(kept))


@triton.jit
def _ones(word):
    """How many bits of an int32 are set."""
    pairs = word - ((word >> 1) & 0x55555555)
    fours = (pairs & 0x33333333) + ((pairs >> 2) & 0x33333333)
    bytes_ = (fours + (fours >> 4)) & 0x0F0F0F0F
    halves = bytes_ + (bytes_ >> 8)
    return (halves + (halves >> 16)) & 63


@triton.jit
def _fill(z_BN, word_BW, start_C1, feature_F, value_F, N, chunks, WORDS: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    row, chunk = program // chunks, program % chunks
    number = tl.arange(0, WORDS)
    word = tl.load(word_BW + program * WORDS + number)
    ones = _ones(word)
    place = tl.load(start_C1 + program) + tl.cumsum(ones, 0) - ones
    for _ in range(tl.max(ones)):
        lowest = word & -word
        exponent = (lowest.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 255  # of a power of 2: 127 + its place
        index = (chunk * WORDS + number) * 32 + exponent - 127
        tl.store(feature_F + place, index, mask=word != 0)
        tl.store(value_F + place, tl.load(z_BN + row * N + index, mask=word != 0, other=0.0), mask=word != 0)
        word ^= lowest
        place += 1
