"""Arrays in memory that two processes see; it grows when they do."""

import math
import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Parts = tuple[tuple[str, tuple[int, ...]], ...]
"""Dtype and shape of each array; they lie one after the other, each at a multiple of 64 bytes."""

_ALIGNMENT = 64


class SharedMemory:
    """One side of memory behind a file descriptor; the sides take turns.

    Args:
        descriptor: Of the file, of which the memory takes care from now on.

    Example:
        >>> memory = SharedMemory.create()
        >>> parts = memory.write([np.arange(3, dtype=np.int8), np.ones((1, 2), np.float32)])
        >>> [view.tolist() for view in memory.views(parts)]
        [[0, 1, 2], [[1.0, 1.0]]]
        >>> memory.close()
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    @classmethod
    def create(cls) -> Self:
        """Make memory that no name leads to."""
        if hasattr(os, "memfd_create"):
            return cls(os.memfd_create("fieldloop"))
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)  # noqa: PTH108 - a descriptor's neighbour, no path of ours
        return cls(descriptor)

    def write(self, arrays: Sequence[NDArray[Any]]) -> Parts:
        """Copy arrays in, over what was there; returns what `views` needs."""
        parts = tuple((array.dtype.name, array.shape) for array in arrays)
        for view, array in zip(self.views(parts), arrays, strict=True):
            view[...] = array
        return parts

    def views(self, parts: Parts) -> list[NDArray[Any]]:
        """Return the arrays where they lie; they change with the next `write` of either side."""
        types = [np.dtype(name) for name, _ in parts]
        sizes = [math.prod(part[1]) * dtype.itemsize for part, dtype in zip(parts, types)]  # noqa: B905 - the same length, in the hottest path
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
        memory = self._at_least(starts[-1])
        return [
            np.ndarray(part[1], dtype, memory, start)
            for part, dtype, start in zip(parts, types, starts, strict=False)
        ]

    def close(self) -> None:
        """Let go; views that are still held keep the memory alive."""
        self._map = None
        os.close(self.descriptor)

    def _at_least(self, size: int) -> mmap.mmap:
        if self._map is None or len(self._map) < size:
            wanted = max(size, mmap.PAGESIZE)
            if os.fstat(self.descriptor).st_size < wanted:
                os.ftruncate(self.descriptor, wanted)
            self._map = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        return self._map
