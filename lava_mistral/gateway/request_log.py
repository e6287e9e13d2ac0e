"""What arrived at the gateway, in order."""

import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

import httpx
import orjson

from lava_mistral.mistral.types import Usage

KINDS = ("chat", "embeddings", "models", "other")  # What a request may be for; see `RequestRecord.kind`.


@dataclass(slots=True)
class RequestRecord:
    """One request to `/v1/forward` and what became of it; times are POSIX timestamps, amounts exact USD."""

    request_id: str  # What went back in x-lava-request-id.
    method: str
    raw_headers: tuple[tuple[bytes, bytes], ...] = field(repr=False)  # As they came, the credential among them.
    created_at: float
    path: str = ""  # The provider's; empty where `u` was missing.
    raw_body: bytes = field(default=b"", repr=False)  # Empty where it is not kept.
    credential: dict[str, Any] = field(default_factory=dict, repr=False)  # The forward token's fields, or secret_key.
    metadata: dict[str, str] = field(default_factory=dict)
    status: int | None = None  # None while there is no answer, and where the connection was reset.
    cost: Decimal = Decimal(0)  # Of the tokens, by the catalogue; 0 for what failed.
    charge: Decimal = Decimal(0)  # Taken from the payer; 0 where the own provider key paid for the tokens.
    payer: Literal["merchant", "customer", "nobody"] = "nobody"
    usage: Usage | None = None  # Where the answer held one.
    model: str = ""
    streamed: bool = False  # Whether a stream was asked for.
    response_id: str | None = None
    outcome: Literal["pending", "completed", "error"] = "pending"
    completed_at: float | None = None

    def finish(self, outcome: Literal["completed", "error"]) -> None:
        if self.outcome == "pending":
            self.completed_at, self.outcome = time.time(), outcome

    @property
    def headers(self) -> httpx.Headers:
        """The request's headers; names are found in whatever case."""
        return httpx.Headers(self.raw_headers)

    @property
    def body(self) -> Any:
        """The parsed body; `None` where there is none, or no JSON."""
        # Parsed anew each time: held as objects, bodies take ten times their bytes.
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(self.raw_body)
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
        kind = self.path.removeprefix("/v1/").partition("/")[0]
        return kind if kind in KINDS else "other"


class RequestLog:
    """The newest `keep` records, oldest first, with so many bytes of bodies; safe to read while requests arrive."""

    def __init__(self, keep: int, body_bytes: int = 32_000_000) -> None:
        self._lock = threading.Lock()
        self._keep, self._body_bytes = keep, body_bytes
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self._records: deque[RequestRecord] = deque(maxlen=self._keep)
            self._bodies: deque[RequestRecord] = deque()
            self._held = 0

    def add(self, record: RequestRecord) -> None:
        """Append a record; the oldest goes when there are too many, and the oldest bodies when they are too large."""
        with self._lock:
            self._records.append(record)
            self._bodies.append(record)
            self._held += len(record.raw_body)
            while len(self._bodies) > self._keep or (self._held > self._body_bytes and len(self._bodies) > 1):
                oldest = self._bodies.popleft()
                self._held -= len(oldest.raw_body)
                oldest.raw_body = b""

    def all(self) -> list[RequestRecord]:
        with self._lock:
            return list(self._records)
