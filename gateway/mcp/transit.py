"""How much of upstreams' answers is on its way to clients, from when it is read until it has been sent.

A client that asks for large answers and does not read them would otherwise take all of the memory. Small ones are not
counted: they fit into the buffers that each connection has anyway.
"""

from __future__ import annotations

from typing import Final

from gateway.mcp.sessions import NOBODY, Owner
from gateway.mcp.upstream import UpstreamError
from gateway.model import Deny, Reason, Refused

SMALL: Final = 64 * 1024
"""Bytes of an answer up to which it is not counted."""
MAX_BYTES: Final = 256 * 1024 * 1024
MAX_BYTES_OF_ONE: Final = 64 * 1024 * 1024
"""Of them, of one client, or of one network where the callers are anonymous."""
MAX_BYTES_ANONYMOUS: Final = 128 * 1024 * 1024
"""Of them, of all anonymous callers together."""
_UNREAD: Final = "Too much is on its way to you: read the answers to your other calls first."
_CROWDED: Final = "Too many large answers are on their way to clients: try later."


class Transit:
    """The answers to all clients."""

    def __init__(self) -> None:
        self._bytes = 0
        self._anonymous = 0
        self._of: dict[Owner, int] = {}

    @property
    def size(self) -> int:
        """Bytes that are counted now."""
        return self._bytes

    def parcel(self, owner: Owner) -> Parcel:
        """What will count the answer to one call. Raises Refused for a client that has no room for any."""
        if self._of and self._of.get(owner, 0) >= MAX_BYTES_OF_ONE - SMALL:
            raise Refused(Deny(Reason.RATE_LIMITED, _UNREAD, retry_after=1.0))
        return Parcel(self, owner)

    def add(self, owner: Owner, size: int) -> None:
        """So many bytes more are kept for that client. Raises UpstreamError where that is too much."""
        of_one = self._of.get(owner, 0) + size
        if of_one > MAX_BYTES_OF_ONE:
            raise UpstreamError(Reason.RATE_LIMITED, f"{_UNREAD} This call was made, its answer is lost.")
        nobodys = size if owner[0] == NOBODY else 0
        if self._bytes + size > MAX_BYTES or (nobodys and self._anonymous + size > MAX_BYTES_ANONYMOUS):
            raise UpstreamError(Reason.RATE_LIMITED, f"{_CROWDED} This call was made, its answer is lost.")
        self._of[owner] = of_one
        self._bytes += size
        self._anonymous += nobodys

    def remove(self, owner: Owner, size: int) -> None:
        """So many bytes have been sent, or thrown away."""
        self._bytes -= size
        if owner[0] == NOBODY:
            self._anonymous -= size
        self._of[owner] -= size
        if not self._of[owner]:
            del self._of[owner]


class Parcel:
    """The answer to one call."""

    __slots__ = ("_delivered", "_size", "_transit", "owner")

    def __init__(self, transit: Transit, owner: Owner) -> None:
        self._transit = transit
        self.owner = owner
        """With whom it is counted."""
        self._size = 0
        self._delivered = False

    def grow_to(self, size: int) -> None:
        """So many bytes of it are here. Raises UpstreamError where that is too much."""
        if size > self._size and size > SMALL and not self._delivered:
            self._transit.add(self.owner, size - self._size)
            self._size = size

    def delivered(self) -> None:
        """It has been sent, or thrown away; what comes after that is another's."""
        self._delivered = True
        if self._size:
            self._transit.remove(self.owner, self._size)
            self._size = 0
