"""What arrived at the gateway, in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import httpx
import orjson

from lava_mistral.mistral.types import Usage

KINDS = ("chat", "embeddings", "models", "other")
"""What a request may be for; see `RequestRecord.kind`."""


@dataclass(slots=True)
class RequestRecord:
    """One request to `/v1/forward` and what became of it.

    Attributes:
        path: the provider's path, such as `"/v1/chat/completions"`; empty where `u` was missing.
        method: the HTTP method.
        raw_headers: the request's headers as they came, the credential among them.
        raw_body: its body as it came; empty for a GET, under `keep_bodies=False`, and for the oldest when all bodies
            together pass 32 MB.
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
    raw_headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    created_at: float
    path: str = ""
    raw_body: bytes = field(default=b"", repr=False)
    credential: dict[str, Any] = field(default_factory=dict, repr=False)
    metadata: dict[str, str] = field(default_factory=dict)
    status: int | None = None
    cost: Decimal = Decimal(0)
    charge: Decimal = Decimal(0)
    payer: Literal["merchant", "customer", "nobody"] = "nobody"
    usage: Usage | None = None
    model: str = ""
    streamed: bool = False
    response_id: str | None = None
    outcome: Literal["pending", "completed", "error"] = "pending"
    completed_at: float | None = None

    def finish(self, outcome: Literal["completed", "error"]) -> None:
        """Note how it ended, unless that is known already."""
        if self.outcome == "pending":
            self.completed_at = time.time()
            self.outcome = outcome

    @property
    def headers(self) -> httpx.Headers:
        """The request's headers; names are found in whatever case."""
        return httpx.Headers(self.raw_headers)

    @property
    def body(self) -> Any:
        """The parsed body; `None` where there is none, or no JSON."""
        # Parsed anew each time: held as objects, bodies take ten times their bytes.
        try:
            return orjson.loads(self.raw_body)
        except orjson.JSONDecodeError:
            return None

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
        """`"chat"`, `"embeddings"`, `"models"` or `"other"`."""
        ends = {"completions": "chat", "embeddings": "embeddings", "models": "models"}
        return ends.get((self.path.split("/") + [""] * 3)[3 if "/chat/" in self.path else 2], "other")


class RequestLog:
    """The newest records, oldest first; safe to read while requests arrive.

    Args:
        keep: how many records are kept.
        body_bytes: how much of their bodies is kept; the oldest bodies go first.
    """

    def __init__(self, keep: int, body_bytes: int = 32_000_000) -> None:
        self._lock = threading.Lock()
        self._keep, self._body_bytes = keep, body_bytes
        self.clear()

    def clear(self) -> None:
        """Forget all records."""
        with self._lock:
            self._records: dict[str, RequestRecord] = {}
            self._bodies: deque[RequestRecord] = deque()
            self._held = 0

    def add(self, record: RequestRecord) -> None:
        """Append a record; the oldest goes when there are too many, and the oldest bodies when they are too large."""
        with self._lock:
            if len(self._records) == self._keep:
                del self._records[next(iter(self._records))]
            self._records[record.request_id] = record
            if record.raw_body:
                self._bodies.append(record)
                self._held += len(record.raw_body)
            while len(self._bodies) > self._keep or (self._held > self._body_bytes and len(self._bodies) > 1):
                oldest = self._bodies.popleft()
                self._held -= len(oldest.raw_body)
                oldest.raw_body = b""

    def all(self) -> list[RequestRecord]:
        """Return a copy of the list, oldest first."""
        with self._lock:
            return list(self._records.values())

    def get(self, request_id: str) -> RequestRecord | None:
        """Return the record of that id, while it is kept."""
        return self._records.get(request_id)
