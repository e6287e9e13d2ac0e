"""Hold the answers of chat and embeddings requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from lava_mistral.calls.embedding_answer import EmbeddingAnswer as EmbeddingAnswer
from lava_mistral.mistral.turn import Turn
from lava_mistral.mistral.types import Usage
from lava_mistral.pricing.cost import cost_of
from lava_mistral.transport.request import Headers


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, read to its end."""

    status: int
    headers: Headers
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Completion:
    """One answered chat request: a turn for each choice, usage as Mistral counted it, Lava's id of the request.

    `raw` is the body as it came; `headers` are the answer's, the rate limits among them, under names in any case.
    """

    id: str
    model: str
    created: int
    turns: tuple[Turn, ...]
    usage: Usage | None
    request_id: str | None
    raw: dict[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    requested_model: str = field(default="", repr=False)

    @property
    def turn(self) -> Turn:
        """The first choice's turn."""
        return self.turns[0]

    @property
    def text(self) -> str:
        """The first choice's text."""
        return self.turns[0].text

    @property
    def cost(self) -> Decimal | None:
        """What the call cost in USD by the catalogue's prices; `None` where they are not known."""
        return cost_of(self.usage, self.requested_model, self.model)
