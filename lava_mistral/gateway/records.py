"""What arrived at the gateway, in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import httpx

from lava_mistral.mistral.types import Usage

Outcome = Literal["pending", "completed", "error"]
Payer = Literal["merchant", "customer", "nobody"]


@dataclass(slots=True)
class RequestRecord:
    """One request to `/v1/forward` and what became of it.

    Attributes:
        path: the provider's path, such as `"/v1/chat/completions"`; empty where `u` was missing.
        method: the HTTP method.
        body: the parsed body; `None` for a GET, for a body that is no JSON, under `keep_bodies=False`, and for the
            oldest when all bodies together pass 64 MB.
        headers: the request's headers, the credential among them; names are found in whatever case.
        credential: the decoded forward token, or `{"secret_key": …}`; empty where it was not understood.
        metadata: what came in `x-lava-metadata` or the query.
        request_id: the id that went back in `x-lava-request-id`.
        status: the HTTP status of the answer; `None` while there is none, and where the connection was reset.
        cost: what the tokens cost by the catalogue, in USD, exact; 0 for what failed.
        charge: what was taken from the payer's balance; 0 where the own provider key paid for the tokens.
        payer: whose balance the charge was taken from.
        usage: the provider's count of tokens, where the answer held one.
        model: the model of the request.
        streamed: whether a stream was asked for.
        outcome: `"pending"` until the answer is complete; `"error"` where it failed or was broken off.
        created_at: when it arrived, a POSIX timestamp.
        completed_at: when the answer was complete, a POSIX timestamp.
    """

    request_id: str
    method: str
    headers: httpx.Headers
    created_at: float
    path: str = ""
    body: Any = None
    credential: dict[str, Any] = field(default_factory=dict, repr=False)
    metadata: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    cost: Decimal = Decimal(0)
    charge: Decimal = Decimal(0)
    payer: Payer = "nobody"
    usage: Usage | None = None
    model: str = ""
    streamed: bool = False
    response_id: str | None = None
    outcome: Outcome = "pending"
    completed_at: float | None = None

    def finish(self, outcome: Outcome) -> None:
        """Note how it ended, unless that is known already."""
        if self.outcome == "pending":
            self.completed_at = time.time()
            self.outcome = outcome

    @property
    def customer_id(self) -> str | None:
        """The customer that the request was made for."""
        return self.credential.get("customer_id")

    @property
    def meter_slug(self) -> str | None:
        """The meter that the usage counts on."""
        return self.credential.get("meter_slug")

    @property
    def kind(self) -> str:
        """`"chat"`, `"embeddings"` or `"other"`."""
        if self.path.endswith("/chat/completions"):
            return "chat"
        return "embeddings" if self.path.endswith("/embeddings") else "other"


BODY_BYTES = 64_000_000
"""How much of requests' bodies is kept, as they came over the wire."""


class RequestLog:
    """The newest records, oldest first; safe to read while requests arrive.

    Args:
        keep: how many records are kept.
        body_bytes: how much of their bodies is kept; the oldest bodies go first.
    """

    def __init__(self, keep: int, body_bytes: int = BODY_BYTES) -> None:
        self._lock = threading.Lock()
        self._records: deque[RequestRecord] = deque(maxlen=keep)
        self._by_id: dict[str, RequestRecord] = {}
        self._room = body_bytes
        self._bodies: deque[tuple[RequestRecord, int]] = deque()

    def add(self, record: RequestRecord, size: int) -> None:
        """Append a record, whose body came in so many bytes; the oldest goes when there are too many."""
        with self._lock:
            if len(self._records) == self._records.maxlen:
                del self._by_id[self._records[0].request_id]
            self._records.append(record)
            self._by_id[record.request_id] = record
            if record.body is not None:
                self._bodies.append((record, size))
                self._room -= size
                while self._room < 0 and len(self._bodies) > 1:
                    oldest, freed = self._bodies.popleft()
                    oldest.body = None
                    self._room += freed

    def all(self) -> list[RequestRecord]:
        """A copy of the list, oldest first."""
        with self._lock:
            return list(self._records)

    def get(self, request_id: str) -> RequestRecord | None:
        """The record of that id, while it is kept."""
        return self._by_id.get(request_id)

    def newest_first(self, wanted: Callable[[RequestRecord], bool]) -> Iterator[RequestRecord]:
        """The records that are wanted, newest first."""
        return (record for record in reversed(self.all()) if wanted(record))

    def clear(self) -> None:
        """Forget all records."""
        with self._lock:
            self._records.clear()
            self._by_id.clear()
            self._room += sum(size for _, size in self._bodies)
            self._bodies.clear()
