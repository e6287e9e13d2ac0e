"""Whatever texts, whatever goes wrong and whatever order answers come in: the result is right, or an error says so."""

from __future__ import annotations

import time
from random import Random

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lava_mistral import LavaError
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.embedding.results import PartialEmbedding
from tests.fakes.vector_service import MODES, Mode, VectorService, error, run, vector_of
from tests.fakes.waiting import PATIENCE

FAULTS = {
    "429": lambda: error(429, code="1300"),
    "429 with Retry-After": lambda: error(429, code="1300", **{"retry-after": "0.002"}),
    "500": lambda: error(500),
    "502": lambda: httpx.Response(502, text="Bad gateway"),
    "503": lambda: error(503, code="1100"),
    "timeout": lambda: httpx.ReadTimeout("slow"),
    "connect": lambda: httpx.ConnectError("refused"),
    "reset": lambda: httpx.ReadError("reset by peer"),
    "too many": lambda: error(400, "Too many tokens overall, split into more batches.", code="3210"),
    "bad": lambda: error(400, "Bad request", code="3051"),
    "short": lambda: "short",
    "shuffled": lambda: "shuffled",
    "duplicated": lambda: "duplicated",
    "nan": lambda: "nan",
    "dimension": lambda: "dimension",
    "garbage": lambda: "garbage",
    "unreadable": lambda: "unreadable",
    "none": lambda: None,
}
HARMLESS = {"none", "shuffled", "unreadable"}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.text(max_size=4), max_size=20),
    st.lists(st.sampled_from(sorted(FAULTS)), max_size=20),
    st.sampled_from(MODES),
    st.integers(1, 5),
    st.sampled_from([0, 2, 4]),
    st.integers(0, 2**32),
)
def test_the_result_is_right_or_an_error_says_so(
    texts: list[str], names: list[str], mode: Mode, concurrency: int, size: int, seed: int
) -> None:
    draw = Random(seed)
    service = VectorService(
        [FAULTS[name]() for name in names],
        base64=size,  # type: ignore[arg-type]
        latency=lambda: draw.uniform(0.0, 0.002),
    )
    # Four texts a request.
    engine = service.engine(max_concurrency=concurrency, count_tokens=lambda text: 4_000)
    began = time.monotonic()
    vectors, failure = attempt(mode, engine, texts)
    assert time.monotonic() - began < PATIENCE
    assert service.most_in_flight <= concurrency
    if failure is None:
        assert vectors == [vector_of(text) for text in texts]
        return
    assert "input" in failure.message
    if failure.origin == "client":
        assert failure.message.startswith(f"input {bad_input(texts)} ")
        assert service.bodies == [] or mode.endswith("iter")
        return
    assert set(names) - HARMLESS
    assert isinstance(failure.partial, PartialEmbedding)
    assert all(vector == vector_of(texts[index]) for index, vector in failure.partial.vectors.items())
    if mode in ("sync", "async"):
        rest = VectorService()
        resumed = run(mode, rest.engine(), texts, resume_from=failure.partial)
        assert resumed == [vector_of(text) for text in texts]
        assert set(rest.sent) == {text for index, text in enumerate(texts) if index not in failure.partial.vectors}


def attempt(mode: Mode, engine: EmbeddingEngine, texts: list[str]) -> tuple[list[list[float]], LavaError | None]:
    try:
        return run(mode, engine, texts), None
    except LavaError as error:
        return [], error


def bad_input(texts: list[str]) -> int | None:
    """The first text that can't be embedded."""
    for index, text in enumerate(texts):
        if not text:
            return index
    return None


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"bad"}))
def test_each_fault_alone_is_mended(mode: Mode, name: str) -> None:
    texts = [f"text {place}" for place in range(23)]
    # A second false alarm about tokens would find batches too small to be split.
    more = [] if name == "too many" else [FAULTS[name](), None, FAULTS[name]()]
    service = VectorService([None, FAULTS[name](), None, *more])
    engine = service.engine(max_concurrency=3, count_tokens=lambda text: 4_000)
    assert run(mode, engine, texts) == [vector_of(text) for text in texts]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", sorted(set(FAULTS) - {"bad", "too many"} - HARMLESS))
def test_each_fault_that_lasts_ends_in_an_error_that_names_the_inputs(mode: Mode, name: str) -> None:
    texts = [f"text {place:02}" for place in range(23)]
    service = VectorService(fault=lambda inputs: FAULTS[name]() if "text 09" in inputs else None)
    engine = service.engine(max_concurrency=2, count_tokens=lambda text: 4_000)
    with pytest.raises(LavaError, match=r"input[s ]") as caught:
        run(mode, engine, texts)
    assert (
        "inputs 8 to 11" in caught.value.message
        or "input 11" in caught.value.message
        or "input 8" in caught.value.message
    )
    tries = [body for body in service.bodies if "text 09" in body["input"]]
    # A first answer in an encoding that can't be read is asked for once more as numbers.
    assert 4 <= len(tries) <= 5
    partial = caught.value.partial
    assert isinstance(partial, PartialEmbedding)
    assert 9 not in partial.vectors
    assert all(vector == vector_of(texts[index]) for index, vector in partial.vectors.items())


@pytest.mark.parametrize("mode", MODES)
def test_what_can_not_be_mended_is_not_repeated(mode: Mode) -> None:
    service = VectorService(fault=lambda inputs: error(401, "Unauthorized"))
    with pytest.raises(LavaError) as caught:
        run(mode, service.engine(max_concurrency=1), ["one"])
    assert caught.value.status_code == 401
    assert len(service.bodies) == 1
