"""The conversation about one batch of texts: ask, read, try again, split, change the encoding. Pure: no I/O, no sleep.

It is a generator that says what to do next, obeyed by a thread or by a task.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import httpx

from lava_mistral.billing.scope import Identity
from lava_mistral.calls.responses import EmbeddingAnswer
from lava_mistral.embedding.batching import Batch, Calibration, Count
from lava_mistral.embedding.decoding import NATIVE_DIMENSIONS, BadAnswer, UnreadableBase64, read_rows
from lava_mistral.embedding.input_validation import name_inputs, too_long
from lava_mistral.embedding.results import Making
from lava_mistral.errors import ConfigurationError, InvalidRequestError, LavaError, ServerError, SpendLimitError
from lava_mistral.mistral.types import known_usage
from lava_mistral.pricing.cost import cost_of
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES, Attempts, RetryPolicy

if TYPE_CHECKING:
    from lava_mistral.embedding.decoding import Rows

Encoding = Literal["float", "base64"]

_NEVER_SENT: Final = (ConfigurationError, SpendLimitError)
_NOT_REACHED: Final = (httpx.ConnectError, httpx.ConnectTimeout)
_TOO_MANY: Final = "3210"
_TOO_MANY_TEXT: Final = re.compile(r"too many (?:tokens|inputs)|split into more batches", re.I)
_TOO_LONG: Final = re.compile(r"Input id (\d+) has (\d+) tokens")
_FINAL_CODES: Final = frozenset((_TOO_MANY, "1500"))


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
        self._reached = False
        """Whether there ever was an answer, of whatever kind."""
        self._base64: bool | None = None
        """Whether the server writes base64 that we can read; `None` until that is known."""

    @property
    def _first_contact(self) -> RetryPolicy:
        # An address at which nobody has ever answered is rather wrong than out of order: that is soon said.
        return replace(self.policy, max_retries=min(self.policy.max_retries, DEFAULT_MAX_RETRIES))

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
            answer = yield Send(part, "base64" if use_base64 else "float")
            self._reached = self._reached or not isinstance(getattr(answer, "__cause__", None), _NOT_REACHED)
            if not isinstance(answer, _NEVER_SENT):
                report.requests += 1
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
            attempts = attempts or Attempts(self.policy if self._reached else self._first_contact)
            seconds = attempts.failed(error)
            if seconds is None:
                raise _naming(error, part) from error.__cause__
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
