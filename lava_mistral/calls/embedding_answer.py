"""Hold the answer of an embeddings request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class EmbeddingAnswer:
    """One answered embeddings request, unchecked: the parsed body, the headers, and Lava's id of the request."""

    response: dict[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    request_id: str | None
