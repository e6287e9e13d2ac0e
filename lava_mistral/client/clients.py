"""The framework-free clients: `LavaMistral` and `AsyncLavaMistral`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, Unpack, cast

from lava_mistral.billing.credentials import Billing, BillingContext, Secret, check_base_url, to_billing
from lava_mistral.billing.lava_record_types import RequestRecord
from lava_mistral.billing.metering import open_call_meter
from lava_mistral.billing.reservation import max_chat_cost, max_embedding_cost
from lava_mistral.billing.scope import carried, resolve_billing
from lava_mistral.billing.spend_limit import Amount, SpendLimit, to_limit
from lava_mistral.calls.arguments import refuse_keys
from lava_mistral.calls.call import CHAT_URL, EMBEDDINGS_URL, MODELS_URL, Call, client_headers
from lava_mistral.calls.chat_body import chat_body
from lava_mistral.calls.chat_stream import AsyncChatStream, ChatStream
from lava_mistral.calls.responses import Answer, Completion, EmbeddingAnswer
from lava_mistral.client.lava_api import LavaApi, RecordFilters
from lava_mistral.client.options import (
    ChatOptions,
    EmbedCallOptions,
    EmbeddingRequestOptions,
    OnRetry,
)
from lava_mistral.defaults import (
    DEFAULT_CHAT_MODEL,
    DEFAULT_EMBEDDING_MODEL,
    DEFAULT_STREAM_CHUNK_TIMEOUT,
    DEFAULT_TIMEOUT,
)
from lava_mistral.errors import ConfigurationError, LavaError
from lava_mistral.mistral.tools import NO_TOOLS, ToolNames
from lava_mistral.mistral.types import Message
from lava_mistral.pricing.token_counting import preload
from lava_mistral.transport.custom_client import ClientTransport
from lava_mistral.transport.failures import Deadline, TransportError
from lava_mistral.transport.flow import Flow, adrive, adriven, drive, driven
from lava_mistral.transport.pools import SYNC_POOL, Pool, async_pool
from lava_mistral.transport.request import Headers, Response, read
from lava_mistral.transport.retry import Attempts, RetryPolicy
from lava_mistral.transport.route import LavaRoute

if TYPE_CHECKING:
    from lava_mistral.embedding.drivers import EmbeddingStream
    from lava_mistral.embedding.engine import EmbeddingEngine
    from lava_mistral.embedding.results import EmbeddingResult

_T = TypeVar("_T")


class ClientBase(LavaApi):
    """What both clients do, as flows that each drives in its way.

    A client holds settings alone; the connections belong to the process or the event loop (see `pools`).
    """

    _asynchronous: ClassVar[bool]
    # That of the event loop, where there is none.
    _shared_pool: ClassVar[Pool | None] = None

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_retries: int | None = None,
        stream_chunk_timeout: float | None = DEFAULT_STREAM_CHUNK_TIMEOUT,
        http_client: Any = None,
        spend_limit: Amount | SpendLimit | None = None,
        require_customer: bool = False,
        retry: RetryPolicy | None = None,
    ) -> None:
        for name, limit in (("timeout", timeout), ("stream_chunk_timeout", stream_chunk_timeout)):
            if limit is not None and (not isinstance(limit, int | float) or limit <= 0):
                raise ConfigurationError(f"{name} must be seconds above zero, or None for no limit; it is {limit!r}.")
        if max_retries is not None and (not isinstance(max_retries, int) or max_retries < 0):
            raise ConfigurationError(f"max_retries must be zero or more; it is {max_retries!r}.")
        base_url = None if base_url is None else check_base_url(base_url)
        self._route = LavaRoute(api_key=api_key, base_url=base_url, billing=billing, metadata=metadata)
        self._timeout, self._chunk_timeout = timeout, stream_chunk_timeout
        # `None` where neither is given: embeddings have a default of their own.
        self._retry = RetryPolicy(max_retries=max_retries) if retry is None and max_retries is not None else retry
        self._policy = self._retry or RetryPolicy()
        self._client = None if http_client is None else ClientTransport(http_client, asynchronous=self._asynchronous)
        self._extra_headers = client_headers(http_client)
        self.spend_limit = to_limit(spend_limit)
        self._require_customer = require_customer
        self._engines: dict[tuple[Any, ...], EmbeddingEngine] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Nothing in it ever changes, and a caller's HTTP client can't be copied.
        return self

    def __getstate__(self) -> dict[str, Any]:
        own = self._route
        billing, metadata = carried(own.billing, own.metadata, self.spend_limit, own.api_key)
        return vars(self) | {"_route": replace(own, billing=billing, metadata=metadata), "_engines": {}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._route.base_url!r}, billing={self._route.billing!r})"

    def _billing_context(self, options: Any) -> BillingContext:
        """Take from the options who pays."""
        billing = options.pop("billing", None)
        return resolve_billing(
            self._route.billing,
            self._route.metadata,
            call_billing=None if billing is None else to_billing(billing),
            call_metadata=options.pop("lava_metadata", None),
            limit=self.spend_limit,
            api_key=self._route.api_key,
            customer_required=bool(self._require_customer),
        )

    def _ask(self, messages: Sequence[Message], options: Any, kind: type[_T]) -> Flow[_T]:
        """Get a completion, or a stream whose first delta is there, trying again as the policy allows."""
        streams, take = kind is not Completion, options.pop
        billing_context = self._billing_context(options)
        model, repair = take("model", DEFAULT_CHAT_MODEL), take("repair_messages", True)
        timeout, chunk_timeout = take("timeout", None), take("stream_chunk_timeout", None)
        key, on_retry = take("idempotency_key", None), take("on_retry", None)
        if billing_context.limits and self._asynchronous:
            yield preload(model)
        names = ToolNames.of_tools(options["tools"]) if options.get("tools") else NO_TOOLS
        body = chat_body(messages, model, options, stream=streams, repair=repair, names=names)
        call = Call(
            CHAT_URL,
            billing_context,
            self._timeout if timeout is None else timeout,
            model,
            body,
            chunk_timeout=self._chunk_timeout if chunk_timeout is None else chunk_timeout,
            stream=streams,
            names=names,
            call_meter=open_call_meter("chat", model, billing_context, lambda: max_chat_cost(body), streamed=streams),
            idempotency_key=key,
        )
        read = cast("Callable[..., _T]", kind if streams else call.completion)
        return (yield from self._retried(call, read, on_retry))

    def _chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Flow[Completion]:
        """One answer.

        Args:
            messages: the conversation, in Mistral's own form.
            billing: who pays for this call.
            lava_metadata: stored by Lava with this call, over the client's own metadata.
            repair_messages: repair what Mistral would refuse in the conversation, losing no word; false refuses it.
            timeout: seconds, for this call.
            on_retry: told before each new try; in async code it may be a coroutine function.
            idempotency_key: sent as `Idempotency-Key` with each try; Lava does not say whether its proxy heeds it.
            **options: fields of Mistral's request: temperature, max_tokens, tools, response_format, …

        Raises:
            LavaError: the call failed; its class says how.
        """
        return self._ask(messages, options, Completion)

    def _embedding_request(
        self, inputs: Sequence[str], **options: Unpack[EmbeddingRequestOptions]
    ) -> Flow[EmbeddingAnswer]:
        """One embeddings request, sent once: no batching, no retry, no check of the vectors.

        The options are those of a call, as in `chat`, and fields of the request: output_dimension, output_dtype, …
        """
        billing_context = self._billing_context(options)
        model = options.pop("model", DEFAULT_EMBEDDING_MODEL)
        timeout, key = options.pop("timeout", None), options.pop("idempotency_key", None)
        refuse_keys(options)
        fields = {name: value for name, value in options.items() if value is not None}
        call = Call(
            EMBEDDINGS_URL,
            billing_context,
            self._timeout if timeout is None else timeout,
            model,
            {"model": model, "input": list(inputs), **fields},
            call_meter=open_call_meter("embedding", model, billing_context, lambda: max_embedding_cost(inputs, model)),
            idempotency_key=key,
        )
        return self._attempt(call, call.embedding)

    def _models(self) -> Flow[list[dict[str, Any]]]:
        """The models that Mistral lists for the account that serves the call."""
        call = Call(MODELS_URL, self._billing_context({}), self._timeout)
        return self._retried(call, partial(call.read, parse=_cards))

    def _engine(self, options: Mapping[str, Any]) -> tuple[EmbeddingEngine, dict[str, Any]]:
        """Return the engine for a way to embed, which holds the limit of requests in flight, and the other options."""
        from lava_mistral.embedding.engine import EmbeddingEngine

        given = dict(options)
        settings: dict[str, Any] = {} if self._retry is None else {"retry": self._retry}
        settings["model"] = given.pop("model", DEFAULT_EMBEDDING_MODEL)
        settings |= {
            name: given.pop(name) for name in ("dimensions", "output_dtype", "max_concurrency") if name in given
        }
        key = tuple(settings.items())
        if key not in self._engines:
            clients: Any = (None, self) if self._asynchronous else (self, None)
            self._engines.setdefault(key, EmbeddingEngine(*clients, **settings))
        return self._engines[key], given

    def _attempt(self, call: Call, result: Callable[..., _T]) -> Flow[_T]:
        """Send a request once and read its answer, or its stream to the first delta, within the call's timeout in all.

        `result` makes the result from the answer; for a stream it is its class.
        """
        deadline = Deadline(call.timeout)
        request = call.request(self._route, self._extra_headers)
        response: Response | None = None
        try:
            response = yield from (self._client or self._shared_pool or async_pool()).send(request, deadline)
            good = 200 <= response.status < 300
            if call.stream and good:
                stream: Any = result(call, response, deadline)
                begun: _T = yield from stream.read_more()
                return begun
            # Handed over: what a server repeats of the key must not stand in the frames of a traceback.
            answers = [Answer(response.status, Headers(response.headers), (yield from read(response, deadline)))]
            if good:
                return result(answers.pop())
            failure = call.refused(answers.pop())
        except TransportError as error:
            failure = call.failed(error, response)
        except LavaError as error:
            call.request_meter.release()
            failure = error.with_traceback(None)
        except BaseException:
            call.abandoned(response)
            raise
        # Out of the handler, so that nothing of the transport's frames is in the error's context.
        try:
            raise failure
        finally:
            del failure

    def _retried(self, call: Call, result: Callable[..., _T], on_retry: OnRetry | None = None) -> Flow[_T]:
        """Make an attempt, and more as long as the policy allows."""
        attempts = Attempts(self._policy)
        while True:
            try:
                return (yield from self._attempt(call, result))
            except LavaError as error:
                wait = attempts.failed(error)
                if wait is None:
                    raise
                told = None if on_retry is None else on_retry(error, attempts.tries, wait)
            if isinstance(told, Awaitable):
                yield told
            yield self._sleep(wait)


def _cards(body: dict[str, Any]) -> list[Any]:
    return [{**card, "id": str(card["id"])} for card in body["data"]]


class LavaMistral(ClientBase):
    """Mistral's models through Lava, without a framework.

    Args:
        api_key: Lava's secret key (`aks_live_…`, `aks_test_…`) or a forward token: text, a `SecretStr`, or a function
            returning it. By default `LAVA_FORWARD_TOKEN`, then `LAVA_SECRET_KEY`, read when a call is made.
        base_url: by default `LAVA_BASE_URL`, else the sandbox for `aks_test_` keys and production otherwise.
        billing: who pays; `billed_to` blocks and `billing=` of a call lie over it.
        metadata: text pairs that Lava stores with each request.
        timeout: seconds for an answer, or for a stream to begin; `None` for no limit.
        max_retries: how often a call is tried again after 408, 429, 5xx, connection errors and timeouts: by default
            twice, and each request of an embedding ten times, since much is lost with it.
        stream_chunk_timeout: seconds between two chunks of a stream; `None` for no limit.
        http_client: an `httpx.Client` or `httpx2.Client` to send with, for a proxy or certificates of your own; it
            stays yours to close.
        spend_limit: USD that all calls of this client may cost together, or a `SpendLimit` to share. A call that could
            pass it is refused before it is sent (`SpendLimitError`).
        require_customer: refuse a call that no customer is named for, by a `billed_to` block, `billing=` or a forward
            token, before it is sent. `LAVA_REQUIRE_CUSTOMER=1` in the environment does so for all clients.
        retry: a `lava_mistral.transport.retry.RetryPolicy` in place of `max_retries`, which also says how long to wait.

    Raises:
        ConfigurationError: a setting is wrong. A missing key is reported by the first call.
    """

    _asynchronous = False
    _shared_pool = SYNC_POOL
    _sleep = staticmethod(time.sleep)

    chat = driven(ClientBase._chat)
    embedding_request = driven(ClientBase._embedding_request)
    models = driven(ClientBase._models)
    request = driven(ClientBase._request)
    usage = driven(ClientBase._usage)
    wallet = driven(ClientBase._wallet)
    subscription = driven(ClientBase._subscription)
    reconcile = driven(ClientBase._reconcile)

    def stream(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> ChatStream:
        """One answer, delta by delta; see `chat` for the arguments.

        The request is sent at once and tried again as long as nothing of an answer has come; never after that.

        Args:
            stream_chunk_timeout: seconds between two chunks, for this call.
        """
        return drive(self._ask(messages, options, ChatStream))

    def embed(self, texts: Sequence[str], **options: Unpack[EmbedCallOptions]) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; see `lava_mistral.embedding`.

        Args:
            texts: each of at most 8,192 tokens.
            dimensions: length of the vectors, for models that can shorten them.
            output_dtype: how their numbers are rounded: `"int8"`, `"uint8"`, `"binary"` or `"ubinary"`.
            max_concurrency: requests in flight at most, over all calls of this client with the same settings.
            as_numpy: give one float32 array rather than lists of floats.
            on_progress: told in the calling thread after each batch.
            resume_from: `partial` of the error that ended an earlier call with the same texts.

        Raises:
            InvalidRequestError: one of the texts can't be embedded; nothing was sent.
            LavaError: a request failed for good; `partial` has the vectors that are there.
        """
        engine, given = self._engine(options)
        return engine.embed(texts, **given)

    def embed_iter(self, texts: Iterable[str], **options: Unpack[EmbedCallOptions]) -> EmbeddingStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory; see `embed`."""
        engine, given = self._engine(options)
        return engine.embed_iter(texts, **given)

    def requests(self, *, limit: int | None = None, **filters: Unpack[RecordFilters]) -> Iterator[RequestRecord]:
        """The requests that Lava recorded, the newest first; pages are fetched as the iteration needs them.

        Args:
            limit: at most so many.
            **filters: `customer_id`, `meter_id` and `metadata`: only those made for, on and with these.
        """
        for page in self._pages(limit, filters):
            yield from drive(page)


class AsyncLavaMistral(ClientBase):
    """Mistral's models through Lava in async code, without a framework; see `LavaMistral` for the arguments."""

    _asynchronous = True
    _sleep = staticmethod(asyncio.sleep)

    chat = adriven(ClientBase._chat)
    embedding_request = adriven(ClientBase._embedding_request)
    models = adriven(ClientBase._models)
    request = adriven(ClientBase._request)
    usage = adriven(ClientBase._usage)
    wallet = adriven(ClientBase._wallet)
    subscription = adriven(ClientBase._subscription)
    reconcile = adriven(ClientBase._reconcile)

    async def stream(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> AsyncChatStream:
        """One answer, delta by delta; see `LavaMistral.stream`."""
        return await adrive(self._ask(messages, options, AsyncChatStream))

    async def embed(self, texts: Sequence[str], **options: Unpack[EmbedCallOptions]) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; see `LavaMistral.embed`."""
        engine, given = self._engine(options)
        return await engine.aembed(texts, **given)

    def embed_iter(
        self, texts: AsyncIterable[str] | Iterable[str], **options: Unpack[EmbedCallOptions]
    ) -> EmbeddingStream:
        """The vectors of a source of any length, which may be async; see `LavaMistral.embed_iter`."""
        engine, given = self._engine(options)
        return engine.aembed_iter(texts, **given)

    async def requests(
        self, *, limit: int | None = None, **filters: Unpack[RecordFilters]
    ) -> AsyncIterator[RequestRecord]:
        """The requests that Lava recorded, the newest first; see `LavaMistral.requests`."""
        for page in self._pages(limit, filters):
            for record in await adrive(page):
                yield record
