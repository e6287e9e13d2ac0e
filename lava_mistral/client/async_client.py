"""Provide `AsyncLavaMistral`, the framework-free client for async code."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from lava_mistral.billing.identity import Billing
from lava_mistral.billing.metering import Account
from lava_mistral.calls.call import MODELS_URL, Call
from lava_mistral.calls.error_mapping import forget_frames
from lava_mistral.calls.responses import Completion, EmbeddingAnswer
from lava_mistral.client.records import AsyncHistory
from lava_mistral.embedding.rate_limit import DEFAULT_MAX_CONCURRENCY
from lava_mistral.errors import ConfigurationError, LavaError
from lava_mistral.mistral.types import Message, ModelCard
from lava_mistral.transport.pools import async_pool
from lava_mistral.transport.retry import Attempts

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import (
        AsyncEmbeddingStream,
        EmbeddingEngine,
        EmbeddingResult,
        PartialEmbedding,
    )
    from lava_mistral.embedding.progress import OnProgress

from lava_mistral.client._base import DEFAULT_CHAT_MODEL, DEFAULT_EMBEDDING_MODEL, ClientBase, OnRetry
from lava_mistral.client.streams import AsyncChatStream

_T = TypeVar("_T")


class AsyncLavaMistral(ClientBase[httpx.AsyncClient], AsyncHistory):
    """Mistral's models through Lava in async code, without a framework; see `LavaMistral` for the arguments."""

    async def chat(
        self,
        messages: Sequence[Message],
        *,
        model: str = DEFAULT_CHAT_MODEL,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        repair_messages: bool = True,
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
        repair_messages: bool = True,
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
        from lava_mistral.embedding.engine import EmbeddingEngine

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
