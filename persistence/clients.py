"""The clients, in memory by client_id and by certificate id; changes go through the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from persistence.changes import ClientPut, ClientRemoved
from persistence.journal import Journal
from persistence.large import in_lines
from persistence.records import ClientRecord, StoreError


class JsonClients:
    """``ClientStore`` of the json backend. A write is seen by readers once it is durable."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._clients: dict[str, ClientRecord] = {}
        self._by_certificate: dict[str, str] = {}
        self._writing: asyncio.Future[None] | None = None
        self.changed = False
        """Whether something was applied since the owner last set this to False."""

    def __len__(self) -> int:
        return len(self._clients)

    def get(self, client_id: str) -> ClientRecord | None:
        """The client of that name, disabled and erased ones included."""
        return self._clients.get(client_id)

    def by_certificate(self, certificate_id: str) -> ClientRecord | None:
        """The client whose certificates yield ``certificate_id``, disabled and erased ones included."""
        client_id = self._by_certificate.get(certificate_id)
        return None if client_id is None else self._clients[client_id]

    def __iter__(self) -> Iterator[ClientRecord]:
        return iter(sorted(self._clients.values(), key=lambda record: record.client_id))

    def lines(self) -> Iterator[bytes]:
        """All clients as newline-terminated JSON, as they are now, some at a time.

        Those of one instant, lest a certificate id be read as that of the client that gave it up and of the one that took it.
        """
        return in_lines(list(self._clients.values()))

    async def put(self, record: ClientRecord) -> None:
        """Insert or replace.

        One at a time, so that two waiting writes cannot give one certificate id to two clients.

        Raises:
            StoreError: Another client (an erased one too) has that certificate id, or the write is not durable.
        """
        while self._writing is not None and not self._writing.done():
            await asyncio.wait((self._writing,))
        self.check(record)
        self._writing = self._journal.append(ClientPut(record))
        await asyncio.shield(self._writing)

    async def remove(self, client_id: str) -> None:
        """Forget the client. Raises StoreError where the write is not durable."""
        await self._journal.append(ClientRemoved(client_id))

    def check(self, record: ClientRecord) -> None:
        """Raises StoreError where another client has the record's certificate id."""
        if record.certificate is None:
            return
        holder = self._by_certificate.get(record.certificate)
        if holder is not None and holder != record.client_id:
            raise StoreError(
                f"the certificate id {record.certificate!r} already belongs to client {holder!r}"
            )

    def apply(self, change: ClientPut | ClientRemoved) -> None:
        """Take over what is durable."""
        self.changed = True
        if isinstance(change, ClientRemoved):
            gone = self._clients.pop(change.client_id, None)
            if gone is not None and gone.certificate is not None:
                self._by_certificate.pop(gone.certificate, None)
            return
        record = change.record
        before = self._clients.get(record.client_id)
        if before is not None and before.certificate is not None and before.certificate != record.certificate:
            del self._by_certificate[before.certificate]
        if record.certificate is not None:
            self._by_certificate[record.certificate] = record.client_id
        self._clients[record.client_id] = record
