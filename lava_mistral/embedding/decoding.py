"""Read the vectors out of an embeddings answer; refuse what could put one on the wrong text. Pure."""

from __future__ import annotations

import binascii
import math
import struct
import sys
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from lava_mistral._text import nearest
from lava_mistral.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Row: TypeAlias = "array[float] | NDArray[np.float32]"
    Rows: TypeAlias = "list[array[float]] | NDArray[np.float32]"

NATIVE_DIMENSIONS: Final = {"mistral-embed": 1024, "codestral-embed": 1536, "codestral-embed-2505": 1536}
"""How long a model's vectors are when no other length is asked for (Mistral's documentation)."""


def native_dimensions(model: str) -> int:
    """Return how long a model's vectors are; for other models a `ConfigurationError` asks for `dimensions`."""
    if (length := NATIVE_DIMENSIONS.get(model)) is None:
        near = nearest(model, NATIVE_DIMENSIONS)
        advice = f"Did you mean {near!r}?" if near else "Name one, such as 'mistral-embed', or give dimensions= too."
        raise ConfigurationError(f"{model!r} is no embedding model that is known here.", advice=advice)
    return length


_CODES: Final = {4: "f", 2: "e"}
# Below this many vectors, loading numpy costs more than it saves.
_WORTH_NUMPY: Final = 16


class BadAnswer(ValueError):
    """The answer is not one vector for each input; `places` are the inputs that it concerns, empty for all."""

    def __init__(self, message: str, places: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.places = places


class UnreadableBase64(BadAnswer):
    """The text is not the base64 of a vector of the dimension that is expected."""


def read_rows(data: Sequence[Any], count: int, *, dimension: int | None) -> Rows:
    """One row of numbers for each of `count` inputs, in their order: a float32 matrix, or a list of arrays.

    By its `dimension`, 4-byte numbers are told from 2-byte ones in base64. `None` where any length is right as long as
    all are equal; then base64 can't be read.

    Raises:
        UnreadableBase64: ask for decimal numbers instead.
        BadAnswer: the answer is not one finite vector of that length for each input.
    """
    if len(data) != count:
        raise BadAnswer(f"expected {count} vectors, {len(data)} came")
    ordered: list[Any] = [None] * count
    for item in data:
        index = item.get("index") if isinstance(item, dict) else None
        if type(index) is not int or not 0 <= index < count:
            raise BadAnswer(f"a vector came with the index {index!r}; expected 0 to {count - 1}")
        if ordered[index] is not None:
            raise BadAnswer(f"two vectors came with the index {index}")
        ordered[index] = item.get("embedding")
    if not ordered:
        return []
    rows: Rows
    if all(type(vector) is str for vector in ordered):
        rows = _from_base64(ordered, dimension)
    elif all(type(vector) is list for vector in ordered):
        rows = _from_numbers(ordered)
    else:
        odd = [place for place, vector in enumerate(ordered) if type(vector) is not list]
        raise BadAnswer("something came that is not a list of numbers", odd)
    expected = len(rows[0]) if dimension is None else dimension
    wrong = [place for place, row in enumerate(rows) if len(row) != expected]
    if wrong or not expected:
        came = len(rows[wrong[0]]) if wrong else 0
        raise BadAnswer(f"expected vectors of {expected} dimensions, one of {came} came", wrong)
    if wrong := _not_finite(rows):
        raise BadAnswer("a vector came with a number that is not finite", wrong)
    return rows


def _from_base64(texts: list[str], dimension: int | None) -> Rows:
    try:
        raws = [binascii.a2b_base64(text) for text in texts]
    except ValueError as error:
        raise UnreadableBase64(f"base64 that can't be decoded came ({error})") from None
    size = len(raws[0])
    width = size // dimension if dimension else 0
    if not dimension or width not in _CODES or size != width * dimension:
        raise UnreadableBase64(f"base64 of {size} bytes came, for vectors of {dimension or 'unknown'} dimensions")
    # The decoder skips characters that are not base64; then text and bytes do not match in length.
    length = (size + 2) // 3 * 4
    if any(len(raw) != size for raw in raws) or any(len(text) != length for text in texts):
        raise UnreadableBase64("base64 of unequal or impossible length came")
    if len(raws) >= _WORTH_NUMPY or "numpy" in sys.modules:
        try:
            import numpy as np
        except ImportError:
            pass
        else:
            matrix = np.frombuffer(b"".join(raws), dtype=f"<f{width}")
            return matrix.reshape(len(raws), dimension).astype(np.float32, copy=False)
    return [array("f", struct.unpack(f"<{dimension}{_CODES[width]}", raw)) for raw in raws]


def _from_numbers(vectors: list[list[Any]]) -> list[array[float]]:
    rows = []
    for place, vector in enumerate(vectors):
        try:
            rows.append(array("d", vector))
        except (TypeError, OverflowError):
            raise BadAnswer("a vector came that does not consist of numbers", [place]) from None
    return rows


def _not_finite(rows: Rows) -> list[int]:
    if isinstance(rows, list):
        # A sum is finite when all its terms are; only a sum that is not calls for a closer look.
        odd = [place for place, row in enumerate(rows) if not math.isfinite(sum(row))]
        return [place for place in odd if not all(map(math.isfinite, rows[place]))]
    import numpy as np

    finite = np.isfinite(rows)
    return [] if finite.all() else cast("list[int]", np.flatnonzero(~finite.all(axis=1)).tolist())


def to_lists(rows: Rows) -> list[list[float]]:
    if isinstance(rows, list):
        return [row.tolist() for row in rows]
    return cast("list[list[float]]", rows.tolist())
