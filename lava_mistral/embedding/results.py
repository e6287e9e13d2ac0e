"""Hold what a call of the embedding engine gives: vectors, what they cost, and how far it came where it ended early."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from lava_mistral._text import whole_characters
from lava_mistral.billing.credentials import Billing
from lava_mistral.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from lava_mistral.embedding.decoding import Rows

Vector: TypeAlias = Any
"""A vector on its way: a list of floats, an array or a numpy row."""


@dataclass(frozen=True)
class EmbeddingUsage:
    """What a call of the engine has taken.

    Attributes:
        tokens: as Mistral counted them, of every answer that was paid for.
        cost: USD by the catalogue's prices; `None` where they are not known.
        requests: how many were sent, the retries included.
        retries: how many of them repeated a failed one.
        duplicates: texts that were not sent, since an equal one was.
        request_ids: Lava's ids; of a stream, the latest 1,000.
    """

    tokens: int = 0
    cost: Decimal | None = Decimal(0)
    requests: int = 0
    retries: int = 0
    duplicates: int = 0
    request_ids: tuple[str, ...] = field(default=(), repr=False)

    def __add__(self, other: EmbeddingUsage) -> EmbeddingUsage:
        return EmbeddingUsage(
            self.tokens + other.tokens,
            None if self.cost is None or other.cost is None else self.cost + other.cost,
            self.requests + other.requests,
            self.retries + other.retries,
            self.duplicates + other.duplicates,
            self.request_ids + other.request_ids,
        )


@dataclass(frozen=True)
class EmbeddingProgress:
    """How far a call has come: `done` of `total` inputs (`None` where it is not known) for this `usage`."""

    done: int
    total: int | None
    usage: EmbeddingUsage


OnProgress: TypeAlias = Callable[[EmbeddingProgress], object]
"""Told after each request how far an ingestion has come."""


@dataclass(frozen=True)
class EmbeddingResult(EmbeddingUsage):
    """Vectors in the order of the texts (lists of floats, or one float32 array), and what they took."""

    vectors: Any = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class EmbeddingSpec:
    """Name what makes vectors: those of different specs can't be compared; `dimensions` may be unknown."""

    model: str
    dimensions: int | None
    dtype: str = "float"

    def __str__(self) -> str:
        size = "" if self.dimensions is None else f" with {self.dimensions:,} dimensions"
        return f"{self.model}{size}" + ("" if self.dtype == "float" else f" as {self.dtype}")


@dataclass(frozen=True)
class PartialEmbedding:
    """What was done when a call ended early; `error.partial`, to be given as `resume_from=` to the next call.

    Attributes:
        next_index: for a stream, the first index that was not handed on; what comes before it is not needed again.
        usage: what it took.
        spec: what made the vectors; `None` where the caller answers for that.
    """

    rows: dict[int, Vector] = field(repr=False)
    digests: dict[int, bytes] = field(repr=False)
    next_index: int = 0
    usage: EmbeddingUsage = field(default_factory=EmbeddingUsage)
    spec: EmbeddingSpec | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"PartialEmbedding({len(self.rows)} vectors, next_index={self.next_index}, {self.usage!r})"

    @property
    def vectors(self) -> dict[int, list[float]]:
        """The vectors by the index of their text, as lists of floats."""
        return {index: as_list(row) for index, row in self.rows.items()}

    def check(self, spec: EmbeddingSpec) -> None:
        """Raise a `ConfigurationError` where a call would mix these vectors with others."""
        if self.spec is not None and self.spec != spec and (self.rows or self.next_index):
            raise ConfigurationError(
                f"resume_from= holds vectors of {self.spec}, and this call makes those of {spec}: they can't be "
                "mixed. Go on with the model and the dimensions of the interrupted call, or leave resume_from= out."
            )

    def vector(self, index: int, text: str) -> Vector | None:
        """The vector of this input, or `None`; an `InvalidRequestError` where it was made from another text."""
        row = self.rows.get(index)
        if row is not None and self.digests.get(index) != digest(text):
            raise InvalidRequestError(
                f"input {index} is not the text that was embedded before the interruption",
                advice="Give resume_from= the same texts in the same order, or leave it out.",
            )
        return row


def known_vectors(
    texts: Sequence[Any], vectors: Mapping[str, Vector], besides: PartialEmbedding | None = None
) -> PartialEmbedding:
    """What a call can go on from where the `vectors` of some texts are known, `besides` what an earlier call got."""
    # An empty one may be sent as another text.
    known = {index: text for index, text in enumerate(texts) if isinstance(text, str) and text and text in vectors}
    rows = {index: vectors[text] for index, text in known.items()}
    digests = {index: digest(text) for index, text in known.items()}
    if besides is None:
        return PartialEmbedding(rows, digests)
    return replace(besides, rows=rows | besides.rows, digests=digests | besides.digests)


def partial_of(error: BaseException) -> PartialEmbedding | None:
    """What a call of the engine had got when this error ended it, or one that this error was raised for.

    `asyncio.wait_for`, say, raises a `TimeoutError` for the `CancelledError` that has it.
    """
    link: BaseException | None = error
    while link is not None:
        partial = getattr(link, "partial", None)
        if isinstance(partial, PartialEmbedding):
            return partial
        link = link.__cause__ or link.__context__
    return None


def digest(text: str) -> bytes:
    """Tell a text from another one, in 16 bytes; half surrogate pairs count as what is sent in their place."""
    sent = text if text.isascii() else whole_characters(text)
    return hashlib.blake2b(sent.encode(), digest_size=16).digest()


def as_list(row: Vector) -> list[float]:
    """A vector as a new list of Python floats."""
    values: list[float] = list(row) if isinstance(row, list) else row.tolist()
    return values


@dataclass(eq=False)
class BatchResult:
    """What became of a batch.

    Attributes:
        pieces: indexes and rows of the parts of the batch that are done, few enough to be converted at once.
        error: why the rest is not.
    """

    usage: EmbeddingUsage = field(default_factory=EmbeddingUsage)
    pieces: list[tuple[list[int], Rows]] = field(default_factory=list)
    error: BaseException | None = None


class EmbedOptions(TypedDict, total=False):
    """What every call of the engine takes beside its texts; see `LavaMistral.embed`."""

    billing: Billing | None
    lava_metadata: Mapping[str, str] | None
    as_numpy: bool
    show_progress: bool
    on_progress: OnProgress | None
    resume_from: PartialEmbedding | None
