"""The framework-free client: `LavaMistral` and its async twin, side by side.

Everything that can be said without I/O is in `calls`; what is left here sends, waits and reads.
A client holds settings alone and the connections belong to the process or the event loop (see `pools`), so a client
is cheap to make, picklable, and safe to share between threads and event loops.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import httpx
from typing_extensions import Self

from lava_mistral.billing import Billing, to_billing
from lava_mistral.calls import (
    CHAT_URL,
    EMBEDDINGS_URL,
    MODELS_URL,
    Call,
    Completion,
    EmbeddingAnswer,
    StreamReader,
    chat_body,
    own_headers,
)
from lava_mistral.carrying import carried
from lava_mistral.charges import Account, open_account
from lava_mistral.credentials import Secret, check_base_url
from lava_mistral.errors import ConfigurationError, LavaError, forget_frames
from lava_mistral.estimate import most_of_chat, most_of_embedding
from lava_mistral.history import AsyncHistory, History
from lava_mistral.pacing import DEFAULT_MAX_CONCURRENCY
from lava_mistral.parting import PARTING, brief_reads, limited
from lava_mistral.pools import async_pool, sync_pool
from lava_mistral.retry import DEFAULT_MAX_RETRIES, Attempts, RetryPolicy
from lava_mistral.scopes import Identity, identify
from lava_mistral.spend import Amount, SpendLimit, to_limit
from lava_mistral.transport import Forwarder
from lava_mistral.turn import Delta
from lava_mistral.wire import Message, ModelCard

if TYPE_CHECKING:
    from lava_mistral.embedding import (
        AsyncEmbeddingStream,
        EmbeddingEngine,
        EmbeddingResult,
        EmbeddingStream,
        PartialEmbedding,
    )
    from lava_mistral.progress import OnProgress

DEFAULT_CHAT_MODEL = "mistral-small-2603"
DEFAULT_EMBEDDING_MODEL = "mistral-embed"
DEFAULT_TIMEOUT = 120.0

OnRetry: TypeAlias = Callable[[LavaError, int, float], None]
"""Told before each wait: the error, how many tries were made, seconds to the next."""

_HTTP = TypeVar("_HTTP", httpx.Client, httpx.AsyncClient)
_T = TypeVar("_T")


class _Settings(Generic[_HTTP]):
    """What both clients are made of, and the calls that they make of it."""

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        max_retries: int | None = None,
        stream_chunk_timeout: float | None = DEFAULT_TIMEOUT,
        http_client: _HTTP | None = None,
        spend_limit: Amount | SpendLimit | None = None,
    ) -> None:
        for name, limit in (("timeout", timeout), ("stream_chunk_timeout", stream_chunk_timeout)):
            if limit is not None and (not isinstance(limit, int | float) or limit <= 0):
                raise ConfigurationError(f"{name} must be seconds above zero, or None for no limit; it is {limit!r}.")
        if max_retries is not None and (not isinstance(max_retries, int) or max_retries < 0):
            raise ConfigurationError(f"max_retries must be zero or more; it is {max_retries!r}.")
        self._forwarder = Forwarder(
            api_key=api_key,
            base_url=None if base_url is None else check_base_url(base_url),
            billing=billing,
            metadata=metadata,
        )
        self._timeout = timeout
        self._gap = stream_chunk_timeout
        self._max_retries = max_retries
        self._policy = RetryPolicy(max_retries=DEFAULT_MAX_RETRIES if max_retries is None else max_retries)
        self._http_client: _HTTP | None = http_client
        self.spend_limit = to_limit(spend_limit)
        # One engine for each way to embed, since the engine holds the limit of requests in flight.
        self._engines: dict[tuple[str, int | None, int], EmbeddingEngine] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Nothing in it ever changes, and a caller's HTTP client can't be copied.
        return self

    def __getstate__(self) -> dict[str, Any]:
        forwarder = self._forwarder
        billing, metadata = carried(forwarder.billing, forwarder.metadata, self.spend_limit, forwarder.api_key)
        sent = Forwarder(api_key=forwarder.api_key, base_url=forwarder.base_url, billing=billing, metadata=metadata)
        return vars(self) | {"_forwarder": sent, "_engines": {}}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(base_url={self._forwarder.base_url!r}, billing={self._forwarder.billing!r})"

    def _extra_headers(self) -> list[tuple[bytes, bytes]]:
        return [] if self._http_client is None else own_headers(self._http_client.headers)

    def _identity(self, billing: Billing | None, lava_metadata: Mapping[str, str] | None) -> Identity:
        return identify(
            self._forwarder.billing,
            self._forwarder.metadata,
            call_billing=to_billing(billing),
            call_metadata=lava_metadata,
            limit=self.spend_limit,
            api_key=self._forwarder.api_key,
        )

    def _engine_settings(self, model: str, dimensions: int | None, max_concurrency: int) -> dict[str, Any]:
        settings: dict[str, Any] = {"model": model, "dimensions": dimensions, "max_concurrency": max_concurrency}
        # The engine has a default of its own.
        return settings if self._max_retries is None else settings | {"max_retries": self._max_retries}

    def _chat_call(
        self,
        messages: Sequence[Message],
        model: str,
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        repair: bool,
        identity: Identity,
        timeout: float | None,
        gap: float | None = None,
    ) -> Call:
        body = chat_body(messages, model, parameters, stream=stream, repair=repair)
        return Call(
            CHAT_URL,
            identity,
            self._timeout if timeout is None else timeout,
            model,
            body,
            gap=self._gap if gap is None else gap,
            stream=stream,
            account=open_account("chat", model, identity, lambda: most_of_chat(body), streamed=stream),
        )

    def _embedding_call(
        self,
        inputs: Sequence[str],
        model: str,
        encoding_format: str | None,
        output_dimension: int | None,
        identity: Identity,
        timeout: float | None,
    ) -> Call:
        body: dict[str, Any] = {"model": model, "input": list(inputs)}
        if encoding_format is not None:
            body["encoding_format"] = encoding_format
        if output_dimension is not None:
            body["output_dimension"] = output_dimension
        account = open_account("embedding", model, identity, lambda: most_of_embedding(inputs, model))
        timeout = self._timeout if timeout is None else timeout
        return Call(EMBEDDINGS_URL, identity, timeout, model, body, account=account)


class ChatStream(StreamReader):
    """A streamed answer: iterate for its deltas; `turn`, `usage`, `cost` and `request_id` grow with it.

    Closing it, or leaving its `with` block, before its end closes the connection.

    Raises:
        StreamInterruptedError: while iterating, when the stream ends before the answer does; `partial` holds what came.
    """

    def __init__(self, call: Call, response: httpx.Response) -> None:
        super().__init__(call, response.headers)
        self._response = response
        self._bytes = response.iter_bytes()
        # Not the response's own flag: a transport may give a response that was read, and so closed, before.
        self._over = False

    def prime(self) -> Self:
        """Read until there is something to hand on. A failure before that can still be tried again."""
        while not self.started and not self._over:
            self._pull()
        if not self.started:
            self.raise_failure()
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        while not self.ready:
            self.raise_failure()
            if self._over:
                raise StopIteration
            self._pull()
        return self.ready.popleft()

    def _pull(self) -> None:
        try:
            if self.done:
                # The caller has all that came; only now is it worth a moment to get the connection back.
                self._drain()
            else:
                try:
                    began = time.monotonic()
                    data = next(self._bytes, None)
                    self._silence += time.monotonic() - began
                except (httpx.HTTPError, OSError) as error:
                    if not self.finished:
                        raise self.broken(error) from error
                    data = None
                if data is not None:
                    self.feed(data)
                    if self.done:
                        self.settle()
                    return
            self.end()
        except LavaError as error:
            # What had come before it is handed on first.
            self._failure = error
        except BaseException:
            self.close()
            raise
        self.close()

    def _drain(self) -> None:
        """Read on to the end of the body, which gives the connection back to its pool, unless that takes long."""
        deadline = time.monotonic() + PARTING
        wire = self._response.extensions
        # Many streams share a connection of HTTP/2, and its reads.
        own = wire.get("network_stream") if wire.get("http_version") != b"HTTP/2" else None
        with brief_reads(own), suppress(httpx.HTTPError, OSError):
            for _ in self._bytes:
                # Comments that keep the connection alive may go on for as long as the proxy likes.
                if time.monotonic() > deadline:
                    return

    def close(self) -> None:
        """Close the connection, or hand it back to its pool where the answer was read to its end."""
        self._over = True
        self.settle()
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChatStream(StreamReader):
    """A streamed answer in async code; see `ChatStream`."""

    def __init__(self, call: Call, response: httpx.Response) -> None:
        super().__init__(call, response.headers)
        self._response = response
        self._bytes = response.aiter_bytes()
        self._over = False

    async def prime(self) -> Self:
        """Read until there is something to hand on. A failure before that can still be tried again."""
        while not self.started and not self._over:
            await self._pull()
        if not self.started:
            self.raise_failure()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while not self.ready:
            self.raise_failure()
            if self._over:
                raise StopAsyncIteration
            await self._pull()
        return self.ready.popleft()

    async def _pull(self) -> None:
        try:
            if self.done:
                # The caller has all that came; only now is it worth a moment to get the connection back.
                await self._drain()
            else:
                try:
                    began = time.monotonic()
                    data = await anext(self._bytes, None)
                    self._silence += time.monotonic() - began
                except (httpx.HTTPError, OSError) as error:
                    if not self.finished:
                        raise self.broken(error) from error
                    data = None
                if data is not None:
                    self.feed(data)
                    if self.done:
                        self.settle()
                    return
            self.end()
        except LavaError as error:
            # What had come before it is handed on first.
            self._failure = error
        except BaseException:
            await self.aclose()
            raise
        await self.aclose()

    async def _drain(self) -> None:
        """Read on to the end of the body, which gives the connection back to its pool, unless that takes long."""
        with suppress(httpx.HTTPError, OSError, asyncio.TimeoutError):
            async with limited(PARTING):
                async for _ in self._bytes:
                    pass

    async def aclose(self) -> None:
        """Close the connection, or hand it back to its pool where the answer was read to its end."""
        self._over = True
        self.settle()
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class LavaMistral(_Settings[httpx.Client], History):
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
        http_client: an `httpx.Client` to send with, for a proxy or certificates of your own; it stays yours to close.
        spend_limit: USD that all calls of this client may cost together, or a `SpendLimit` to share. A call that could
            pass it is refused before it is sent (`SpendLimitError`).

    Raises:
        ConfigurationError: a setting is wrong. A missing key is reported by the first call.
    """

    def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        repair_messages: bool = False,
        timeout: float | None = None,
        on_retry: OnRetry | None = None,
        **parameters: Any,
    ) -> Completion:
        """One answer.

        Args:
            messages: the conversation, in Mistral's own form.
            model: the model's name.
            billing: who pays for this call.
            lava_metadata: stored by Lava with this call, over the client's own metadata.
            repair_messages: mend what Mistral would refuse in the conversation, where that invents nothing.
            timeout: seconds, for this call.
            on_retry: told before each new try.
            **parameters: fields of Mistral's request: temperature, max_tokens, tools, response_format, …

        Raises:
            LavaError: the call failed; its class says how.
        """
        call = self._chat_call(
            messages,
            model,
            parameters,
            stream=False,
            repair=repair_messages,
            identity=self._identity(billing, lava_metadata),
            timeout=timeout,
        )
        return self._retry(lambda: call.completion(self._answer(call)), call.account, on_retry)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        repair_messages: bool = False,
        timeout: float | None = None,
        stream_chunk_timeout: float | None = None,
        on_retry: OnRetry | None = None,
        **parameters: Any,
    ) -> ChatStream:
        """One answer, delta by delta; see `chat` for the arguments.

        The request is sent at once and tried again as long as nothing of an answer has come; never after that.

        Args:
            stream_chunk_timeout: seconds between two chunks, for this call.
        """
        call = self._chat_call(
            messages,
            model,
            parameters,
            stream=True,
            repair=repair_messages,
            identity=self._identity(billing, lava_metadata),
            timeout=timeout,
            gap=stream_chunk_timeout,
        )
        return self._retry(lambda: self._open(call).prime(), call.account, on_retry)

    def embedding_request(
        self,
        inputs: Sequence[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        encoding_format: str | None = None,
        output_dimension: int | None = None,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> EmbeddingAnswer:
        """One embeddings request, sent once: no batching, no retry, no check of the vectors."""
        identity = self._identity(billing, lava_metadata)
        call = self._embedding_call(inputs, model, encoding_format, output_dimension, identity, timeout)
        return call.embedding(self._answer(call))

    def embed(
        self,
        texts: Sequence[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
    ) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; see `lava_mistral.embedding`.

        Args:
            texts: each of at most 8,192 tokens.
            model: the model's name.
            dimensions: length of the vectors, for models that can shorten them.
            max_concurrency: requests in flight at most, over all calls of this client with the same settings.
            billing: who pays for this call.
            lava_metadata: stored by Lava with each of its requests.
            as_numpy: give one float32 array rather than lists of floats.
            show_progress: draw a progress bar.
            on_progress: told in the calling thread after each batch.
            resume_from: `partial` of the error that ended an earlier call with the same texts.

        Raises:
            InvalidRequestError: one of the texts can't be embedded; nothing was sent.
            LavaError: a request failed for good; `partial` has the vectors that are there.
        """
        return self._engine(model, dimensions, max_concurrency).embed(
            texts,
            billing=billing,
            lava_metadata=lava_metadata,
            as_numpy=as_numpy,
            show_progress=show_progress,
            on_progress=on_progress,
            resume_from=resume_from,
        )

    def embed_iter(
        self,
        texts: Iterable[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> EmbeddingStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        The arguments are those of `embed`.

        Args:
            read_in_thread: read the source in a thread of its own: for one that waits for others, such as a queue. By
                default it is read where the iteration takes place, which is held up while the source pauses.
        """
        return self._engine(model, dimensions, max_concurrency).embed_iter(
            texts,
            billing=billing,
            lava_metadata=lava_metadata,
            as_numpy=as_numpy,
            show_progress=show_progress,
            on_progress=on_progress,
            resume_from=resume_from,
            read_in_thread=read_in_thread,
        )

    def _engine(self, model: str, dimensions: int | None, max_concurrency: int) -> EmbeddingEngine:
        from lava_mistral.embedding import EmbeddingEngine

        key = (model, dimensions, max_concurrency)
        engine = self._engines.get(key)
        if engine is None:
            new = EmbeddingEngine(self, **self._engine_settings(model, dimensions, max_concurrency))
            engine = self._engines.setdefault(key, new)
        return engine

    def models(self) -> list[ModelCard]:
        """The models that Mistral lists for the account that serves the call."""
        call = Call(MODELS_URL, self._identity(None, None), self._timeout)
        return list(self._ask(call).get("data", []))

    def _ask(self, call: Call) -> dict[str, Any]:
        return self._retry(lambda: call.parsed(self._answer(call)), call.account)

    def _send(self, call: Call) -> httpx.Response:
        request = call.request(self._forwarder, self._extra_headers())
        try:
            if self._http_client is None:
                return sync_pool(request.url).handle_request(request)
            return self._http_client.send(request, stream=True, auth=None, follow_redirects=False)
        except httpx.HTTPStatusError as error:
            # A hook of the caller's client raises for what is an answer.
            raise call.refused(error.response) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise call.failed(error) from error
        except BaseException:
            call.abandoned()
            raise

    def _answer(self, call: Call) -> httpx.Response:
        began = time.monotonic()
        response = self._send(call)
        call.limit(response, began)
        try:
            response.read()
        except (httpx.HTTPError, OSError) as error:
            raise call.failed(error, response) from error
        except BaseException:
            call.abandoned(response)
            raise
        finally:
            response.close()
        if not response.is_success:
            raise call.refused(response)
        return response

    def _open(self, call: Call) -> ChatStream:
        response = self._send(call)
        if response.is_success:
            call.began()
            return ChatStream(call, response)
        try:
            response.read()
        except (httpx.HTTPError, OSError) as error:
            raise call.failed(error, response) from error
        except BaseException:
            call.abandoned(response)
            raise
        finally:
            response.close()
        raise call.refused(response)

    def _retry(self, attempt: Callable[[], _T], account: Account | None, on_retry: OnRetry | None = None) -> _T:
        attempts = Attempts(self._policy)
        while True:
            try:
                return attempt()
            except LavaError as error:
                wait = attempts.failed(error)
                if wait is None:
                    raise
                if on_retry is not None:
                    on_retry(error, attempts.tries, wait)
                if account is not None:
                    account.retried()
                forget_frames(error)
            time.sleep(wait)


class AsyncLavaMistral(_Settings[httpx.AsyncClient], AsyncHistory):
    """Mistral's models through Lava in async code, without a framework; see `LavaMistral` for the arguments."""

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        repair_messages: bool = False,
        timeout: float | None = None,
        on_retry: OnRetry | None = None,
        **parameters: Any,
    ) -> Completion:
        """One answer; see `LavaMistral.chat`."""
        call = self._chat_call(
            messages,
            model,
            parameters,
            stream=False,
            repair=repair_messages,
            identity=self._identity(billing, lava_metadata),
            timeout=timeout,
        )

        async def attempt() -> Completion:
            return call.completion(await self._answer(call))

        return await self._retry(attempt, call.account, on_retry)

    async def stream(
        self,
        messages: Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        repair_messages: bool = False,
        timeout: float | None = None,
        stream_chunk_timeout: float | None = None,
        on_retry: OnRetry | None = None,
        **parameters: Any,
    ) -> AsyncChatStream:
        """One answer, delta by delta; see `LavaMistral.stream`."""
        call = self._chat_call(
            messages,
            model,
            parameters,
            stream=True,
            repair=repair_messages,
            identity=self._identity(billing, lava_metadata),
            timeout=timeout,
            gap=stream_chunk_timeout,
        )

        async def attempt() -> AsyncChatStream:
            return await (await self._open(call)).prime()

        return await self._retry(attempt, call.account, on_retry)

    async def embedding_request(
        self,
        inputs: Sequence[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        encoding_format: str | None = None,
        output_dimension: int | None = None,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> EmbeddingAnswer:
        """One embeddings request, sent once; see `LavaMistral.embedding_request`."""
        identity = self._identity(billing, lava_metadata)
        call = self._embedding_call(inputs, model, encoding_format, output_dimension, identity, timeout)
        return call.embedding(await self._answer(call))

    async def embed(
        self,
        texts: Sequence[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
    ) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; see `LavaMistral.embed`."""
        return await self._engine(model, dimensions, max_concurrency).aembed(
            texts,
            billing=billing,
            lava_metadata=lava_metadata,
            as_numpy=as_numpy,
            show_progress=show_progress,
            on_progress=on_progress,
            resume_from=resume_from,
        )

    def embed_iter(
        self,
        texts: AsyncIterable[str] | Iterable[str],
        *,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> AsyncEmbeddingStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        The arguments are those of `embed`; the source may be async. Iterate with `async for`.
        """
        return self._engine(model, dimensions, max_concurrency).aembed_iter(
            texts,
            billing=billing,
            lava_metadata=lava_metadata,
            as_numpy=as_numpy,
            show_progress=show_progress,
            on_progress=on_progress,
            resume_from=resume_from,
            read_in_thread=read_in_thread,
        )

    def _engine(self, model: str, dimensions: int | None, max_concurrency: int) -> EmbeddingEngine:
        from lava_mistral.embedding import EmbeddingEngine

        key = (model, dimensions, max_concurrency)
        engine = self._engines.get(key)
        if engine is None:
            new = EmbeddingEngine(None, self, **self._engine_settings(model, dimensions, max_concurrency))
            engine = self._engines.setdefault(key, new)
        return engine

    async def models(self) -> list[ModelCard]:
        """The models that Mistral lists for the account that serves the call."""
        call = Call(MODELS_URL, self._identity(None, None), self._timeout)
        return list((await self._ask(call)).get("data", []))

    async def _ask(self, call: Call) -> dict[str, Any]:
        async def attempt() -> dict[str, Any]:
            return call.parsed(await self._answer(call))

        return await self._retry(attempt, call.account)

    async def _send(self, call: Call) -> httpx.Response:
        request = call.request(self._forwarder, self._extra_headers())
        try:
            if self._http_client is None:
                return await (await async_pool(request.url)).handle_async_request(request)
            return await self._http_client.send(request, stream=True, auth=None, follow_redirects=False)
        except httpx.HTTPStatusError as error:
            # A hook of the caller's client raises for what is an answer.
            raise call.refused(error.response) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise call.failed(error) from error
        except RuntimeError as error:
            call.abandoned()
            if "loop" not in str(error):
                raise
            # The connections of a caller's client stay in the event loop that they were opened in.
            raise ConfigurationError(
                f"The httpx.AsyncClient was used in another event loop before ({error}). Make one for each "
                "asyncio.run, or leave it out: each event loop then gets connections of its own."
            ) from error
        except BaseException:
            call.abandoned()
            raise

    async def _answer(self, call: Call) -> httpx.Response:
        began = time.monotonic()
        response = await self._send(call)
        call.limit(response, began)
        try:
            await response.aread()
        except (httpx.HTTPError, OSError) as error:
            raise call.failed(error, response) from error
        except BaseException:
            call.abandoned(response)
            raise
        finally:
            await response.aclose()
        if not response.is_success:
            raise call.refused(response)
        return response

    async def _open(self, call: Call) -> AsyncChatStream:
        response = await self._send(call)
        if response.is_success:
            call.began()
            return AsyncChatStream(call, response)
        try:
            await response.aread()
        except (httpx.HTTPError, OSError) as error:
            raise call.failed(error, response) from error
        except BaseException:
            call.abandoned(response)
            raise
        finally:
            await response.aclose()
        raise call.refused(response)

    async def _retry(
        self, attempt: Callable[[], Awaitable[_T]], account: Account | None, on_retry: OnRetry | None = None
    ) -> _T:
        attempts = Attempts(self._policy)
        while True:
            try:
                return await attempt()
            except LavaError as error:
                wait = attempts.failed(error)
                if wait is None:
                    raise
                if on_retry is not None:
                    on_retry(error, attempts.tries, wait)
                if account is not None:
                    account.retried()
                forget_frames(error)
            await asyncio.sleep(wait)
