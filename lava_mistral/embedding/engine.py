"""The ingestion engine: any number of texts in, one vector for each out, in order, as fast as the account allows."""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Final, TypeVar, Unpack, get_args
from weakref import ReferenceType

from lava_mistral.calls.arguments import refuse_keys
from lava_mistral.defaults import DEFAULT_EMBEDDING_RETRIES, DEFAULT_MAX_CONCURRENCY, OnEmpty, OutputDtype
from lava_mistral.embedding.batch_packing import Batcher, Count
from lava_mistral.embedding.batch_request import Endpoint
from lava_mistral.embedding.drivers import Embedder, EmbeddingStream, Prefetch, TaskWorkers, ThreadWorkers
from lava_mistral.embedding.input_validation import InputValidator
from lava_mistral.embedding.limiter import ConcurrencyLimiter
from lava_mistral.embedding.rate_limit import AdaptiveRateLimiter
from lava_mistral.embedding.results import EmbeddingResult, EmbedOptions, known_vectors
from lava_mistral.embedding.run import EmbedJob, StreamJob
from lava_mistral.errors import ConfigurationError
from lava_mistral.pricing.catalog import warn_if_deprecated
from lava_mistral.pricing.token_counting import upper_bound_tokens
from lava_mistral.transport.retry import RetryPolicy

T = TypeVar("T")
U = TypeVar("U")
R = TypeVar("R", bound=StreamJob)
W = TypeVar("W", ThreadWorkers, TaskWorkers)

MANY_LISTS: Final = 50_000
"""Vectors from which on lists of floats are warned of: each number takes 32 bytes, in an array 4."""


class EmbeddingEngine:
    """Embeds any number of texts with as many requests in flight as allowed, and never more.

    One limit holds for everything that one engine does: any number of threads and event loops at once, sync and
    async. An engine is cheap to make, safe to share, and can be pickled: a copy in another process, forked or
    spawned, has a limit of its own and finds the pace that the account allows by the rate-limit headers and refusals.

    Args:
        client: sends the requests of sync code; `async_client` those of async code.
        timeout: seconds for one request; `None` for the client's own.
        retry: when to repeat a failed request and how long to wait; takes the place of `max_retries`.
        count_tokens: counts the tokens of a text, exactly or a little too high. By default it is an upper estimate;
            the counts in the answers say by how much it is too high.
        on_empty: what becomes of an empty text, which Mistral refuses: `"raise"` an `InvalidRequestError`, `"skip"`
            it, with a vector of zeros, or send a `"placeholder"` (one full stop) in its place.
        output_dtype: how numbers are rounded, for models that can; the binary ones put eight dimensions into a number.

    Raises:
        ConfigurationError: a number that can't be, or a call without the client that it needs.
    """

    def __init__(
        self,
        client: Embedder | None = None,
        async_client: Embedder | None = None,
        *,
        model: str = "mistral-embed",
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        max_retries: int = DEFAULT_EMBEDDING_RETRIES,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        count_tokens: Count | None = None,
        on_empty: OnEmpty = "raise",
        output_dtype: OutputDtype | None = None,
    ) -> None:
        for name, number, least in (
            ("max_concurrency", max_concurrency, 1),
            ("dimensions", dimensions, 1),
            ("max_retries", max_retries, 0),
        ):
            if number is not None and number < least:
                raise ConfigurationError(f"{name} must be at least {least}, not {number}.")
        for name, value, allowed in (
            ("on_empty", on_empty, get_args(OnEmpty)),
            ("output_dtype", output_dtype, (None, *get_args(OutputDtype))),
        ):
            if value not in allowed:
                raise ConfigurationError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}.")
        self.client = client
        self.async_client = async_client
        self.model = model
        self.dimensions = dimensions
        self.max_concurrency = max_concurrency
        self.timeout = timeout
        self.retry = RetryPolicy(max_retries=max_retries) if retry is None else retry
        self._count = count_tokens or upper_bound_tokens
        self._endpoint = Endpoint(model, dimensions, self.retry, self._count, output_dtype or "float")
        if on_empty == "skip" and self._endpoint.dimensions is None:
            raise ConfigurationError(
                f'on_empty="skip" gives empty texts a vector of zeros, whose length is not known for {model!r}. '
                'Say dimensions=, or on_empty="placeholder".'
            )
        self.on_empty = on_empty
        self._output_dtype = output_dtype
        self._limiters: dict[int, ConcurrencyLimiter] = {}
        self._prefetches: list[ReferenceType[Prefetch[Any]]] = []
        self.translated: Callable[[], AbstractContextManager[Any]] = nullcontext  # raises a framework's own errors

    def __repr__(self) -> str:
        return f"EmbeddingEngine(model={self.model!r}, max_concurrency={self.max_concurrency})"

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_limiters": {}, "_prefetches": []}

    @property
    def limiter(self) -> ConcurrencyLimiter:
        """What gives this process's requests their permits."""
        pid = os.getpid()
        if pid not in self._limiters:
            retry = self.retry
            rate = AdaptiveRateLimiter(self.max_concurrency, retry.max_total, retry.initial, retry.longest)
            self._limiters.setdefault(pid, ConcurrencyLimiter(rate))
        return self._limiters[pid]

    def check(self, texts: Sequence[str]) -> None:
        """Raise an `InvalidRequestError` for a text that can't be embedded, without sending anything."""
        validator = InputValidator(self._count, self.on_empty)
        for index, text in enumerate(texts):
            validator.check(index, text)

    def embed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> EmbeddingResult:
        """The vectors of any number of texts, in their order; equal texts are sent once. See `LavaMistral.embed`.

        Whatever is raised, be it a `KeyboardInterrupt`, has `partial` if anything was done.
        """
        workers, job, texts = self._whole(ThreadWorkers, texts, options)
        for _ in workers.vectors(job, texts):
            pass
        return job.result()

    async def aembed(self, texts: Sequence[str], **options: Unpack[EmbedOptions]) -> EmbeddingResult:
        """Like `embed`; the event loop goes on meanwhile, and cancelling the task cancels its requests."""
        workers, job, texts = self._whole(TaskWorkers, texts, options)
        async for _ in workers.vectors(job, texts):
            pass
        return job.result()

    def embed_iter(self, texts: Iterable[str], **options: Unpack[EmbedOptions]) -> EmbeddingStream:
        """The vectors of a source of any length, one by one and in order, in constant memory.

        The source is read once, a bounded number of texts ahead, where the iteration takes place.
        While it does not give its next text, nothing is handed on; what does not fill a batch within 0.2 s is sent as
        it is. Who pays (`billed_to`) is settled by this call. An error is raised when all before it was handed on.
        """
        return self._stream(ThreadWorkers, texts, options)

    def aembed_iter(
        self, texts: AsyncIterable[str] | Iterable[str], **options: Unpack[EmbedOptions]
    ) -> EmbeddingStream:
        """Like `embed_iter`, for `async for`; the source may be async too."""
        return self._stream(TaskWorkers, texts, options)

    def prefetch(
        self,
        items: Iterable[T],
        text_of: Callable[[T], str],
        embedded: Callable[[T, Any], U],
        *,
        batch_size: int,
        **options: Unpack[EmbedOptions],
    ) -> Prefetch[U]:
        """Embed ahead of a loop, which gets batches of items; while its body runs, further requests are in flight.

        Until the body ends, `embed` and `aembed` of this engine know the vectors of the batch's texts. `embedded` makes
        what the loop gets of an item and its vector. Errors are raised in the loop, when all before was handed on.
        """
        embed = partial(self.embed_iter, **options)
        return Prefetch(embed, items, text_of, embedded, batch_size, self._prefetches)

    def aprefetch(
        self,
        items: AsyncIterable[T] | Iterable[T],
        text_of: Callable[[T], str],
        embedded: Callable[[T, Any], U],
        *,
        batch_size: int,
        **options: Unpack[EmbedOptions],
    ) -> Prefetch[U]:
        """Do the same as `prefetch` for `async for`; the source may be async too."""
        embed = partial(self.aembed_iter, **options)
        return Prefetch(embed, items, text_of, embedded, batch_size, self._prefetches)

    def _whole(self, workers: type[W], texts: Iterable[Any], options: Any) -> tuple[W, EmbedJob, Sequence[Any]]:
        # Others may be slow to give one text by its index, or give another one next time.
        several: Sequence[Any] = texts if isinstance(texts, list | tuple) else list(_checked(texts))
        if len(several) >= MANY_LISTS and not options.get("as_numpy"):
            warnings.warn(
                f"{len(several):,} vectors as lists of floats take 8 times the memory of arrays, about 3 GB for each "
                "100,000 vectors of 1,024 numbers: use as_numpy=True, or embed_iter, which holds few at once.",
                stacklevel=3,
            )
        for reference in tuple(self._prefetches):
            if (prefetch := reference()) is not None and prefetch.window:
                options["resume_from"] = known_vectors(several, prefetch.window, options.get("resume_from"))
        doing, job = self._begin(workers, EmbedJob, several, options)
        return doing, job, several

    def _stream(self, workers: type[W], texts: Any, options: Any) -> EmbeddingStream:
        doing, job = self._begin(workers, StreamJob, _checked(texts), options)
        return EmbeddingStream(job, doing, doing.vectors(job, texts))

    def _begin(self, workers: type[W], kind: type[R], texts: object, options: Any) -> tuple[W, R]:
        if (client := getattr(self, workers.client)) is None:
            raise ConfigurationError(f"This engine was made without {workers.client}=, which this call needs.")
        known = EmbedOptions.__annotations__
        if unknown := sorted(options.keys() - known.keys()):
            refuse_keys(unknown)
            raise TypeError(f"unexpected keyword argument {unknown[0]!r}; there are {', '.join(known)}")
        warn_if_deprecated(self.model)
        given = {
            "model": self.model,
            "output_dimension": self.dimensions,
            "output_dtype": self._output_dtype,
            "timeout": self.timeout,
            "billing": options.pop("billing", None),
            "lava_metadata": options.pop("lava_metadata", None),
        }
        send = partial(client.embedding_request, **{name: value for name, value in given.items() if value is not None})
        job = kind(
            InputValidator(self._count, self.on_empty),
            self._endpoint.spec,
            partial(Batcher, self._count, self._endpoint.ratio, workers=lambda: self.limiter.rate.useful_concurrency),
            total=len(texts) if isinstance(texts, Sequence) else None,
            concurrency=self.max_concurrency,
            **options,
        )
        job.translated = self.translated
        return workers(send, self._endpoint, self.limiter, self.max_concurrency), job


def _checked(texts: T) -> T:
    if isinstance(texts, str | bytes):
        raise ConfigurationError("expected several texts, got one: write [text].")
    if hasattr(texts, "columns"):
        raise ConfigurationError(f"expected texts, got a {type(texts).__name__}: write frame['column'].")
    return texts
