"""What can go wrong, one class for each thing that a caller may do something about.

    LavaError
    ├── ConfigurationError           a setting or a combination of settings is wrong; nothing was sent
    ├── AuthenticationError          401  the credential is missing or not accepted
    ├── BillingError                 whoever should pay can't or may not
    │   ├── InsufficientBalanceError 402  the wallet or the plan is empty
    │   ├── PermissionDeniedError    403  the plan, the meter or the key does not allow it
    │   └── SpendLimitError               the call could pass the caller's own spend limit; nothing was sent
    ├── NotFoundError                404
    ├── InvalidRequestError          400, 422  the request itself is wrong
    │   └── ContextOverflowError          the prompt is longer than the model's context window
    ├── RateLimitError               429
    ├── ServerError                  5xx, or an answer that makes no sense
    ├── APIConnectionError           no answer: refused, reset, TLS, DNS
    ├── APITimeoutError              no answer in time
    └── StreamInterruptedError       a stream ended early; `partial` holds what had come
        └── StreamStalledError            … because no chunk came in time; also an APITimeoutError

`lava_mistral.calls.error_mapping` maps HTTP answers and exceptions to this tree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import httpx

Origin = Literal["lava", "mistral", "client"]

_WHO: dict[str, str] = {"lava": "Lava", "mistral": "Mistral", "client": "lava-mistral"}
TOP_UP = "https://www.lava.so/dashboard"
"""Where a merchant tops up a wallet."""


@dataclass(frozen=True, slots=True)
class AnswerText:
    """An answer as an error shows it: without secrets, to a request that names the provider."""

    status: int
    headers: Mapping[str, str]
    text: str
    method: str
    url: str


@dataclass(eq=False, repr=False)
class LavaError(Exception):
    """Any failure of a call through Lava.

    Attributes:
        message: what was expected and what came, in a sentence; nothing secret.
        advice: what the caller can do about it, or an empty string.
        status_code: the HTTP status, `None` where no answer came.
        code: the provider's own error code (`"3051"`, `"1300"` …), as text.
        type: the provider's own error type (`"rate_limited"` …).
        request_id: Lava's id of the request, as shown in its dashboard.
        retryable: whether the same call may succeed later.
        retry_after: seconds that the server asks to wait.
        origin: who failed: `"lava"`, `"mistral"` or `"client"` (this library, or the code that calls it).
        body: the parsed error body, where there was one.
        partial: what had been done before the failure: a `Turn` for a stream, a `PartialEmbedding` for embeddings.
        inputs: which of the caller's texts it is about, by index; of embeddings only.
        answer: the answer behind `response` and `headers`. Not pickled.
    """

    retryable_by_default: ClassVar[bool] = False

    message: str
    _: KW_ONLY
    advice: str = ""
    status_code: int | None = None
    code: str | None = None
    type: str | None = None  # the wire's own name
    request_id: str | None = None
    retryable: bool | None = None
    retry_after: float | None = None
    origin: Origin = "client"
    body: Any = None
    partial: Any = None
    inputs: Sequence[int] = ()
    answer: httpx.Response | AnswerText | None = None

    def __post_init__(self) -> None:
        self.retryable = self.retryable_by_default if self.retryable is None else self.retryable
        self.inputs = tuple(self.inputs)
        super().__init__(self.message)

    @property
    def response(self) -> httpx.Response | None:
        """The answer, already read, as an `httpx.Response`; its `request` names Mistral and holds no credential."""
        shown = self.answer
        if isinstance(shown, AnswerText):
            # Nothing else here needs httpx.
            import httpx

            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in shown.headers.items()]
            request = httpx.Request(shown.method, shown.url)
            shown = httpx.Response(shown.status, headers=headers, content=shown.text.encode(), request=request)
            self.answer = shown
        return shown

    @property
    def headers(self) -> Mapping[str, str]:
        """The answer's headers, rate limits among them; empty where no answer came."""
        return {} if self.answer is None else self.answer.headers

    def __str__(self) -> str:
        facts = [f"HTTP {self.status_code}"] if self.status_code is not None else []
        if self.code:
            facts.append(f"code {self.code}")
        if self.request_id:
            facts.append(f"request {self.request_id}")
        text = f"{_WHO[self.origin]}: {self.message}"
        if facts:
            text = f"{text.removesuffix('.')} ({', '.join(facts)})."
        elif not text.endswith((".", "!", "?", "…")):
            text += "."
        if self.retry_after is not None:
            text += f" Retry after {self.retry_after:g} s."
        elif self.origin != "client" or self.retryable:
            text += " Trying again can help." if self.retryable else " Trying again will not help."
        return f"{text} {self.advice}".rstrip()

    def fields(self) -> dict[str, Any]:
        """The keyword arguments that make an equal error, without the answer."""
        return {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.kw_only and spec.name != "answer"}

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.message, **self.fields()), ()


class ConfigurationError(LavaError, ValueError):
    """A setting, or a combination of settings, is wrong. Nothing was sent and nothing was charged."""


class AuthenticationError(LavaError):
    """The credential is missing, malformed or not accepted (401)."""


class BillingError(LavaError):
    """Whoever should pay for the call can't or may not: 402, 403 and the caller's own spend limit."""


class InsufficientBalanceError(BillingError):
    """The merchant's wallet or the customer's plan has no credit left (402)."""


class PermissionDeniedError(BillingError):
    """The key, the plan or the meter does not allow the call (403)."""


@dataclass(eq=False, repr=False, kw_only=True)
class SpendLimitError(BillingError):
    """The call could cost more than the spend limit leaves; it was not sent.

    Attributes (USD):
        limit: the spend limit.
        spent: what calls under the limit are known to have cost.
        left: what further calls could cost: the limit without what is spent or set aside.
        needed: the most that this call can cost.
    """

    limit: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    left: Decimal = Decimal(0)
    needed: Decimal = Decimal(0)


class NotFoundError(LavaError):
    """There is no such thing at the provider (404)."""


class InvalidRequestError(LavaError):
    """The request itself is wrong (400, 422, or refused before it was sent)."""


class ContextOverflowError(InvalidRequestError):
    """The prompt holds more tokens than the model's context window."""


class RateLimitError(LavaError):
    """Too many requests or tokens for now (429)."""

    retryable_by_default = True


class ServerError(LavaError):
    """Lava or Mistral failed (5xx), or answered with something that is not an answer."""

    retryable_by_default = True


class APIConnectionError(LavaError):
    """No answer came: refused, reset, name resolution, TLS."""

    retryable_by_default = True


class APITimeoutError(LavaError):
    """No answer came in time."""

    retryable_by_default = True


class StreamInterruptedError(LavaError):
    """A stream ended before the answer did; `partial` holds what came. Before its first words it is tried again."""

    retryable_by_default = True


class StreamStalledError(StreamInterruptedError, APITimeoutError):
    """A stream went silent for longer than `stream_chunk_timeout`; `partial` holds the turn as far as it came."""
