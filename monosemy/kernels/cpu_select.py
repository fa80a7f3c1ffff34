"""Selection on the CPU: the k largest of each row, or all above a threshold, and the sort of firings by feature.

Top k by group maxima: the k-th largest of the maxima of groups of neighbours is a lower bound of the k-th largest
entry, so the row is read once and then only the groups whose maximum reaches the bound. Both k-th largest values are
found by halving an interval of integers and counting, which has few branches that depend on the data. fp32 numbers
above 0 are ordered as their bits are ordered as integers; NaN of either sign is put above infinity.

A group's size is an argument: loops of a known, small length are unrolled before they could become vector code.

Shapes: those of `firings.py`; J candidates of a row.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from monosemy.kernels.cpu_compile import Bits, Floats, Ints, inner, kernel

SMALL_GROUP, LARGE_GROUP = 16, 64  # neighbours in a row that share a maximum or a count
INFINITY = np.int32(0x7F800000)
NAN = np.int32(0x7FFFFFFF)  # above infinity, and what is left of a number's bits without its sign


def group_for(width: int, k: int) -> int:
    """Neighbours to a group: maxima to search and entries of the chosen groups to look at, about in balance."""
    group = SMALL_GROUP
    while group < LARGE_GROUP and group * group * k < width:
        group *= 2
    return group


@inner
def key(bits: np.int32) -> np.int32:
    """An integer ordered as the numbers above 0 are; not above 0 for what is never kept."""
    return NAN if np.int32(bits & NAN) > INFINITY else bits


@inner
def count_from(keys: Bits, count: int, least: np.int32) -> np.int32:
    """How many of the first `count` keys are at least `least`."""
    found = np.int32(0)
    for j in range(count):
        found = np.int32(found + np.int32(keys[j] >= least))
    return found


@inner
def kth_largest(keys: Bits, count: int, k: int, slack: int) -> np.int32:
    """The largest number that at least k keys reach, or one that k to k + slack do; 1 if fewer than k are above 0."""
    low, low_count = np.int64(1), count_from(keys, count, np.int32(1))
    high = np.int64(0)
    for j in range(count):
        high = max(high, np.int64(keys[j]))
    high += 1
    while low_count > k + slack and high - low > 1:
        middle = (low + high) // 2
        found = count_from(keys, count, np.int32(middle))
        if found >= k:
            low, low_count = middle, found
        else:
            high = middle
    return np.int32(low)


@inner
def group_maxima(bits_BN: Bits, b: int, group: int, maxima: Bits) -> None:
    """The largest key of each `group` neighbours in row b."""
    width = bits_BN.shape[1]
    whole = width // group
    for i in range(whole):
        largest = np.int32(0)
        for j in range(group):
            largest = max(largest, key(bits_BN[b, i * group + j]))
        maxima[i] = largest
    if whole < len(maxima):
        largest = np.int32(0)
        for j in range(whole * group, width):
            largest = max(largest, key(bits_BN[b, j]))
        maxima[whole] = largest


@inner
def candidates(bits_BN: Bits, b: int, group: int, maxima: Bits, least: np.int32, keys: Bits, places: Bits) -> int:
    """Write the keys of row b that are at least `least`, and their places, in order; how many there are."""
    width, count = bits_BN.shape[1], 0
    for i in range(len(maxima)):
        if maxima[i] >= least:
            for j in range(i * group, min((i + 1) * group, width)):
                found = key(bits_BN[b, j])
                if found >= least:
                    keys[count], places[count] = found, j
                    count += 1
    return count


@kernel
def topk(
    parts: int, group: int, z_BN: Floats, bits_BN: Bits, k: int, feature_BK: Ints, value_BK: Floats, count_B: Ints
) -> None:
    """The firings of each row from the row's start on, and how many they are."""
    rows, width = z_BN.shape
    groups = (width + group - 1) // group
    for part in prange(parts):
        maxima = np.empty(groups, np.int32)
        keys, places = np.empty(width, np.int32), np.empty(width, np.int32)
        for b in range(rows * part // parts, rows * (part + 1) // parts):
            group_maxima(bits_BN, b, group, maxima)
            bound = kth_largest(maxima, groups, k, k // 4 + 4)
            found = candidates(bits_BN, b, group, maxima, bound, keys, places)
            least = kth_largest(keys, found, k, 0)
            equals = k - int(count_from(keys, found, np.int32(least + 1))) if least < NAN else k
            kept = 0
            for j in range(found):
                if keys[j] > least or (keys[j] == least and equals > 0):
                    equals -= int(keys[j] == least)
                    feature_BK[b, kept], value_BK[b, kept] = places[j], z_BN[b, places[j]]
                    kept += 1
            count_B[b] = kept


@inner
def running_total(start_B1: Ints) -> None:
    """Counts, which stand one place late, to starts."""
    start_B1[0] = 0
    for b in range(1, len(start_B1)):
        start_B1[b] += start_B1[b - 1]


@kernel
def pack(feature_BK: Ints, value_BK: Floats, start_B1: Ints, feature_F: Ints, value_F: Floats) -> None:
    """Rows of unequal length one after the other."""
    for b in prange(len(start_B1) - 1):
        for j in range(start_B1[b + 1] - start_B1[b]):
            feature_F[start_B1[b] + j], value_F[start_B1[b] + j] = feature_BK[b, j], value_BK[b, j]


@kernel
def count_above(group: int, z_BN: Floats, threshold_N: Floats, in_group_BX: Bits, start_B1: Ints) -> None:
    """How many entries of each group are not at or below their threshold, and where the rows' firings start."""
    rows, width = z_BN.shape
    whole = width // group
    for b in prange(rows):
        total = 0
        for i in range(whole):
            found = np.int32(0)
            for j in range(group):
                found = np.int32(found + np.int32(not z_BN[b, i * group + j] <= threshold_N[i * group + j]))
            in_group_BX[b, i] = found
            total += int(found)
        if whole < in_group_BX.shape[1]:
            found = np.int32(0)
            for j in range(whole * group, width):
                found = np.int32(found + np.int32(not z_BN[b, j] <= threshold_N[j]))
            in_group_BX[b, whole] = found
            total += int(found)
        start_B1[b + 1] = total
    running_total(start_B1)


@kernel
def write_above(
    group: int, z_BN: Floats, threshold_N: Floats, in_group_BX: Bits, start_B1: Ints, feature_F: Ints, value_F: Floats
) -> None:
    """The entries that `count_above` counted."""
    rows, width = z_BN.shape
    for b in prange(rows):
        place = start_B1[b]
        for i in range(in_group_BX.shape[1]):
            if in_group_BX[b, i] > 0:
                for j in range(i * group, min((i + 1) * group, width)):
                    if not z_BN[b, j] <= threshold_N[j]:
                        feature_F[place], value_F[place] = j, z_BN[b, j]
                        place += 1


@kernel
def columns(start_B1: Ints, feature_F: Ints, start_XN: Ints, start_N1: Ints, row_F: Ints, place_F: Ints) -> None:
    """A counting sort by feature; each of X ranges of rows is counted and written by one thread, in order."""
    parts, width = start_XN.shape
    rows = len(start_B1) - 1
    for part in prange(parts):
        start_XN[part] = 0
        for f in range(start_B1[rows * part // parts], start_B1[rows * (part + 1) // parts]):
            start_XN[part, feature_F[f]] += 1
    before = 0
    for n in range(width):
        start_N1[n] = before
        for part in range(parts):
            count = start_XN[part, n]
            start_XN[part, n] = before
            before += count
    start_N1[width] = before
    for part in prange(parts):
        for b in range(rows * part // parts, rows * (part + 1) // parts):
            for f in range(start_B1[b], start_B1[b + 1]):
                place = start_XN[part, feature_F[f]]
                start_XN[part, feature_F[f]] = place + 1
                row_F[place], place_F[place] = b, f
