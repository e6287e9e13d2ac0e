"""What a call of the embedding engine is made of, apart from sending and waiting. Pure: no I/O, no sleep, no threads.

`Exchange` knows the conversation about one batch: ask, read, try again, split, change the encoding. It is a generator
that says what to do next, obeyed by a thread or by a task. `Collection` and `Flow` know one call: which texts are still
to be sent, which vectors are there, and, for a flow, which may be handed on in order.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from lava_mistral.billing import Identity
from lava_mistral.calls import EmbeddingAnswer
from lava_mistral.cost import cost_of
from lava_mistral.errors import ConfigurationError, InvalidRequestError, LavaError, ServerError
from lava_mistral.gate import Stopped
from lava_mistral.planning import (
    MAX_REQUEST_INPUTS,
    Batch,
    Calibration,
    Count,
    Inspector,
    Planner,
    name_inputs,
    too_long,
)
from lava_mistral.retry import Attempts, RetryPolicy
from lava_mistral.usage import CallEffort
from lava_mistral.vectors import NATIVE_DIMENSIONS, BadAnswer, UnreadableBase64, read_rows, to_lists
from lava_mistral.wire import known_usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lava_mistral.vectors import Rows

Encoding = Literal["float", "base64"]
Vector: TypeAlias = Any
"""A vector on its way: a list of floats, an array or a numpy row."""

_TOO_MANY: Final = "3210"
_TOO_MANY_TEXT: Final = re.compile(r"too many (?:tokens|inputs)|split into more batches", re.I)
_TOO_LONG: Final = re.compile(r"Input id (\d+) has (\d+) tokens")
_FINAL_CODES: Final = frozenset((_TOO_MANY, "1500"))


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


@dataclass(frozen=True)
class EmbeddingProgress:
    """How far a call has come: `done` of `total` inputs (`None` where it is not known) for this `usage`."""

    done: int
    total: int | None
    usage: EmbeddingUsage


@dataclass(frozen=True)
class EmbeddingResult(EmbeddingUsage):
    """Vectors in the order of the texts, and what they took.

    Attributes:
        vectors: lists of floats, or one float32 array of shape (texts, dimensions).
    """

    vectors: Any = field(default_factory=list, repr=False)


@dataclass(frozen=True, slots=True)
class Making:
    """What makes vectors: those of unlike makings have nothing to do with each other.

    Attributes:
        model: Mistral's name of the model.
        dimensions: how long the vectors are; `None` where only the answers tell.
    """

    model: str
    dimensions: int | None

    def __str__(self) -> str:
        return self.model if self.dimensions is None else f"{self.model} with {self.dimensions:,} dimensions"


@dataclass(frozen=True)
class PartialEmbedding:
    """What was done when a call ended early; `error.partial`, to be given as `resume_from=` to the next call.

    Attributes:
        next_index: for a stream, the first index that was not handed on; what comes before it is not needed again.
        usage: what it took.
        making: what made the vectors; `None` where the caller answers for that.
    """

    rows: dict[int, Vector] = field(repr=False)
    digests: dict[int, bytes] = field(repr=False)
    next_index: int = 0
    usage: EmbeddingUsage = field(default_factory=EmbeddingUsage)
    making: Making | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"PartialEmbedding({len(self.rows)} vectors, next_index={self.next_index}, {self.usage!r})"

    @property
    def vectors(self) -> dict[int, list[float]]:
        """The vectors by the index of their text, as lists of floats."""
        return {index: as_list(row) for index, row in self.rows.items()}

    def check(self, making: Making) -> None:
        """Check that a call which makes such vectors can go on from here.

        Raises:
            ConfigurationError: it would mix them with others.
        """
        if self.making is not None and self.making != making and (self.rows or self.next_index):
            raise ConfigurationError(
                f"resume_from= holds vectors of {self.making}, and this call makes those of {making}: they can't be "
                "mixed. Go on with the model and the dimensions of the interrupted call, or leave resume_from= out."
            )

    def vector(self, index: int, text: str) -> Vector | None:
        """The vector of this input, or `None` where it is still to be had.

        Raises:
            InvalidRequestError: it was made from another text.
        """
        row = self.rows.get(index)
        if row is not None and self.digests.get(index) != digest(text):
            raise InvalidRequestError(
                f"input {index} is not the text that was embedded before the interruption",
                advice="Give resume_from= the same texts in the same order, or leave it out.",
            )
        return row


def known_vectors(
    texts: Sequence[str], vectors: Mapping[str, Vector], besides: PartialEmbedding | None = None
) -> PartialEmbedding:
    """What a call can go on from where the vectors of some texts are known from elsewhere.

    Args:
        texts: those of the call.
        vectors: what is known, by text; the caller answers for the model that made them.
        besides: what an earlier call had got.
    """
    rows = {index: vectors[text] for index, text in enumerate(texts) if text in vectors}
    digests = {index: digest(texts[index]) for index in rows}
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
    """Tells a text from another one, in 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def as_list(row: Vector) -> list[float]:
    """A vector as a new list of Python floats."""
    values: list[float] = list(row) if isinstance(row, list) else row.tolist()
    return values


class Tally:
    """Adds up what a call takes."""

    def __init__(self, remembered: int | None = None) -> None:
        self.tokens = 0
        self.cost: Decimal | None = Decimal(0)
        self.requests = 0
        self.retries = 0
        self.duplicates = 0
        self.request_ids: deque[str] = deque(maxlen=remembered)

    def add(self, report: Report) -> None:
        """Add one batch."""
        self.tokens += report.tokens
        self.cost = None if self.cost is None or report.cost is None else self.cost + report.cost
        self.requests += report.requests
        self.retries += report.retries
        self.request_ids.extend(report.request_ids)

    def facts(self) -> dict[str, Any]:
        """The fields of an `EmbeddingUsage`."""
        return vars(self) | {"request_ids": tuple(self.request_ids)}


@dataclass(slots=True, eq=False)
class Report:
    """What became of a batch.

    Attributes:
        pieces: indexes and rows, one pair for each part of the batch that is done.
        error: why the rest is not.
    """

    batch: Batch
    pieces: list[tuple[list[int], Rows]] = field(default_factory=list)
    error: BaseException | None = None
    requests: int = 0
    retries: int = 0
    tokens: int = 0
    cost: Decimal | None = Decimal(0)
    request_ids: list[str] = field(default_factory=list)
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Send:
    """Send this batch; give back the answer, or the error."""

    batch: Batch
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait; give back nothing."""

    seconds: float


Steps: TypeAlias = Generator[Send | Sleep, EmbeddingAnswer | LavaError | None, None]


class Exchange:
    """The conversation about a batch, and what one engine's conversations have taught.

    Args:
        model: what makes the vectors.
        dimensions: how long they are to be; `None` for the model's own length.
        policy: whether and when a failed request is repeated.
    """

    def __init__(self, model: str, dimensions: int | None, policy: RetryPolicy) -> None:
        self.model = model
        self.policy = policy
        self.dimension = dimensions or NATIVE_DIMENSIONS.get(model)
        self.making = Making(model, self.dimension)
        self.calibration = Calibration()
        self._base64: bool | None = None
        """Whether the server writes base64 that we can read; `None` until that is known."""

    def converse(self, report: Report, count: Count) -> Steps:
        """Get the vectors of the report's batch into the report.

        Raises:
            LavaError: part of the batch can't be had; the message names the inputs.
        """
        parts = [report.batch]
        while parts:
            part = parts.pop()
            if (yield from self._ask(part, report)):
                continue
            parts.extend(reversed(part.halves(count)))

    def _ask(self, part: Batch, report: Report) -> Generator[Send | Sleep, EmbeddingAnswer | LavaError | None, bool]:
        """Ask for one part until it is there; false when it must be split."""
        attempts: Attempts | None = None
        plain = False
        while True:
            use_base64 = self._base64 is not False and not plain and self.dimension is not None
            report.requests += 1
            answer = yield Send(part, "base64" if use_base64 else "float")
            error: LavaError
            if isinstance(answer, LavaError):
                error = answer
                if len(part.texts) > 1 and _means_too_much(error):
                    self.calibration.refused(part.tokens)
                    return False
                if use_base64 and self._base64 is None and _may_mean_encoding(error):
                    plain = True
                    continue
            else:
                assert answer is not None
                self._account(answer, report)
                try:
                    self._accept(answer, part, report, plain=plain)
                    return True
                except UnreadableBase64 as bad:
                    if use_base64:
                        plain = True
                        continue
                    error = _bad_answer(bad, part, answer)
                except BadAnswer as bad:
                    error = _bad_answer(bad, part, answer)
            attempts = attempts or Attempts(self.policy)
            try:
                seconds = attempts.failed(error)
            except LavaError as final:
                raise _naming(final, part) from final.__cause__
            report.retries += 1
            yield Sleep(seconds)

    def _account(self, answer: EmbeddingAnswer, report: Report) -> None:
        usage = known_usage(answer.response.get("usage"))
        cost = None
        if usage is not None:
            report.tokens += usage.get("prompt_tokens") or 0
            cost = cost_of(usage, self.model)
        report.cost = None if cost is None or report.cost is None else report.cost + cost
        report.identity = answer.identity
        if answer.request_id is not None:
            report.request_ids.append(answer.request_id)

    def _accept(self, answer: EmbeddingAnswer, part: Batch, report: Report, *, plain: bool) -> None:
        data: list[Any] = list(answer.response["data"])
        rows = read_rows(data, len(part.texts), dimension=self.dimension)
        if self.dimension is None:
            self.dimension = len(rows[0])
        if plain:
            # Decimal numbers came where base64 had not worked: from now on they are asked for at once.
            self._base64 = False
        elif isinstance(data[0].get("embedding"), str):
            self._base64 = True
        usage = known_usage(answer.response.get("usage"))
        if usage is not None:
            self.calibration.answered(part.tokens, usage.get("prompt_tokens") or 0)
        report.pieces.append((part.indexes, rows))


def _means_too_much(error: LavaError) -> bool:
    """Whether the request was refused for its size, and not for that of one input."""
    if not isinstance(error, InvalidRequestError) or _TOO_LONG.search(error.message):
        return False
    if error.status_code == 413 or error.code == _TOO_MANY:
        return True
    return error.status_code in (400, 422) and _TOO_MANY_TEXT.search(error.message) is not None


def _may_mean_encoding(error: LavaError) -> bool:
    return (
        isinstance(error, InvalidRequestError)
        and error.status_code in (400, 422)
        and error.code not in _FINAL_CODES
        and _TOO_LONG.search(error.message) is None
    )


def _bad_answer(bad: BadAnswer, part: Batch, answer: EmbeddingAnswer) -> ServerError:
    indexes = [part.indexes[place] for place in bad.places] or part.indexes
    return ServerError(
        f"the answer for {name_inputs(indexes)} can't be used: {bad}",
        request_id=answer.request_id,
        origin="mistral",
    )


def _naming(error: LavaError, part: Batch) -> LavaError:
    """The error, saying which of the caller's inputs it is about."""
    match = _TOO_LONG.search(error.message)
    if match is not None and int(match[1]) < len(part.indexes):
        named = too_long(part.indexes[int(match[1])], f"{int(match[2]):,}")
        named.status_code, named.request_id, named.origin = error.status_code, error.request_id, error.origin
        return named
    if not error.message.startswith("the answer for input"):
        error.message = f"{error.message} [{name_inputs(part.indexes)}]"
        error.args = (error.message,)
    return error


class _Call(ABC):
    """One call: what it has got and how far it has come.

    Attributes:
        total: how many texts it is about, where that is known.
        done: how many of them need nothing more.
        error: what ended it.
    """

    def __init__(
        self,
        inspector: Inspector,
        making: Making,
        resume_from: PartialEmbedding | None,
        tally: Tally,
        total: int | None,
    ) -> None:
        if resume_from is not None:
            resume_from.check(making)
        self.tally = tally
        self.total = total
        self.done = 0
        self.error: BaseException | None = None
        self._inspector = inspector
        self._making = making
        self._resume = resume_from
        self._identity: Identity | None = None

    @abstractmethod
    def _take(self, report: Report) -> None:
        """Take the vectors of a batch."""

    @abstractmethod
    def partial(self) -> PartialEmbedding | None:
        """What is there now, to go on from; `None` where it is nothing."""

    def take(self, report: Report) -> bool:
        """A batch is done, or has failed; whether it is the first that failed."""
        self.tally.add(report)
        self._identity = self._identity or report.identity
        self._take(report)
        if report.error is None or self.error is not None or isinstance(report.error, Stopped):
            return False
        self.error = report.error
        return True

    def effort(self) -> CallEffort:
        """What it did beside its requests."""
        who = self._identity or Identity()
        return CallEffort(
            self._making.model,
            self.tally.retries,
            self.tally.duplicates,
            who.billing.customer_id,
            who.billing.meter_slug,
            who.metadata,
        )

    def progress(self) -> EmbeddingProgress:
        """How far it has come."""
        return EmbeddingProgress(self.done, self.total, EmbeddingUsage(**self.tally.facts()))

    def _partial(self, rows: dict[int, Vector], texts: Mapping[int, str], next_index: int) -> PartialEmbedding:
        digests = {index: digest(text) for index, text in texts.items()}
        if self._resume is not None:
            # What an earlier call had got and this one has not come to is kept as well.
            before = {index: row for index, row in self._resume.rows.items() if index >= next_index}
            rows = before | rows
            digests = {index: self._resume.digests[index] for index in before} | digests
        return PartialEmbedding(rows, digests, next_index, EmbeddingUsage(**self.tally.facts()), self._making)


class Collection(_Call):
    """One call with all its texts at hand: `check` and `admit` each of them, then make the batches.

    Args:
        texts: what is to be embedded.
        inspector: refuses what Mistral would refuse.
        making: what makes the vectors.
        as_numpy: collect a matrix rather than lists.
        resume_from: what an earlier call had got.

    Raises:
        ConfigurationError: `resume_from` holds other vectors.
    """

    def __init__(
        self,
        texts: Sequence[str],
        inspector: Inspector,
        making: Making,
        *,
        as_numpy: bool = False,
        resume_from: PartialEmbedding | None = None,
    ) -> None:
        super().__init__(inspector, making, resume_from, Tally(), len(texts))
        self.texts = texts
        self.characters = 0
        self._as_numpy = as_numpy
        self._lists: list[Vector | None] = [None] * len(texts)
        self._matrix: NDArray[np.float32] | None = None
        self._filled = bytearray(len(texts))
        self._copies: list[tuple[int, int]] = []
        self._first: dict[str, int] = {}
        self._open: list[int] = []
        self._admitted = 0

    def is_long(self, index: int) -> bool:
        """Whether checking the text can take long."""
        return self._inspector.is_long(self.texts[index])

    def check(self, index: int) -> None:
        """Check a text.

        Raises:
            InvalidRequestError: Mistral would refuse it, or it is not the one that `resume_from` has a vector of.
        """
        self._inspector.check(index, self.texts[index])

    def admit(self, index: int) -> None:
        """Take in the next text, which was checked.

        Raises:
            InvalidRequestError: it is not the one that `resume_from` has a vector of.
        """
        text = self.texts[index]
        known = None if self._resume is None else self._resume.vector(index, text)
        original = self._first.setdefault(text, index)
        self._admitted += 1
        if original == index and known is None:
            self._open.append(index)
            self.characters += len(text)
            return
        if original == index:
            self._fill([index], [known if self._as_numpy else as_list(known)])
        else:
            self._copies.append((index, original))
            self.tally.duplicates += 1
        self.done += 1

    def batches(self, planner: Planner) -> Iterator[Batch]:
        """What is to be sent, made as it is asked for."""
        for index in self._open:
            batch = planner.add(index, self.texts[index])
            if batch is not None:
                yield batch
        last = planner.flush()
        if last is not None:
            yield last

    def sample(self, size: int) -> list[str]:
        """Some of the texts to be sent, from all over."""
        step = max(1, len(self._open) // size)
        return [self.texts[index] for index in self._open[::step][:size]]

    def _take(self, report: Report) -> None:
        for indexes, rows in report.pieces:
            self._fill(indexes, rows if self._as_numpy else to_lists(rows))
            self.done += len(indexes)

    def _fill(self, indexes: list[int], rows: Any) -> None:
        for index in indexes:
            self._filled[index] = 1
        if not self._as_numpy:
            for index, row in zip(indexes, rows, strict=True):
                self._lists[index] = row
            return
        import numpy as np

        if self._matrix is None:
            self._matrix = np.empty((len(self.texts), len(rows[0])), np.float32)
        self._matrix[indexes] = rows

    def result(self) -> EmbeddingResult:
        """All vectors."""
        vectors: Any
        if self._as_numpy:
            import numpy as np

            vectors = self._matrix if self._matrix is not None else np.empty((0, 0), np.float32)
            for index, original in self._copies:
                vectors[index] = vectors[original]
        else:
            vectors = self._lists
            for index, original in self._copies:
                # Each text has a list of its own: a caller may change one.
                vectors[index] = list(vectors[original])
        return EmbeddingResult(vectors=vectors, **self.tally.facts())

    def partial(self) -> PartialEmbedding | None:
        """What is there now."""
        if self._admitted < len(self.texts):
            # Nothing was sent.
            return self._resume
        rows: dict[int, Vector] = {}
        originals = {index: index for index in range(len(self.texts)) if self._filled[index]}
        originals |= {index: original for index, original in self._copies if self._filled[original]}
        for index, original in sorted(originals.items()):
            rows[index] = self._lists[original] if self._matrix is None else self._matrix[original]
        return self._partial(rows, {index: self.texts[index] for index in rows}, 0)


@dataclass(slots=True, eq=False)
class _Slot:
    """A text on its way through a flow."""

    text: str
    row: Vector | None = None


class Flow(_Call):
    """One call over texts that come one by one; vectors leave in the same order, and only what is between is held.

    Repeated texts are recognised among the latest ones, as many as memory is set aside for.

    Args:
        inspector: refuses what Mistral would refuse.
        making: what makes the vectors.
        planner: packs the texts into batches.
        window: how many batches may be between the first text that has not left and the last that has come.
        as_numpy: hand on arrays rather than lists.
        resume_from: what an earlier call had got; what it had handed on is skipped.
        total: how many texts will come, where that is known.

    Raises:
        ConfigurationError: `resume_from` holds other vectors.
    """

    _RECENT = 4_096
    _RECENT_CHARACTERS = 8_000_000

    def __init__(
        self,
        inspector: Inspector,
        making: Making,
        planner: Planner,
        *,
        window: int,
        as_numpy: bool = False,
        resume_from: PartialEmbedding | None = None,
        total: int | None = None,
    ) -> None:
        super().__init__(inspector, making, resume_from, Tally(remembered=1_000), total)
        self._planner = planner
        self._window = window
        self._as_numpy = as_numpy
        self._came = 0
        self._skipped = 0 if resume_from is None else resume_from.next_index
        self.done = self._left = self._skipped
        self._waiting: deque[_Slot] = deque()
        self._sent: dict[int, _Slot] = {}
        self._ends: deque[int] = deque()
        self._recent: OrderedDict[str, _Slot] = OrderedDict()
        self._recent_characters = 0

    @property
    def room(self) -> bool:
        """Whether another text may come."""
        return len(self._ends) < self._window and len(self._waiting) < (self._window + 1) * MAX_REQUEST_INPUTS

    @property
    def pending(self) -> bool:
        """Whether texts wait for a batch to be full."""
        return self._planner.pending

    def is_long(self, text: str) -> bool:
        """Whether checking the text that comes next can take long."""
        return self._came >= self._skipped and self._inspector.is_long(text)

    def check(self, text: str) -> None:
        """Check the text that comes next.

        Raises:
            InvalidRequestError: Mistral would refuse it.
        """
        if self._came >= self._skipped:
            self._inspector.check(self._came, text)

    def push(self, text: str) -> Batch | None:
        """A text has come, and was checked; the batch that it completes, or none.

        Raises:
            InvalidRequestError: it is not the one that `resume_from` has a vector of.
        """
        index = self._came
        if index < self._skipped:
            self._came = index + 1
            return None
        known = None if self._resume is None else self._resume.vector(index, text)
        self._came = index + 1
        slot = self._recent.get(text)
        if slot is not None:
            self.tally.duplicates += 1
            self._waiting.append(slot)
            return None
        slot = _Slot(text, known)
        self._remember(slot)
        self._waiting.append(slot)
        if known is not None:
            return None
        self._sent[index] = slot
        return self._launched(self._planner.add(index, text))

    def flush(self) -> Batch | None:
        """The texts that wait for a batch to be full, or none."""
        return self._launched(self._planner.flush())

    def _launched(self, batch: Batch | None) -> Batch | None:
        if batch is not None:
            self._ends.append(batch.indexes[-1])
        return batch

    def _remember(self, slot: _Slot) -> None:
        self._recent[slot.text] = slot
        self._recent_characters += len(slot.text)
        while len(self._recent) > self._RECENT or self._recent_characters > self._RECENT_CHARACTERS:
            # The oldest goes first, even if it was met again: rows of one age share one block of memory.
            text, _ = self._recent.popitem(last=False)
            self._recent_characters -= len(text)

    def _take(self, report: Report) -> None:
        for indexes, rows in report.pieces:
            for index, row in zip(indexes, rows, strict=True):
                self._sent.pop(index).row = row

    def ready(self) -> bool:
        """Whether the next vector in order is there."""
        return bool(self._waiting) and self._waiting[0].row is not None

    def pop(self) -> tuple[int, Any]:
        """The next index and vector."""
        row = self._waiting.popleft().row
        index = self._left
        self._left = index + 1
        self.done += 1
        while self._ends and self._ends[0] <= index:
            self._ends.popleft()
        if not self._as_numpy:
            return index, as_list(row)
        import numpy as np

        # A copy: a view would keep the rows of its whole batch.
        return index, np.array(row, np.float32)

    def partial(self) -> PartialEmbedding:
        """What is there now and has not left."""
        held = {self._left + place: slot for place, slot in enumerate(self._waiting) if slot.row is not None}
        rows = {index: as_list(slot.row) for index, slot in held.items()}
        return self._partial(rows, {index: slot.text for index, slot in held.items()}, self._left)


def as_texts(texts: Iterable[str]) -> Sequence[str]:
    """The texts as a list or tuple.

    Raises:
        ConfigurationError: it is one text, whose characters would be taken for texts.
    """
    refuse_one_text(texts)
    # Others may be slow to give one text by its index, or give another one next time.
    return texts if isinstance(texts, list | tuple) else list(texts)


def refuse_one_text(texts: object) -> None:
    """Refuse a text where texts are expected.

    Raises:
        ConfigurationError: it is one.
    """
    if isinstance(texts, str | bytes):
        raise ConfigurationError("expected several texts, got one: write [text].")
