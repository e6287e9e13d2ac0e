"""Embedding on many machines with Ray Data (extra `[ray]`): a class for `Dataset.map_batches`.

    import ray
    from lava_mistral.ray import EmbedTexts

    chunks = ray.data.read_parquet("chunks/")
    chunks.map_batches(
        EmbedTexts,
        fn_constructor_kwargs={"column": "text"},
        batch_size=2_000,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=4),
    ).write_parquet("vectors/")

Each actor has an engine of its own. They share the account: the rate-limit headers and refusals that all of them see
make them settle at equal shares of its limits, however many there are. Ray restarts an actor that dies and gives its
batch to another one; no row is lost and none comes twice.

The key is best left to the environment of the workers (`LAVA_SECRET_KEY`), so that it is not stored with the job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lava_mistral.billing.credentials import Secret
from lava_mistral.billing.identity import Billing
from lava_mistral.client._base import DEFAULT_EMBEDDING_MODEL, DEFAULT_TIMEOUT
from lava_mistral.client.sync_client import LavaMistral
from lava_mistral.embedding.decoding import NATIVE_DIMENSIONS
from lava_mistral.embedding.engine import DEFAULT_MAX_RETRIES, EmbeddingEngine
from lava_mistral.embedding.rate_limit import DEFAULT_MAX_CONCURRENCY
from lava_mistral.embedding.results import PartialEmbedding
from lava_mistral.errors import ConfigurationError, LavaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class EmbedTexts:
    """Adds a column with the vectors of a text column to each batch of a Ray dataset.

    It takes and gives batches in each of Ray's formats. `batch_format="pyarrow"` gives a column of fixed-size lists of
    32-bit floats, which Parquet, Lance and vector databases read; `"numpy"` and `"default"` one of Ray's tensors;
    `"pandas"` one of numpy arrays.

    Args:
        column: the name of the column that holds the texts.
        into: the name of the column to add.
        model: Mistral's name of the model.
        dimensions: length of the vectors, for models that can shorten them.
        max_concurrency: requests in flight at most, of each actor.
        max_retries: how often a failed request is repeated.
        timeout: seconds for one request; `None` for no limit.
        api_key: Lava's key; by default from the environment of the worker.
        base_url: where Lava is; by default as for the clients.
        billing: who pays.
        lava_metadata: stored by Lava with each request.
    """

    def __init__(
        self,
        *,
        column: str = "text",
        into: str = "vector",
        model: str = DEFAULT_EMBEDDING_MODEL,
        dimensions: int | None = None,
        max_concurrency: int = DEFAULT_MAX_CONCURRENCY,
        max_retries: int = DEFAULT_MAX_RETRIES,
        timeout: float | None = DEFAULT_TIMEOUT,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        lava_metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.column = column
        self.into = into
        self._length = dimensions or NATIVE_DIMENSIONS.get(model, 1)
        self.engine = EmbeddingEngine(
            LavaMistral(api_key=api_key, base_url=base_url, billing=billing, metadata=lava_metadata, timeout=timeout),
            model=model,
            dimensions=dimensions,
            max_concurrency=max_concurrency,
            max_retries=max_retries,
        )

    def __call__(self, batch: Any) -> Any:
        """The batch with its vectors.

        Args:
            batch: a pyarrow table, a pandas frame, or a mapping of names to numpy arrays.

        Raises:
            ConfigurationError: the batch has no such column, or one already where the vectors should go.
            InvalidRequestError: a text of the batch can't be embedded; the message shows how it begins.
            LavaError: a request failed for good.
        """
        if hasattr(batch, "column_names"):
            vectors = self._vectors(batch, batch.column_names)
            return batch.append_column(self.into, _as_arrow(vectors))
        vectors = self._vectors(batch, list(batch))
        if isinstance(batch, Mapping):
            return {**batch, self.into: vectors}
        return batch.assign(**{self.into: list(vectors)})

    def _vectors(self, batch: Any, columns: Sequence[str]) -> NDArray[np.float32]:
        if self.column not in columns:
            raise ConfigurationError(
                f"The dataset has no column {self.column!r}; it has {', '.join(map(repr, columns))}. "
                "Name the one with the texts: column=…"
            )
        if self.into in columns:
            raise ConfigurationError(
                f"The dataset has a column {self.into!r} already. Name another one for the vectors: into=…, or drop "
                "that one before."
            )
        column = batch[self.column]
        texts: list[Any] = column.to_pylist() if hasattr(column, "to_pylist") else list(column)
        try:
            result = self.engine.embed(texts, as_numpy=True)
        except BaseException as error:
            # Ray sends the error to the driver; the vectors that were there would go with it.
            if isinstance(getattr(error, "partial", None), PartialEmbedding):
                error.partial = None  # type: ignore[attr-defined]
            if isinstance(error, LavaError):
                _show_text(error, texts)
            raise
        vectors: NDArray[np.float32] = result.vectors
        return vectors if len(vectors) else vectors.reshape(0, self._length)


def _as_arrow(vectors: NDArray[np.float32]) -> Any:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def _show_text(error: LavaError, texts: Sequence[Any]) -> None:
    """Let the error show how the text begins that it is about: its place in a batch means little in a job."""
    if len(error.inputs) == 1:
        error.message = f"{error.message}; it is {texts[error.inputs[0]]!r:.80}"
