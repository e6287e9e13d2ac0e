"""Embedding on many machines with Ray (extra `[ray]`): a class for `Dataset.map_batches`, and jobs on a cluster.

Each actor or task has an engine of its own; they settle at equal shares of the account's limits. The key is best left
to the environment of the workers (`LAVA_SECRET_KEY`), so that it is not stored with the job.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from decimal import Decimal
from itertools import islice
from typing import Any

from lava_mistral.billing.credentials import Billing, Secret
from lava_mistral.billing.reservation import max_embedding_cost
from lava_mistral.billing.spend_limit import Amount, SpendLimit
from lava_mistral.client.clients import LavaMistral
from lava_mistral.defaults import (
    DEFAULT_EMBEDDING_MODEL,
    DEFAULT_EMBEDDING_RETRIES,
    DEFAULT_MAX_CONCURRENCY,
    DEFAULT_TIMEOUT,
)
from lava_mistral.embedding.decoding import native_dimensions
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.results import EmbeddingResult
from lava_mistral.errors import ConfigurationError, LavaError
from lava_mistral.jobs.inputs import Slice
from lava_mistral.jobs.part_embedder import Done, PartEmbedder, embed_good, price


class EmbedTexts:
    """Adds a column with the vectors of a text column to each batch of a Ray dataset.

    It takes batches in each of Ray's formats and gives pyarrow tables, with the vectors as lists of a fixed size, which
    Parquet, Lance and vector databases read.

    Args:
        column: the name of the column that holds the texts.
        into: the name of the column to add.
        error_column: the name of a column to add for the reasons why rows have no vector; without it, a text that
            can't be embedded ends the job.
        float16: 16-bit numbers instead of 32-bit ones.
        dimensions: length of the vectors, for models that can shorten them.
        max_concurrency: requests in flight at most, of each actor.
        timeout: seconds for one request; `None` for no limit.
        api_key: Lava's key; by default from the environment of the worker.
        lava_metadata: stored by Lava with each request; `lava-mistral usage --by metadata:KEY` sums up by it.
        spend_limit: USD that each actor may spend.
    """

    def __init__(
        self,
        *,
        column: str = "text",
        into: str = "vector",
        error_column: str | None = None,
        float16: bool = False,
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        max_retries: int = DEFAULT_EMBEDDING_RETRIES,
        timeout: float | None = DEFAULT_TIMEOUT,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
        spend_limit: Amount | None = None,
    ) -> None:
        self.column = column
        self.into = into
        self._error_column = error_column
        self._type = "float16" if float16 else "float32"
        length = dimensions or native_dimensions(model)
        self._length = length
        access: dict[str, Any] = {"api_key": api_key, "base_url": base_url, "billing": billing}
        self.engine = EmbeddingEngine(
            LavaMistral(**access, metadata=lava_metadata, timeout=timeout, spend_limit=spend_limit),
            model=model,
            dimensions=dimensions,
            max_concurrency=max_concurrency,
            max_retries=max_retries,
        )

    def __call__(self, batch: Any) -> Any:
        """Give a batch (a pyarrow table, a pandas frame, or a mapping of names to numpy arrays) with its vectors.

        Raises:
            ConfigurationError: the batch has no such column, or one already where the vectors should go.
            InvalidRequestError: a text of the batch can't be embedded, and there is no `error_column`; the message
                shows how it begins.
            LavaError: a request failed for good.
        """
        import numpy as np
        import pyarrow as pa

        if hasattr(batch, "column_names"):
            table = batch
        elif isinstance(batch, Mapping):
            table = pa.table({name: pa.array(list(values)) for name, values in batch.items()})
        else:
            table = pa.Table.from_pandas(batch, preserve_index=False)
        if self.column not in table.column_names:
            raise ConfigurationError(
                f"The dataset has no column {self.column!r}; it has {', '.join(map(repr, table.column_names))}. "
                "Name the one with the texts: column=…"
            )
        for name in (self.into, self._error_column):
            if name in table.column_names:
                raise ConfigurationError(
                    f"The dataset has a column {name!r} already. Name another one for the vectors: into=…, and for "
                    "the errors: error_column=…, or drop that one before."
                )
        texts: list[Any] = table.column(self.column).to_pylist()
        reasons: dict[int, str] = {}
        try:
            if self._error_column is None:
                good, result = list(range(len(texts))), self._embed(texts)
            else:
                good, result = embed_good(self.engine, texts, reasons, self._embed)
        except LavaError as error:
            if self._error_column is None and len(error.inputs) == 1:
                # Its place in a batch means little in a job.
                error.message += f"; it is {texts[error.inputs[0]]!r:.80}"
            raise
        vectors = np.zeros((len(texts), self._length), self._type)
        if good:
            vectors[good] = result.vectors
        flat, bad = pa.array(vectors.reshape(-1)), pa.array([at in reasons for at in range(len(texts))], pa.bool_())
        table = table.append_column(self.into, pa.FixedSizeListArray.from_arrays(flat, self._length, mask=bad))
        if self._error_column is not None:
            why = pa.array(map(reasons.get, range(len(texts))), pa.string())
            table = table.append_column(self._error_column, why)
        return table

    def _embed(self, texts: list[str]) -> EmbeddingResult:
        try:
            return self.engine.embed(texts, as_numpy=True)
        except LavaError as error:
            # Ray sends the error to the driver; the vectors that were there would go with it.
            error.partial = None
            raise


class RayExecutor:
    """Embed the slices of an `EmbeddingJob` as Ray tasks, each of which writes its part.

    The nodes share the job's folder and have the packages. Each CPU does one slice at a time. A task whose worker dies
    is done again, from what its journal holds.

    Args:
        address: of the cluster, such as `"auto"`; by default a local one is started.
    """

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    def __call__(
        self, embedder: PartEmbedder, slices: Iterator[Slice], limit: SpendLimit | None
    ) -> Generator[Done, None, None]:
        """Embed slices, and tell after each one what is done.

        The most that a slice can cost is set aside of the `limit` before it begins.
        """
        import ray

        cluster: Any = ray
        if not ray.is_initialized():
            ray.init(address=self._address, log_to_driver=False)
        task = ray.remote(num_cpus=1, max_retries=10)(_embed_slice)
        shared, model = ray.put(embedder), embedder.settings["model"]
        width = max(1, int(cluster.cluster_resources().get("CPU", 1)))
        running: dict[Any, Decimal] = {}
        total = Done()
        try:
            while True:
                for part in islice(slices, width - len(running)):
                    amount = Decimal(0)
                    if limit is not None:
                        texts = filter(None, part.table.column(embedder.text).to_pylist())
                        amount = max_embedding_cost(list(texts), model)
                        limit.reserve(amount)
                    running[task.remote(shared, part)] = amount
                if not running:
                    return
                for ended in ray.wait(list(running))[0]:
                    done: Done = ray.get(ended)
                    amount = running.pop(ended)
                    if limit is not None:
                        limit.end(amount, price(done.tokens, model))
                    total += done
                    yield total
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        finally:
            for each in running:
                ray.cancel(each)


def _embed_slice(embedder: PartEmbedder, part: Slice) -> Done:
    """Write the part of a slice, in a worker."""
    if part.start in embedder.folder.done():
        return Done(part.end - part.start)  # by this task, whose worker died after that
    engine = EmbeddingEngine(embedder, **embedder.settings)
    return embedder.embed_part(part, engine, None, lambda done: None)
