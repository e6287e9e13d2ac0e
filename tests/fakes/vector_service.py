"""An embeddings service in memory, behind an httpx transport: its vectors are known, and it fails as it is told."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import httpx
import orjson

from lava_mistral import AsyncLavaMistral, LavaMistral
from lava_mistral.embedding.engine import EmbeddingEngine
from lava_mistral.transport.retry import RetryPolicy

KEY = "aks_test_not-a-real-key"
BASE = "http://127.0.0.1:9/v1"
DIMENSIONS = 1024

Mode = Literal["sync", "async", "iter", "async iter"]
MODES: tuple[Mode, ...] = ("sync", "async", "iter", "async iter")
HASTY = RetryPolicy(max_retries=3, initial=0.0005, longest=0.001, max_total=20.0)

Fault = str | httpx.Response | Exception | None


def vector_of(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """The vector of a text: numbers that 16 bits can hold."""
    return ([number / 256 for number in hashlib.blake2b(text.encode()).digest()] * (dimensions // 64 + 1))[:dimensions]


def error(status: int, message: str = "no", code: str | None = None, **headers: str) -> httpx.Response:
    """An error as Mistral words it."""
    body = {"object": "error", "message": message, "type": None, "param": None, "code": code}
    return httpx.Response(status, json=body, headers=headers)


class VectorService:
    """Answers embeddings requests.

    Args:
        faults: what happens to the first requests, one each; `None` for a good answer.
        base64: whether the format is honoured, and with how many bytes a number.
        latency: seconds, or a function that gives them.
        fault: what happens to any further request, by its inputs.
        tokens: how the service counts the tokens of a text.
    """

    def __init__(
        self,
        faults: Iterable[Fault] = (),
        *,
        base64: Literal[0, 2, 4] = 4,
        latency: float | Callable[[], float] = 0.0,
        fault: Callable[[list[str]], Fault] = lambda inputs: None,
        tokens: Callable[[str], int] = len,
    ) -> None:
        self.faults = iter(faults)
        self.base64 = base64
        self.latency = latency
        self.fault = fault
        self.tokens = tokens
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[httpx.Headers] = []
        self.in_flight = self.most_in_flight = 0
        self._lock = threading.Lock()
        self._draw = random.Random(0)

    @property
    def sent(self) -> list[str]:
        """Every text that was asked for, in order."""
        return [text for body in self.bodies for text in body["input"]]

    def client(self) -> LavaMistral:
        return LavaMistral(
            api_key=KEY, base_url=BASE, http_client=httpx.Client(transport=httpx.MockTransport(self.serve))
        )

    def async_client(self) -> AsyncLavaMistral:
        transport = httpx.MockTransport(self.aserve)
        return AsyncLavaMistral(api_key=KEY, base_url=BASE, http_client=httpx.AsyncClient(transport=transport))

    def engine(self, **settings: Any) -> EmbeddingEngine:
        """An engine that talks to this service, and does not wait long between tries."""
        return EmbeddingEngine(self.client(), self.async_client(), **{"retry": HASTY, **settings})

    def _pause(self) -> float:
        return self.latency() if callable(self.latency) else self.latency

    def serve(self, request: httpx.Request) -> httpx.Response:
        fault = self._begin(request)
        try:
            time.sleep(self._pause())
            return self._answer(request, fault)
        finally:
            self._end()

    async def aserve(self, request: httpx.Request) -> httpx.Response:
        fault = self._begin(request)
        try:
            await asyncio.sleep(self._pause())
            return self._answer(request, fault)
        finally:
            self._end()

    def _begin(self, request: httpx.Request) -> Fault:
        body = orjson.loads(request.content)
        with self._lock:
            self.bodies.append(body)
            self.headers.append(request.headers)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            fault = next(self.faults, None)
        return fault or self.fault(body["input"])

    def _end(self) -> None:
        with self._lock:
            self.in_flight -= 1

    def _answer(self, request: httpx.Request, fault: Fault) -> httpx.Response:
        if isinstance(fault, httpx.Response):
            return httpx.Response(fault.status_code, content=fault.content, headers=fault.headers)
        if isinstance(fault, Exception):
            raise fault
        body = orjson.loads(request.content)
        size = self.base64 if body.get("encoding_format") == "base64" else 0
        rows = [vector_of(text, body.get("output_dimension", DIMENSIONS)) for text in body["input"]]
        if fault == "nan":
            rows[-1] = [*rows[-1][:-1], float("nan")]
        if fault == "dimension":
            rows[0] = rows[0][:-1]
        data = [
            {"object": "embedding", "index": index, "embedding": _encode(row, size)} for index, row in enumerate(rows)
        ]
        if fault == "short":
            data = data[:-1]
        elif fault == "duplicated":
            data[-1] = data[0] if len(data) > 1 else {**data[0], "index": 1}
        elif fault == "shuffled":
            self._draw.shuffle(data)
        elif fault == "unreadable":
            data = [{**item, "embedding": "AAAA"} if size else item for item in data]
        elif fault == "garbage":
            return httpx.Response(200, content=b"<html>")
        tokens = sum(map(self.tokens, body["input"]))
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        answer = {"id": "e", "object": "list", "model": body["model"], "data": data, "usage": usage}
        headers = {"x-lava-request-id": f"req_{len(self.bodies)}", "content-type": "application/json"}
        return httpx.Response(200, content=orjson.dumps(answer), headers=headers)


def _encode(row: list[float], size: int) -> Any:
    if not size:
        return row
    return base64.b64encode(struct.pack(f"<{len(row)}{'f' if size == 4 else 'e'}", *row)).decode()


def run(mode: Mode, engine: EmbeddingEngine, texts: Sequence[str], **options: Any) -> list[Any]:
    """The vectors of the texts in one of the four ways; those of a stream must come with the right indexes."""

    async def collect() -> list[Any]:
        return [pair async for pair in engine.aembed_iter(texts, **options)]

    match mode:
        case "sync":
            return list(engine.embed(texts, **options).vectors)
        case "async":
            return list(asyncio.run(engine.aembed(texts, **options)).vectors)
        case "iter":
            pairs = list(engine.embed_iter(texts, **options))
        case "async iter":
            pairs = asyncio.run(collect())
    assert [index for index, _ in pairs] == list(range(len(pairs)))
    return [vector for _, vector in pairs]


WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "finds", "that", "nobody", "cares"]


def passages(count: int, *, words: int = 40, seed: int = 0) -> list[str]:
    """Texts that are all different."""
    draw = random.Random(seed)
    return [f"{place}: " + " ".join(draw.choices(WORDS, k=draw.randint(1, words))) for place in range(count)]


def engine_threads() -> list[threading.Thread]:
    """The threads of engines that are running in this process."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("lava-mistral")]
