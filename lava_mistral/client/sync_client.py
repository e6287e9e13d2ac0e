"""Provide `LavaMistral`, the framework-free client."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Unpack

from lava_mistral.calls.responses import Completion
from lava_mistral.client._base import ClientBase
from lava_mistral.client.options import ChatOptions, EmbedIterOptions, EmbedOptions
from lava_mistral.client.records import History
from lava_mistral.client.streams import ChatStream
from lava_mistral.mistral.types import Message
from lava_mistral.transport.flow import drive, driven
from lava_mistral.transport.pools import sync_pool

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import EmbeddingResult, EmbeddingStream


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
    _shared_pool = staticmethod(sync_pool)
    _sleep = staticmethod(time.sleep)

    embedding_request = driven(ClientBase._embedding_request)
    models = driven(ClientBase._models)

    def chat(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> Completion:
        """One answer.

        Args:
            messages: the conversation, in Mistral's own form.
            model: the model's name.
            billing: who pays for this call.
            lava_metadata: stored by Lava with this call, over the client's own metadata.
            repair_messages: repair what Mistral would refuse in the conversation, losing no word; false refuses it.
            timeout: seconds, for this call.
            on_retry: told before each new try.
            idempotency_key: sent as `Idempotency-Key` with each try. Lava documents it for its own interface, and does
                not say whether its proxy heeds it.
            **options: fields of Mistral's request: temperature, max_tokens, tools, response_format, …

        Raises:
            LavaError: the call failed; its class says how.
        """
        answer: Completion = drive(self._chat(messages, options))
        return answer

    def stream(self, messages: Sequence[Message], **options: Unpack[ChatOptions]) -> ChatStream:
        """One answer, delta by delta; see `chat` for the arguments.

        The request is sent at once and tried again as long as nothing of an answer has come; never after that.

        Args:
            stream_chunk_timeout: seconds between two chunks, for this call.
        """
        opened: ChatStream = drive(self._chat(messages, options, ChatStream))
        return opened

    def embed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> EmbeddingResult:
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
        engine, given = self._engine(options)
        found: EmbeddingResult = engine.embed(texts, **given)
        return found

    def embed_iter(self, texts: Iterable[str], **options: Unpack[EmbedIterOptions]) -> EmbeddingStream:
        """The vectors of a source of any length as `(index, vector)`, in order and in constant memory.

        The arguments are those of `embed`.

        Args:
            read_in_thread: read the source in a thread of its own: for one that waits for others, such as a queue. By
                default it is read where the iteration takes place, which is held up while the source pauses.
        """
        engine, given = self._engine(options)
        stream: EmbeddingStream = engine.embed_iter(texts, **given)
        return stream
