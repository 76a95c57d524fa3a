"""How many connections there may be, in all and of one address. Pure: nothing here knows a socket."""

from __future__ import annotations

from collections import Counter


class Places:
    """The places of a listener."""

    def __init__(self, most: int, most_of_one: int) -> None:
        """``most``: in all; ``most_of_one``: of one address (of one /64 in IPv6)."""
        self._most = most
        self._most_of_one = most_of_one
        self._taken: Counter[str] = Counter()
        self._all = 0

    def __len__(self) -> int:
        """How many are taken."""
        return self._all

    def take(self, network: str) -> Place | str:
        """A place; where there is none, the reason."""
        if self._all >= self._most:
            return "too_many_connections"
        if self._taken[network] >= self._most_of_one:
            return "too_many_connections_of_one_address"
        self._taken[network] += 1
        self._all += 1
        return Place(self, network)

    def give_back(self, network: str) -> None:
        """For ``Place`` alone."""
        self._all -= 1
        self._taken[network] -= 1
        if not self._taken[network]:
            del self._taken[network]


class Place:
    """One connection's place, from the moment it is accepted to its end."""

    __slots__ = ("_network", "_places")

    def __init__(self, places: Places, network: str) -> None:
        self._places: Places | None = places
        self._network = network

    def leave(self) -> None:
        """Give it back; a second call does nothing."""
        places, self._places = self._places, None
        if places is not None:
            places.give_back(self._network)
