"""The framework-free client: `LavaMistral` and its async twin, side by side.

Everything that can be said without I/O is in `calls`; what is left here sends, waits and reads.
A client holds settings alone and the connections belong to the process or the event loop (see `pools`), so a client
is cheap to make, picklable, and safe to share between threads and event loops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import httpx

from lava_mistral.billing.credentials import Secret, check_base_url
from lava_mistral.billing.identity import Billing, to_billing
from lava_mistral.billing.metering import open_account
from lava_mistral.billing.pickling import carried
from lava_mistral.billing.scope import Identity, identify
from lava_mistral.billing.spend_limit import Amount, SpendLimit, to_limit
from lava_mistral.calls.call import CHAT_URL, EMBEDDINGS_URL, Call, client_headers
from lava_mistral.calls.chat_body import chat_body
from lava_mistral.calls.defaults import DEFAULT_CHAT_MODEL as DEFAULT_CHAT_MODEL
from lava_mistral.calls.defaults import DEFAULT_EMBEDDING_MODEL as DEFAULT_EMBEDDING_MODEL
from lava_mistral.calls.defaults import DEFAULT_TIMEOUT as DEFAULT_TIMEOUT
from lava_mistral.errors import ConfigurationError, LavaError
from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.types import Message
from lava_mistral.pricing.estimate import most_of_chat, most_of_embedding
from lava_mistral.transport.lava import Forwarder
from lava_mistral.transport.retry import DEFAULT_MAX_RETRIES, RetryPolicy

if TYPE_CHECKING:
    from lava_mistral.embedding.engine import (
        EmbeddingEngine,
    )


OnRetry: TypeAlias = Callable[[LavaError, int, float], None]
"""Told before each wait: the error, how many tries were made, seconds to the next."""

_HTTP = TypeVar("_HTTP", httpx.Client, httpx.AsyncClient)


class ClientBase(Generic[_HTTP]):
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
        return client_headers(httpx.Headers() if self._http_client is None else self._http_client.headers)

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
        names = ToolNames.of_tools(parameters.get("tools"))
        body = chat_body(messages, model, parameters, stream=stream, repair=repair, names=names)
        return Call(
            CHAT_URL,
            identity,
            self._timeout if timeout is None else timeout,
            model,
            body,
            gap=self._gap if gap is None else gap,
            stream=stream,
            names=names,
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
