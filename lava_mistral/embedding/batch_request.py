"""Get the vectors of one batch: ask, read, try again, split, change the encoding. Pure: no I/O, no sleep."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Final, Literal, Protocol

from lava_mistral.calls.embedding_answer import EmbeddingAnswer
from lava_mistral.defaults import DEFAULT_MAX_RETRIES, OutputDtype
from lava_mistral.embedding.batch_packing import Batch, Count, TokenRatio
from lava_mistral.embedding.decoding import NATIVE_DIMENSIONS, BadAnswer, UnreadableBase64, read_rows
from lava_mistral.embedding.input_validation import name_inputs, too_long
from lava_mistral.embedding.results import BatchResult, EmbeddingSpec, EmbeddingUsage
from lava_mistral.errors import ConfigurationError, InvalidRequestError, LavaError, ServerError, SpendLimitError
from lava_mistral.mistral.usage import known_usage
from lava_mistral.pricing.cost import cost_of
from lava_mistral.transport.failures import is_not_connected
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.retry import Attempts, RetryPolicy

Encoding = Literal["float", "base64"]

_TOO_MANY: Final = "3210"
_TOO_MANY_TEXT: Final = re.compile(r"too many (?:tokens|inputs)|split into more batches", re.I)
_TOO_LONG: Final = re.compile(r"Input id (\d+) has (\d+) tokens")
_FINAL_CODES: Final = frozenset((_TOO_MANY, "1500"))
_TOGETHER: Final = 64  # vectors that are made lists of floats at once, in a millisecond or two


class Sender(Protocol):
    """What sends requests, waits, and gives others their turn, in threads or tasks."""

    def ask(self, request: BatchRequest, part: Batch, encoding: Encoding) -> Flow[EmbeddingAnswer | LavaError]: ...

    def sleep(self, seconds: float) -> Any: ...

    def turn(self) -> Any: ...


class Endpoint:
    """What an engine knows about the model that it asks, and learns from the answers.

    Attributes:
        dimensions: numbers of a vector; `None` while that is not known.
        ratio: how far `count` is off.
        base64: whether the server writes base64 that can be read; `None` while that is not known. Once it is not,
            numbers are asked for.
        reached: whether there ever was an answer, of whatever kind.
    """

    def __init__(
        self, model: str, dimensions: int | None, policy: RetryPolicy, count: Count, dtype: OutputDtype = "float"
    ) -> None:
        self.model = model
        self.policy = policy
        self.count = count
        self.dimensions = dimensions or NATIVE_DIMENSIONS.get(model)
        if self.dimensions is not None and dtype.endswith("binary"):
            self.dimensions = -(-self.dimensions // 8)
        self.spec = EmbeddingSpec(model, self.dimensions, dtype)
        self.ratio = TokenRatio()
        # Rounded numbers are as short in decimal.
        self.base64: bool | None = None if dtype == "float" else False
        self.reached = False

    def attempts(self) -> Attempts:
        """Count the tries of a request; few where nobody ever answered: that address is rather wrong than busy."""
        if self.reached:
            return Attempts(self.policy)
        return Attempts(replace(self.policy, max_retries=min(self.policy.max_retries, DEFAULT_MAX_RETRIES)))


class BatchRequest:
    """The conversation about one batch; `steps` fills its `result`."""

    def __init__(self, batch: Batch, endpoint: Endpoint, sender: Sender) -> None:
        self.result = BatchResult()
        self._batch = batch
        self._endpoint = endpoint
        self._sender = sender

    def steps(self) -> Flow[None]:
        """Ask until the vectors are in the result, or raise a `LavaError` that names inputs."""
        parts = [self._batch]
        while parts:
            part = parts.pop()
            if not (yield from self._ask(part)):
                parts.extend(reversed(split(part, self._endpoint.count)))

    def _ask(self, part: Batch) -> Flow[bool]:
        """Ask for one part until it is there; false when it must be split."""
        endpoint = self._endpoint
        attempts: Attempts | None = None
        refused_base64 = False
        while True:
            use_base64 = endpoint.base64 is not False and endpoint.dimensions is not None
            answer = yield from self._sender.ask(self, part, "base64" if use_base64 else "float")
            try:
                yield self._sender.turn()
            finally:
                # It was paid for, also where the task is cancelled now.
                error, unreadable = self._read(answer, part)
            if error is None:
                return True
            if error is answer and len(part.texts) > 1 and _means_too_much(error):
                return False
            if use_base64 and unreadable:
                endpoint.base64 = False
                refused_base64 = error is answer
                continue
            if refused_base64 and error is answer and _may_mean_encoding(error):
                # Numbers are refused alike: the inputs are why.
                endpoint.base64 = None
            attempts = attempts or endpoint.attempts()
            seconds = attempts.failed(error)
            if seconds is None:
                raise _naming(error, part) from error.__cause__
            self.result.usage += EmbeddingUsage(retries=1)
            yield self._sender.sleep(seconds)

    def _read(self, answer: EmbeddingAnswer | LavaError, part: Batch) -> tuple[LavaError | None, bool]:
        """Take the vectors of an answer and note what it cost; why there are none, and whether base64 may be why."""
        endpoint = self._endpoint
        endpoint.reached = endpoint.reached or not is_not_connected(getattr(answer, "__cause__", None))
        if isinstance(answer, LavaError):
            sent = not isinstance(answer, ConfigurationError | SpendLimitError)
            self.result.usage += EmbeddingUsage(requests=int(sent))
            # Another batch may have found out meanwhile that base64 is refused.
            return answer, endpoint.base64 is not True and _may_mean_encoding(answer)
        usage = known_usage(answer.response.get("usage"))
        self.result.usage += EmbeddingUsage(
            tokens=(usage and usage.get("prompt_tokens")) or 0,
            cost=None if usage is None else cost_of(usage, endpoint.model),
            requests=1,
            request_ids=() if answer.request_id is None else (answer.request_id,),
        )
        data: list[Any] = list(answer.response["data"])
        try:
            rows = read_rows(data, len(part.texts), dimension=endpoint.dimensions)
        except BadAnswer as bad:
            indexes = [part.indexes[place] for place in bad.places] or part.indexes
            said = f"the answer for {name_inputs(indexes)} can't be used: {bad}"
            error = ServerError(said, request_id=answer.request_id, origin="mistral", inputs=indexes)
            return error, isinstance(bad, UnreadableBase64)
        if endpoint.dimensions is None:
            endpoint.dimensions = len(rows[0])
        if endpoint.base64 is None and isinstance(data[0].get("embedding"), str):
            endpoint.base64 = True
        if usage is not None:
            endpoint.ratio.answered(part, usage.get("prompt_tokens") or 0)
        for start in range(0, len(rows), _TOGETHER):
            piece = slice(start, start + _TOGETHER)
            self.result.pieces.append((part.indexes[piece], rows[piece]))
        return None, False


def split(batch: Batch, count: Count) -> list[Batch]:
    """Split a batch that was refused as too full into halves; needs two texts at least."""
    middle = len(batch.texts) // 2
    return [
        Batch(batch.indexes[part], batch.texts[part], sum(map(count, batch.texts[part])))
        for part in (slice(None, middle), slice(middle, None))
    ]


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


def _naming(error: LavaError, part: Batch) -> LavaError:
    """The error, saying which of the caller's inputs it is about."""
    match = _TOO_LONG.search(error.message)
    if match is not None and int(match[1]) < len(part.indexes):
        named = too_long(part.indexes[int(match[1])], f"{int(match[2]):,}")
        named.status_code, named.request_id, named.origin = error.status_code, error.request_id, error.origin
        return named
    if not error.inputs and not isinstance(error, ConfigurationError):
        error.inputs = tuple(part.indexes)
        error.message = f"{error.message} [{name_inputs(part.indexes)}]"
        error.args = (error.message,)
    return error
