"""Hold the answer of an embeddings request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lava_mistral.billing.identity import BillingContext
from lava_mistral.mistral.types import EmbeddingResponse


@dataclass(frozen=True)
class EmbeddingAnswer:
    """One answered embeddings request, unchecked: the parsed body, the headers, and Lava's id of the request."""

    response: EmbeddingResponse = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    request_id: str | None
    identity: BillingContext = field(default_factory=BillingContext, repr=False)
