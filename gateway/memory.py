"""Memory that is no longer in use goes back to the system: glibc keeps it otherwise, in pieces between what is in use."""

from __future__ import annotations

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_LARGE: Final = 1 << 20
"""Bytes of a block that is mapped by itself, and unmapped once it is free. Left alone, glibc raises this to 32 MiB."""


class Allocator:
    """The C library's ``malloc``, where it can be told anything (glibc); elsewhere nothing happens."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._trim = getattr(library, "malloc_trim", None)
        if self._trim is not None:
            library.mallopt(_M_MMAP_THRESHOLD, _LARGE)

    def give_back(self) -> None:
        """Return whole pages that are free; blocks for some milliseconds, without holding the interpreter up."""
        if self._trim is not None:
            self._trim(0)
