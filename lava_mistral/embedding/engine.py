"""The ingestion engine: any number of texts in, one vector for each out, in order, as fast as the account allows.

Both frameworks' embeddings and `LavaMistral.embed` run on it. What it decides is in `planning`, `pacing`, `exchange`,
`ingestion`, `vectors` and `retry`; here and in `vector_streams` are the threads and the tasks that obey.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, Self

from lava_mistral._fork import new_lock
from lava_mistral.billing.identity import Billing
from lava_mistral.billing.listeners import present_watch
from lava_mistral.calls.responses import EmbeddingAnswer
from lava_mistral.embedding.batch_request import Exchange, Report, Send, Sleep
from lava_mistral.embedding.batching import MAX_REQUEST_INPUTS, MAX_REQUEST_TOKENS, Batch, Count, Planner
from lava_mistral.embedding.conduct import conducted, take_all
from lava_mistral.embedding.input_validation import Inspector
from lava_mistral.embedding.jobs import Collection, Flow, as_texts, refuse_one_text
from lava_mistral.embedding.limiter import Gate, Stop, Stopped
from lava_mistral.embedding.progress import OnProgress, Watch
from lava_mistral.embedding.rate_limit import DEFAULT_MAX_CONCURRENCY, Outcome, Pacer, Ticket
from lava_mistral.embedding.results import (
    EmbeddingProgress,
    EmbeddingResult,
    EmbeddingUsage,
    PartialEmbedding,
    partial_of,
)
from lava_mistral.embedding.sources import Ahead, AsyncAhead, Here
from lava_mistral.embedding.vector_streams import AsyncEmbeddingStream, EmbeddingStream, astream, stream
from lava_mistral.embedding.workers import TaskLanes, ThreadLanes
from lava_mistral.errors import ConfigurationError, LavaError, RateLimitError
from lava_mistral.pricing.tokenizers import count_text, prepare
from lava_mistral.pricing.tokens import estimate_tokens
from lava_mistral.transport.retry import RetryPolicy

__all__ = [
    "DEFAULT_MAX_CONCURRENCY",
    "DEFAULT_MAX_RETRIES",
    "AsyncEmbeddingStream",
    "EmbeddingEngine",
    "EmbeddingProgress",
    "EmbeddingResult",
    "EmbeddingStream",
    "EmbeddingUsage",
    "PartialEmbedding",
    "partial_of",
]

DEFAULT_MAX_RETRIES: Final = 10
"""More than a chat's: among many requests that share an account's limit, one may be refused several times in a row."""
_TOGETHER: Final = 1_000
"""Texts that are looked at before the event loop has its turn."""


class SyncEmbedder(Protocol):
    """What sends one embeddings request: `LavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., EmbeddingAnswer]: ...


class AsyncEmbedder(Protocol):
    """What sends one embeddings request: `AsyncLavaMistral`."""

    @property
    def embedding_request(self) -> Callable[..., Awaitable[EmbeddingAnswer]]: ...


@dataclass
class _Runtime:
    """What one process has of an engine."""

    pid: int
    gate: Gate


_starting = new_lock()


class EmbeddingEngine:
    """Embeds any number of texts with as many requests in flight as allowed, and never more.

    One limit holds for everything that one engine does: any number of threads and event loops at once, sync and
    async. An engine is cheap to make, safe to share, and can be pickled: a copy in another process, forked or
    spawned, has a limit of its own and finds the pace that the account allows by the rate-limit headers and refusals.

    Args:
        client: sends the requests of sync code.
        async_client: sends the requests of async code.
        model: Mistral's name of the model.
        dimensions: length of the vectors, for models that can shorten them.
        max_concurrency: requests in flight at most.
        max_retries: how often a failed request is repeated; ignored where `retry` is given.
        timeout: seconds for one request; `None` for the client's own.
        retry: when to repeat a failed request and how long to wait.
        count_tokens: counts the tokens of a text, exactly or a little too high. By default it is an upper estimate,
            which takes a tenth of a tokenizer's time; where there is much to embed and the extra `[tokenizer]` is
            installed, the exact counts of a sample say by how much it is too high.

    Raises:
        ConfigurationError: a number that can't be, or a call without the client that it needs.
    """

    def __init__(
        self,
        client: SyncEmbedder | None = None,
        async_client: AsyncEmbedder | None = None,
        *,
        model: str = "mistral-embed",
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        max_retries: int = DEFAULT_MAX_RETRIES,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        count_tokens: Count | None = None,
    ) -> None:
        if max_concurrency < 1:
            raise ConfigurationError(f"max_concurrency must be at least 1, not {max_concurrency}.")
        if dimensions is not None and dimensions < 1:
            raise ConfigurationError(f"dimensions must be at least 1, not {dimensions}.")
        if max_retries < 0:
            raise ConfigurationError(f"max_retries must be 0 or more, not {max_retries}.")
        self.client = client
        self.async_client = async_client
        self.model = model
        self.dimensions = dimensions
        self.max_concurrency = max_concurrency
        self.timeout = timeout
        self.retry = RetryPolicy(max_retries=max_retries) if retry is None else retry
        self._count_tokens = count_tokens
        self._count = count_tokens or estimate_tokens
        self._exchange = Exchange(model, dimensions, self.retry)
        self._runtime: _Runtime | None = None

    def __repr__(self) -> str:
        return f"EmbeddingEngine(model={self.model!r}, max_concurrency={self.max_concurrency})"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_runtime": None}

    @property
    def gate(self) -> Gate:
        """Where this process's requests wait for their turn."""
        runtime = self._runtime
        if runtime is None or runtime.pid != os.getpid():
            with _starting:
                runtime = self._runtime
                if runtime is None or runtime.pid != os.getpid():
                    pacer = Pacer(
                        self.max_concurrency,
                        longest_wait=self.retry.max_total,
                        first_pause=self.retry.initial,
                        longest_pause=self.retry.longest,
                    )
                    runtime = self._runtime = _Runtime(os.getpid(), Gate(pacer))
        return runtime.gate

    def check(self, texts: Sequence[str]) -> None:
        """Refuse what can't be embedded, without sending anything.

        Raises:
            InvalidRequestError: Mistral would refuse one of the texts; the message names its index.
        """
        inspector = self._inspector()
        for index, text in enumerate(texts):
            inspector.check(index, text)

    @property
    def _window(self) -> int:
        # A few batches wait at the gate, so that the next request leaves when one ends and not when it is planned.
        return self.max_concurrency + max(2, self.max_concurrency // 2)

    def embed(
        self,
        texts: Sequence[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
    ) -> EmbeddingResult:
        """The vectors of the texts, in their order.

        Every text is checked before anything is sent; equal texts are sent once.

        Args:
            texts: what to embed, any number of them, each of at most 8,192 tokens.
            billing: who pays for this call.
            lava_metadata: stored by Lava with each of its requests.
            as_numpy: give one float32 array of shape (texts, dimensions) rather than lists of floats.
            show_progress: draw a progress bar.
            on_progress: told in the calling thread after each batch.
            resume_from: `partial` of the error that ended an earlier call with the same texts.

        Raises:
            InvalidRequestError: one of the texts can't be embedded; nothing was sent.
            LavaError: a request failed for good. Whatever is raised, be it a `KeyboardInterrupt`, has `partial`: the
                vectors that are there.
        """
        client = self._need(self.client, "client")
        collection = self._collection(texts, as_numpy, resume_from)
        options = self._options(billing, lava_metadata)

        def work(report: Report, stop: Stop) -> None:
            self._obey(report, client, options, stop)

        lanes = ThreadLanes(work, self.max_concurrency, copy_context())
        with conducted(collection, lanes, present_watch().listeners, show_progress, on_progress) as watch:
            for index in range(len(collection.texts)):
                collection.check(index)
                collection.admit(index)
            batches = collection.batches(self._planner(collection))
            ahead = [batch for batch in (next(batches, None), next(batches, None)) if batch is not None]
            if len(ahead) == 1:
                # One request needs no thread.
                report = Report(ahead[0])
                try:
                    work(report, Stop())
                finally:
                    collection.take(report)
                watch.update()
            elif ahead:
                with lanes:
                    _collect(collection, ahead, batches, lanes, self._window, watch)
            if collection.error is not None:
                raise collection.error
            watch.finish()
        return collection.result()

    async def aembed(
        self,
        texts: Sequence[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
    ) -> EmbeddingResult:
        """Like `embed`; the event loop goes on meanwhile, and cancelling the task cancels its requests.

        `partial_of` finds what was there behind a `TimeoutError` of `asyncio.wait_for` too.
        """
        client = self._need(self.async_client, "async_client")
        collection = self._collection(texts, as_numpy, resume_from)
        options = self._options(billing, lava_metadata)

        async def work(report: Report, lanes: TaskLanes) -> None:
            await self._aobey(report, client, options, lanes)

        changed = asyncio.Event()
        lanes = TaskLanes(work, changed)
        with conducted(collection, lanes, present_watch().listeners, show_progress, on_progress) as watch:
            for index in range(len(collection.texts)):
                if collection.is_long(index):
                    await asyncio.to_thread(collection.check, index)
                else:
                    collection.check(index)
                collection.admit(index)
                if index % _TOGETHER == _TOGETHER - 1:
                    await asyncio.sleep(0)
            batches = collection.batches(self._planner(collection))
            async with lanes:
                await _acollect(collection, batches, lanes, changed, self._window, watch)
            if collection.error is not None:
                raise collection.error
            watch.finish()
        return collection.result()

    def embed_iter(
        self,
        texts: Iterable[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> EmbeddingStream:
        """The vectors of a source of any length, one by one and in order, in constant memory.

        The source is read in the thread that iterates, a bounded number of texts ahead of what was handed on: a
        database cursor, say, may be used in one thread only. So while it does not give its next text, nothing is
        handed on; what was ready comes right after that, and what does not fill a batch within 0.2 s is sent as it
        is. A source that waits for others, such as a queue, is better read in a thread of its own (`read_in_thread`).

        Who pays (`billed_to`) is settled by this call and not by where the iteration takes place.

        Args:
            texts: what to embed; read once.
            billing: who pays for these requests.
            lava_metadata: stored by Lava with each of them.
            as_numpy: give float32 arrays rather than lists of floats.
            show_progress: draw a progress bar.
            on_progress: told in the iterating thread after each batch.
            resume_from: `partial` of the error that ended an earlier stream over the same source, or of the stream
                itself: what it had handed on is skipped, what it had got beside that is not paid again.
            read_in_thread: read the source in another thread, so that a pause of it holds nothing back. A thread that
                waits for the source when the stream is closed ends with the source's next text.

        Returns:
            An iterator of `(index, vector)`; its `usage` says what it has taken so far, its `partial()` what it has
            got and not handed on; `close()` gives it up.

        Raises:
            InvalidRequestError: while iterating, when all before it was handed on: a text can't be embedded.
            LavaError: likewise: a request failed for good. Whatever is raised has `partial`.
        """
        client = self._need(self.client, "client")
        refuse_one_text(texts)
        flow = self._flow(texts, as_numpy, resume_from)
        options = self._options(billing, lava_metadata)
        context = copy_context()

        def work(report: Report, stop: Stop) -> None:
            self._obey(report, client, options, stop)

        lanes = ThreadLanes(work, self.max_concurrency, context)
        source = Ahead(texts, context, lanes.wake, MAX_REQUEST_INPUTS) if read_in_thread else Here(texts)
        conduct = conducted(flow, lanes, present_watch().listeners, show_progress, on_progress)
        return EmbeddingStream(stream(flow, source, lanes, self.max_concurrency, conduct), flow, lanes)

    def aembed_iter(
        self,
        texts: AsyncIterable[str] | Iterable[str],
        *,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        as_numpy: bool = False,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        resume_from: PartialEmbedding | None = None,
        read_in_thread: bool = False,
    ) -> AsyncEmbeddingStream:
        """Like `embed_iter`, for `async for`; the source may be async too.

        An async source that pauses holds nothing back: after 0.2 s a batch leaves as it is. A plain iterable is read in
        the event loop; one that blocks is better read in a thread of its own (`read_in_thread`).
        """
        client = self._need(self.async_client, "async_client")
        refuse_one_text(texts)
        flow = self._flow(texts, as_numpy, resume_from)
        options = self._options(billing, lava_metadata)

        async def work(report: Report, lanes: TaskLanes) -> None:
            await self._aobey(report, client, options, lanes)

        changed = asyncio.Event()
        lanes = TaskLanes(work, changed)
        conduct = conducted(flow, lanes, present_watch().listeners, show_progress, on_progress)
        ahead = None if not read_in_thread else partial(AsyncAhead, context=copy_context(), limit=MAX_REQUEST_INPUTS)
        return AsyncEmbeddingStream(astream(texts, flow, lanes, changed, conduct, ahead), flow, lanes)

    def _need(self, client: Any, name: str) -> Any:
        if client is None:
            raise ConfigurationError(f"This engine was made without {name}=, which this call needs.")
        return client

    def _options(self, billing: Billing | None, lava_metadata: Mapping[str, str] | None) -> dict[str, Any]:
        given: dict[str, Any] = {"model": self.model, "output_dimension": self.dimensions, "billing": billing}
        given |= {"lava_metadata": lava_metadata, "timeout": self.timeout}
        return {name: value for name, value in given.items() if value is not None}

    def _collection(self, texts: Sequence[str], as_numpy: bool, resume_from: PartialEmbedding | None) -> Collection:
        return Collection(
            as_texts(texts), self._inspector(), self._exchange.making, as_numpy=as_numpy, resume_from=resume_from
        )

    def _planner(self, collection: Collection) -> Planner:
        if collection.characters <= MAX_REQUEST_TOKENS:
            return Planner(self._count, self._exchange.calibration)
        return Planner(
            self._count,
            self._exchange.calibration,
            lanes=self.max_concurrency,
            characters=collection.characters,
            sample=collection.sample(32),
            exact=self._exact_sample,
        )

    def _flow(self, texts: object, as_numpy: bool, resume_from: PartialEmbedding | None) -> Flow:
        return Flow(
            self._inspector(),
            self._exchange.making,
            Planner(self._count, self._exchange.calibration, exact=self._exact_sample),
            window=self._window,
            as_numpy=as_numpy,
            resume_from=resume_from,
            total=len(texts) if isinstance(texts, Sequence) else None,
        )

    def _inspector(self) -> Inspector:
        return Inspector(self._count, self._exact_count)

    def _exact_count(self) -> Count | None:
        return self._count_tokens or _exact_counter(self.model)

    def _exact_sample(self) -> Count | None:
        """What counts exactly at once: nothing, while the tokenizer is being loaded."""
        # A function of the caller's is taken at its word.
        if self._count_tokens is not None or not prepare(self.model):
            return None
        return _exact_counter(self.model)

    def _obey(self, report: Report, client: SyncEmbedder, options: Mapping[str, Any], stop: Stop) -> None:
        """Do in this thread what the conversation about a batch asks for."""
        steps = self._exchange.converse(report, self._count)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    stop.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(self._send(step, client, options, stop))
        except StopIteration:
            pass
        except (LavaError, Stopped) as error:
            report.error = error

    def _send(
        self, step: Send, client: SyncEmbedder, options: Mapping[str, Any], stop: Stop
    ) -> EmbeddingAnswer | LavaError:
        gate = self.gate
        with _Passage(gate) as passage:
            passage.ticket = gate.enter(step.batch.tokens, stop)
            try:
                answer = client.embedding_request(step.batch.texts, encoding_format=step.encoding, **options)
            except LavaError as error:
                return passage.failed(error)
            return passage.answered(answer)

    async def _aobey(self, report: Report, client: AsyncEmbedder, options: Mapping[str, Any], lanes: TaskLanes) -> None:
        """Do in this task what the conversation about a batch asks for."""
        steps = self._exchange.converse(report, self._count)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Sleep):
                    lanes.check()
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
                else:
                    step = steps.send(await self._asend(step, client, options, lanes))
        except StopIteration:
            pass
        except (LavaError, Stopped) as error:
            report.error = error

    async def _asend(
        self, step: Send, client: AsyncEmbedder, options: Mapping[str, Any], lanes: TaskLanes
    ) -> EmbeddingAnswer | LavaError:
        lanes.check()
        gate = self.gate
        with _Passage(gate) as passage:
            passage.ticket = await gate.aenter(step.batch.tokens)
            with lanes.sending():
                try:
                    answer = await client.embedding_request(step.batch.texts, encoding_format=step.encoding, **options)
                except LavaError as error:
                    return passage.failed(error)
                return passage.answered(answer)


def _exact_counter(model: str) -> Count | None:
    if count_text("", model, enclosed=True) is None:
        return None

    def count(text: str) -> int:
        counted = count_text(text, model, enclosed=True)
        return estimate_tokens(text) if counted is None else counted.tokens

    return count


class _Passage:
    """One request's way through the gate: tells the gate how it ended, whatever happens."""

    def __init__(self, gate: Gate) -> None:
        self.ticket: Ticket | None = None
        self._gate = gate
        self._outcome: Outcome = "failed"
        self._headers: Mapping[str, str] | None = None
        self._retry_after: float | None = None

    def answered(self, answer: EmbeddingAnswer) -> EmbeddingAnswer:
        self._outcome, self._headers = "answered", answer.headers
        return answer

    def failed(self, error: LavaError) -> LavaError:
        if isinstance(error, RateLimitError) or error.status_code == 503:
            self._outcome, self._retry_after = "refused", error.retry_after
        if error.response is not None:
            self._headers = error.response.headers
        return error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
        except BaseException:
            # Ctrl-C in the middle of it; a ticket that nobody gives back would narrow the gate for good.
            self._leave()
            raise

    def _leave(self) -> None:
        if self.ticket is not None:
            self._gate.leave(self.ticket, self._outcome, headers=self._headers, retry_after=self._retry_after)


def _collect(
    collection: Collection,
    ahead: list[Batch],
    batches: Iterator[Batch],
    lanes: ThreadLanes,
    window: int,
    watch: Watch,
) -> None:
    for batch in ahead:
        lanes.launch(batch)
    exhausted = False
    while lanes.under_way:
        while not exhausted and collection.error is None and lanes.under_way < window:
            more = next(batches, None)
            exhausted = more is None
            if more is not None:
                lanes.launch(more)
        report = lanes.wait()
        if report is not None:
            if collection.take(report):
                lanes.finish()
            watch.update()


async def _acollect(
    collection: Collection,
    batches: Iterator[Batch],
    lanes: TaskLanes,
    changed: asyncio.Event,
    window: int,
    watch: Watch,
) -> None:
    exhausted = False
    while True:
        while not exhausted and collection.error is None and lanes.under_way < window:
            batch = next(batches, None)
            exhausted = batch is None
            if batch is not None:
                lanes.launch(batch)
                # Its request leaves while the next batch is being planned, and answers that came are looked at.
                await asyncio.sleep(0)
                take_all(collection, lanes, watch)
        if not lanes.under_way and not lanes.done:
            break
        if not lanes.done:
            await changed.wait()
        changed.clear()
        take_all(collection, lanes, watch)
