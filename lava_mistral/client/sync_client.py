"""Provide `LavaMistral`, the framework-free client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lava_mistral.billing.identity import Billing
from lava_mistral.calls.call import MODELS_URL, Call
from lava_mistral.calls.responses import Completion, EmbeddingAnswer
from lava_mistral.client.records import History
from lava_mistral.embedding.rate_limit import DEFAULT_MAX_CONCURRENCY
from lava_mistral.mistral.types import Message, ModelCard
from lava_mistral.transport.flow import drive
from lava_mistral.transport.pools import sync_pool

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import (
        EmbeddingEngine,
        EmbeddingResult,
        EmbeddingStream,
        PartialEmbedding,
    )
    from lava_mistral.embedding.progress import OnProgress

from lava_mistral.client._base import DEFAULT_CHAT_MODEL, DEFAULT_EMBEDDING_MODEL, ClientBase, OnRetry, Transport
from lava_mistral.client.streams import ChatStream

_T = TypeVar("_T")


class LavaMistral(ClientBase, History):
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
        retry: a `lava_mistral.transport.retry.RetryPolicy`, which also says how long to wait; `max_retries` is ignored
            where it is given.

    Raises:
        ConfigurationError: a setting is wrong. A missing key is reported by the first call.
    """

    _asynchronous = False

    def chat(
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
        """One answer.

        Args:
            messages: the conversation, in Mistral's own form.
            model: the model's name.
            billing: who pays for this call.
            lava_metadata: stored by Lava with this call, over the client's own metadata.
            repair_messages: repair what Mistral would refuse in the conversation, losing no word; false refuses it.
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
        return drive(self._completed(call, on_retry))

    def stream(
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
        return drive(self._opened(call, ChatStream, on_retry))

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
        return call.embedding(drive(self._answer(call)))

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
        from lava_mistral.embedding.engine import EmbeddingEngine

        key = (model, dimensions, max_concurrency)
        engine: EmbeddingEngine | None = self._engines.get(key)
        if engine is None:
            new = EmbeddingEngine(self, **self._engine_settings(model, dimensions, max_concurrency))
            engine = self._engines.setdefault(key, new)
        return engine

    def models(self) -> list[ModelCard]:
        """The models that Mistral lists for the account that serves the call."""
        call = Call(MODELS_URL, self._identity(None, None), self._timeout)
        return list(self._ask(call).get("data", []))

    def _ask(self, call: Call) -> dict[str, Any]:
        return drive(self._asked(call))

    def _shared_transport(self) -> Transport:
        return sync_pool()

    def _sleep(self, seconds: float) -> None:
        time.sleep(seconds)
