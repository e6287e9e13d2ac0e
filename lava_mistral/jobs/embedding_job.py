"""Embed a column of files into a folder of Parquet parts or a Lance table, resumably (see `folder`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal, TypeAlias

import pyarrow as pa

from lava_mistral.billing.spend_limit import Amount, SpendLimit, to_amount
from lava_mistral.client.clients import LavaMistral
from lava_mistral.defaults import DEFAULT_EMBEDDING_MODEL, DEFAULT_MAX_CONCURRENCY
from lava_mistral.embedding.decoding import native_dimensions
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.results import digest
from lava_mistral.errors import ConfigurationError
from lava_mistral.jobs.inputs import Input, Slice, find_files
from lava_mistral.jobs.job_store import JobStore
from lava_mistral.jobs.part_embedder import Done, PartEmbedder, price
from lava_mistral.mistral.limits import MAX_REQUEST_INPUTS, MAX_REQUEST_TOKENS
from lava_mistral.pricing.estimate import estimate_cost

Executor: TypeAlias = Callable[[PartEmbedder, Iterator[Slice], SpendLimit | None], Generator[Done, None, None]]
"""Embeds slices and tells what is done: in this process, or elsewhere, as `lava_mistral.ray.RayExecutor` does."""

_SAMPLE: Final = 2_000
"""Rows at least by whose tokens those of all are estimated."""


@dataclass(frozen=True, slots=True)
class JobEstimate:
    """Say what a job, or the rest of it, will take; amounts are USD, `None` where the model's price is not known.

    Attributes:
        rows: of the input.
        rows_done: those that parts stand for already.
        tokens: of the other rows, without texts whose vectors an earlier run has left in the folder.
        counted: whether every row was counted, rather than a sample of 2,000 or more.
        exact: whether the count is Mistral's own (extra `[tokenizer]`), rather than an upper estimate.
        high: at most. The sample may lie off by a few percent more.
        seconds: at the account's limits, where they were asked for.
        tokens_paid: by earlier runs; they are not paid again.
    """

    rows: int
    rows_done: int
    tokens: int
    counted: bool
    exact: bool
    low: Decimal | None
    likely: Decimal | None
    high: Decimal | None
    seconds: float | None
    tokens_paid: int = 0
    paid: Decimal | None = Decimal(0)


@dataclass(frozen=True, slots=True)
class JobProgress:
    """Say how far a job has come.

    Attributes:
        rows: of the input; `None` where they were not counted (`estimate` does).
        rows_done: those that need nothing more: embedded or rejected, by this run or an earlier one.
        rows_before: those of them that were done before this run.
        tokens: what all runs of the job have paid for, without requests that were in flight when one was killed.
        cost: the same in USD by the catalogue's prices; `None` where they are not known.
        seconds: since this run began.
    """

    rows: int | None
    rows_done: int
    rows_before: int
    rejected: int
    tokens: int
    cost: Decimal | None
    seconds: float = 0.0


class EmbeddingJob:
    """Embed a column of Parquet, JSONL or CSV files into a folder of Parquet parts, or into a Lance table.

    A job that ended early goes on where it was when it is run again with the same arguments; only requests that were
    in flight are paid again. The rows come in the order of the input: `id`, `vector` (a list of fixed size), `columns`.

    Args:
        inputs: files, globs and folders, all of one format; JSONL and CSV also with `.gz`.
        out: the folder of the parts; one that ends in `.lance` becomes a Lance table (extra `[lance]`).
        text: the column with the texts.
        id: the column with the ids; by default the number of the row, from 0.
        columns: further columns to keep.
        client: sends the requests and says who pays; by default one made from the environment.
        model: Mistral's name of the model.
        dimensions: length of the vectors, for models that can shorten them.
        dtype: type of the numbers. Those of `mistral-embed` have 16 bits, so that `"float16"` loses nothing.
        rows_per_part: how many rows of the input a part stands for.
        max_concurrency: requests in flight at most.
        strict: end with an error at a row that can't be embedded, rather than reject it.

    Attributes:
        rejected: the JSONL file of rejected rows: `row` (from 0, no headline), `reason`, `content`, perhaps `id`.

    Raises:
        ConfigurationError: there is no such file or column, or the length of the vectors is not known.
    """

    def __init__(
        self,
        inputs: str | Path | Sequence[str | Path],
        out: str | Path,
        *,
        text: str = "text",
        id: str | None = None,
        columns: Sequence[str] = (),
        client: LavaMistral | None = None,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        rows_per_part: int = 10_000,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        strict: bool = False,
    ) -> None:
        length = dimensions or native_dimensions(model)
        if rows_per_part < 1 or dtype not in ("float32", "float16"):
            raise ConfigurationError(
                f'rows_per_part must be 1 or more and dtype "float32" or "float16", not {rows_per_part} and {dtype!r}.'
            )
        kept = [name for name in dict.fromkeys(columns) if name != id]
        if clash := [name for name in kept if name in ("id", "vector")]:
            raise ConfigurationError(f"the column {clash[0]!r} can't be kept: the parts have one of their own.")
        self._files = find_files([inputs] if isinstance(inputs, str | Path) else inputs)
        self._input = Input(self._files, [text, *([] if id is None else [id]), *kept], id)
        types = {field.name: field.type for field in self._input.schema}
        schema = pa.schema(
            {"id": pa.int64() if id is None else types[id]}
            | {"vector": pa.list_(pa.float16() if dtype == "float16" else pa.float32(), length)}
            | {name: types[name] for name in kept}
        )
        self._settings = {"version": 1, "text": text, "id": id, "columns": kept, "model": model, "dimensions": length}
        self._settings |= {"dtype": dtype, "rows_per_part": rows_per_part}
        self._folder = JobStore(Path(out))
        self.rejected = self._folder.rejected
        self._model = model
        self._rows_per_part = rows_per_part
        self._rows: int | None = None
        engine = {"model": model, "dimensions": dimensions, "max_concurrency": max_concurrency}
        self._embedder = PartEmbedder(self._folder, client or LavaMistral(), engine, schema, text, id, strict)

    def estimate(self, *, ask_limits: bool = False) -> JobEstimate:
        """Count the rows, and estimate what those that are not done yet will take.

        Args:
            ask_limits: send one request of a single token, whose answer tells the account's limits.

        Raises:
            ConfigurationError: the folder is another job's, or the input has changed.
            LavaError: that request failed.
        """
        self._folder.check(self._settings, self._files)
        done, known = self._folder.done(), self._folder.recorded().keys()
        rows = left = counted = 0
        every = 1
        sample: list[str] = []
        for part in self._input.slices(self._rows_per_part):
            rows = part.end
            if part.start in done:
                continue
            left += part.end - part.start
            texts = [text for text in part.table.column(0).to_pylist() if text and not text.isspace()]
            if known:
                texts = [text for text in texts if digest(text) not in known]
            sample += texts[-counted % every :: every]
            counted += len(texts)
            while len(sample) > 2 * _SAMPLE:
                sample, every = sample[::2], 2 * every
        self._rows = rows
        cost = estimate_cost(sample, self._model)
        share = Decimal(counted) / max(1, len(sample))
        low, likely, high = (None if each is None else each * share for each in (cost.low, cost.likely, cost.high))
        tokens = int(cost.input_tokens * share)
        seconds = self._seconds(tokens, counted) if ask_limits and counted else None
        paid = self._folder.tokens_paid()
        before = paid, price(paid, self._model)
        return JobEstimate(rows, rows - left, tokens, every == 1, cost.exact, low, likely, high, seconds, *before)

    def run(
        self,
        *,
        spend_limit: Amount | None = None,
        on_progress: Callable[[JobProgress], object] | None = None,
        executor: Executor | None = None,
    ) -> JobProgress:
        """Embed what is not embedded yet.

        Args:
            spend_limit: USD that all runs of the job may cost together.
            on_progress: called in this thread after each answer.
            executor: does the work elsewhere; by default it is done here.

        Raises:
            ConfigurationError: the folder is another job's, or somebody is at work in it, or the input has changed.
            InvalidRequestError: with `strict`, a row can't be embedded.
            SpendLimitError: the next request could pass the limit.
            LavaError: a request failed for good. What was done is kept.
        """
        limit = None if spend_limit is None else to_amount(spend_limit)
        folder, size, began = self._folder, self._rows_per_part, time.monotonic()
        with folder.locked():
            folder.check(self._settings, self._files, begin=True)
            folder.tidy(size)
            done, rejected, paid = folder.done(), folder.count_rejected(), folder.tokens_paid()
            before = sum(done.values())
            cost = price(paid, self._model)
            now = JobProgress(self._rows, before, before, rejected, paid, cost)
            left = None if limit is None else SpendLimit(max(limit - (cost or 0), Decimal(0)))
            pending = (part for part in self._input.slices(size) if part.start not in done)
            with closing((executor or PartEmbedder.embed)(self._embedder, pending, left)) as steps:
                for step in steps:
                    now = replace(
                        now,
                        rows_done=before + step.rows,
                        rejected=rejected + step.rejected,
                        tokens=paid + step.tokens,
                        cost=price(paid + step.tokens, self._model),
                        seconds=time.monotonic() - began,
                    )
                    if on_progress is not None:
                        on_progress(now)
            folder.tidy(size)
            folder.commit(self._embedder.schema)
            paid = folder.tokens_paid()
            return replace(now, rejected=folder.count_rejected(), tokens=paid, cost=price(paid, self._model))

    def _seconds(self, tokens: int, rows: int) -> float:
        began = time.monotonic()
        engine = EmbeddingEngine(self._embedder.client, **self._embedder.settings)
        engine.embed(["."])
        latency = time.monotonic() - began
        requests = max(tokens / MAX_REQUEST_TOKENS, rows / MAX_REQUEST_INPUTS)
        needed = {"req": requests, "tokens": tokens}
        paces = [needed[kind] * span / window.limit for (kind, span), window in engine.limiter.rate.windows.items()]
        return max(latency * requests / engine.max_concurrency, *paces, latency)
