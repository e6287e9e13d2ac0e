"""The framework-free client: `LavaMistral` and its async twin, side by side.

Everything that can be said without I/O is in `calls`; what is left here sends, waits and reads.
A client holds settings alone and the connections belong to the process or the event loop (see `pools`), so a client
is cheap to make, picklable, and safe to share between threads and event loops.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self, TypeAlias, TypeVar

from lava_mistral.billing.identity import Billing, Secret, check_base_url, to_billing
from lava_mistral.billing.metering import CallMeter, open_call_meter
from lava_mistral.billing.pickling import carried
from lava_mistral.billing.scope import BillingContext, check_customer, identify, warn_of_unused_block
from lava_mistral.billing.spend_limit import Amount, SpendLimit, to_limit
from lava_mistral.calls.call import CHAT_URL, EMBEDDINGS_URL, Call, client_headers, is_success
from lava_mistral.calls.chat_body import chat_body
from lava_mistral.calls.defaults import DEFAULT_CHAT_MODEL as DEFAULT_CHAT_MODEL
from lava_mistral.calls.defaults import DEFAULT_EMBEDDING_MODEL as DEFAULT_EMBEDDING_MODEL
from lava_mistral.calls.defaults import DEFAULT_TIMEOUT as DEFAULT_TIMEOUT
from lava_mistral.calls.error_mapping import forget_frames
from lava_mistral.calls.responses import Answer, Completion
from lava_mistral.errors import ConfigurationError, LavaError
from lava_mistral.mistral.tool_names import ToolNames
from lava_mistral.mistral.types import Message
from lava_mistral.pricing.estimate import most_of_chat, most_of_embedding
from lava_mistral.transport.clients import ClientTransport
from lava_mistral.transport.deadline import Deadline
from lava_mistral.transport.failures import TransportError
from lava_mistral.transport.flow import Flow
from lava_mistral.transport.lava import Forwarder
from lava_mistral.transport.request import Request, Response, read
from lava_mistral.transport.retry import Attempts, RetryPolicy

OnRetry: TypeAlias = Callable[[LavaError, int, float], None]
"""Told before each wait: the error, how many tries were made, seconds to the next."""

_T = TypeVar("_T")


class Stream(Protocol):
    """A streamed answer, sync or async."""

    def __init__(self, call: Call, response: Response, deadline: Deadline) -> None: ...
    def prime(self) -> Flow[None]: ...


_Stream = TypeVar("_Stream", bound=Stream)


class Transport(Protocol):
    """What sends a request: the pool of the process or event loop, or the caller's own client."""

    def send(self, request: Request, deadline: Deadline) -> Flow[Response]: ...


class ClientBase:
    """What both clients are made of, and what they do, as flows that each drives in its way."""

    _asynchronous: ClassVar[bool]

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
        self._forwarder = Forwarder(
            api_key=api_key,
            base_url=None if base_url is None else check_base_url(base_url),
            billing=billing,
            metadata=metadata,
        )
        self._timeout = timeout
        self._gap = stream_chunk_timeout
        if retry is None and max_retries is not None:
            retry = RetryPolicy(max_retries=max_retries)
        self._retry = retry
        self._policy = retry or RetryPolicy()
        self._own_transport: Transport | None = None
        if http_client is not None:
            self._own_transport = ClientTransport(http_client, asynchronous=self._asynchronous)
        self._extra_headers = client_headers(http_client)
        self.spend_limit = to_limit(spend_limit)
        self._require_customer = require_customer
        # One engine for each way to embed, since the engine holds the limit of requests in flight.
        self._engines: dict[tuple[str, int | None, int], Any] = {}

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

    def _identity(self, billing: Billing | None, lava_metadata: Mapping[str, str] | None) -> BillingContext:
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
        return settings if self._retry is None else settings | {"retry": self._retry}

    def _chat_call(
        self,
        messages: Sequence[Message],
        model: str,
        parameters: Mapping[str, Any],
        *,
        stream: bool,
        repair: bool,
        identity: BillingContext,
        timeout: float | None,
        gap: float | None = None,
    ) -> Call:
        check_customer(identity, self._require_customer)
        warn_of_unused_block(identity, streams=stream)
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
            account=open_call_meter("chat", model, identity, lambda: most_of_chat(body), streamed=stream),
        )

    def _embedding_call(
        self,
        inputs: Sequence[str],
        model: str,
        encoding_format: str | None,
        output_dimension: int | None,
        identity: BillingContext,
        timeout: float | None,
    ) -> Call:
        check_customer(identity, self._require_customer)
        body: dict[str, Any] = {"model": model, "input": list(inputs)}
        if encoding_format is not None:
            body["encoding_format"] = encoding_format
        if output_dimension is not None:
            body["output_dimension"] = output_dimension
        account = open_call_meter("embedding", model, identity, lambda: most_of_embedding(inputs, model))
        timeout = self._timeout if timeout is None else timeout
        return Call(EMBEDDINGS_URL, identity, timeout, model, body, account=account)

    @abstractmethod
    def _shared_transport(self) -> Transport: ...

    @abstractmethod
    def _sleep(self, seconds: float) -> Any: ...

    def _completed(self, call: Call, on_retry: OnRetry | None) -> Flow[Completion]:
        """Get an answer, trying again as the policy allows."""

        def attempt() -> Flow[Completion]:
            return call.completion((yield from self._answer(call)))

        return self._retried(attempt, call.account, on_retry)

    def _opened(self, call: Call, kind: type[_Stream], on_retry: OnRetry | None) -> Flow[_Stream]:
        """Get a stream whose first delta is there, trying again as the policy allows."""
        return self._retried(lambda: self._open(call, kind), call.account, on_retry)

    def _asked(self, call: Call) -> Flow[dict[str, Any]]:
        """Get a JSON object, trying again as the policy allows."""

        def attempt() -> Flow[dict[str, Any]]:
            return call.parsed((yield from self._answer(call)))

        return self._retried(attempt, call.account)

    def _answer(self, call: Call) -> Flow[Answer]:
        """Send a request once and read the whole answer, within the call's timeout in all.

        Raises:
            LavaError: no answer came, or one that is an error.
        """
        deadline = Deadline(call.timeout)
        response = yield from self._send(call, deadline)
        return (yield from self._read(call, response, deadline))

    def _open(self, call: Call, kind: type[_Stream]) -> Flow[_Stream]:
        """Send a request once and read its stream to the first delta, within the call's timeout in all."""
        deadline = Deadline(call.timeout)
        response = yield from self._send(call, deadline)
        if not is_success(response.status):
            yield from self._read(call, response, deadline)
        stream = kind(call, response, deadline)
        yield from stream.prime()
        return stream

    def _send(self, call: Call, deadline: Deadline) -> Flow[Response]:
        request = call.request(self._forwarder, self._extra_headers)
        transport = self._own_transport or self._shared_transport()
        return self._guarded(call, transport.send(request, deadline))

    def _read(self, call: Call, response: Response, deadline: Deadline) -> Flow[Answer]:
        content = self._guarded(call, read(response, deadline), response)
        answers = [Answer(response.status, response.headers, (yield from content))]
        if not is_success(answers[0].status):
            # Handed over: what a server repeats of the key must not stand in the frames of the traceback.
            raise call.refused(answers.pop())
        return answers[0]

    def _guarded(self, call: Call, steps: Flow[_T], response: Response | None = None) -> Flow[_T]:
        """Make the steps of a request; if they fail, end it and raise the error that says so."""
        try:
            return (yield from steps)
        except TransportError as error:
            failure = call.failed(error, response)
        except LavaError:
            call.charge.free()
            raise
        except BaseException:
            call.abandoned(response)
            raise
        # Out of the handler, so that nothing of the transport's frames is in the error's context.
        try:
            raise failure
        finally:
            del failure

    def _retried(
        self, attempt: Callable[[], Flow[_T]], account: CallMeter | None, on_retry: OnRetry | None = None
    ) -> Flow[_T]:
        """Make an attempt, and more as long as the policy allows."""
        attempts = Attempts(self._policy)
        while True:
            try:
                return (yield from attempt())
            except LavaError as error:
                wait = attempts.failed(error)
                if wait is None:
                    raise
                if on_retry is not None:
                    on_retry(error, attempts.tries, wait)
                if account is not None:
                    account.retried()
                forget_frames(error)
            yield self._sleep(wait)
