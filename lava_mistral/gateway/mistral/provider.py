"""Mistral's side: checks a request as Mistral does and answers with the simulated model, or with what was asked for."""

from __future__ import annotations

import math
import random
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

import orjson

from lava_mistral.gateway.faults import Fault, Slow, error_body, to_fault
from lava_mistral.gateway.mistral import rules, schema
from lava_mistral.gateway.mistral.answers import Settle, broken_off, canned, json_answer
from lava_mistral.gateway.mistral.chat import Chat
from lava_mistral.gateway.mistral.embeddings import Embeddings
from lava_mistral.gateway.mistral.limits import RateLimit
from lava_mistral.gateway.mistral.rules import Rejection
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.records import RequestRecord
from lava_mistral.gateway.server.delivery import Answer
from lava_mistral.pricing.catalog import Model, get_model, models

OLDER_MODELS = frozenset(
    ("mistral-tiny", "mistral-small", "open-mistral-7b", "open-mixtral-8x7b", "open-mixtral-8x22b")
)
"""Names in public recordings of Mistral's traffic that Lava does not list."""
CREATED = 1_735_689_600
"""When every model was made, as far as the gateway tells: a POSIX timestamp."""


class Provider:
    """The simulated Mistral. `queue` may be called from any thread, the rest in the server's.

    Args:
        options: how the gateway behaves.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._chat = Chat(options)
        self._embeddings = Embeddings(options)
        self._limit = RateLimit(options.requests_per_second, options.tokens_per_minute, options.burst)
        self._draw = random.Random(options.seed)
        self._faults = [(rule, to_fault(fault)) for rule, fault in options.faults]
        self._queue: deque[Fault] = deque()
        self._queue_lock = threading.Lock()

    def queue(self, responses: Sequence[Any]) -> None:
        """Take the next answers; see `to_fault`."""
        faults = [to_fault(response) for response in responses]
        with self._queue_lock:
            self._queue.extend(faults)

    @property
    def queued(self) -> int:
        """How many answers wait."""
        return len(self._queue)

    def clear_queue(self) -> None:
        """Forget the answers that wait."""
        with self._queue_lock:
            self._queue.clear()

    async def handle(self, record: RequestRecord, body: Any, settle: Settle) -> Answer:
        """Answer one request to api.mistral.ai.

        Args:
            record: the request.
            body: its parsed body, or the error of a body that can't be parsed.
            settle: charges for the usage.
        """
        try:
            key, accepted = record.credential.get("provider_key"), self._options.provider_keys
            if key is not None and accepted is not None and key not in accepted:
                raise Rejection(None, status=401)
            match record.method, record.path:
                case "POST", "/v1/chat/completions":
                    return await self._answer_chat(record, _checked(body, schema.CHAT), settle)
                case "POST", "/v1/embeddings":
                    return await self._answer_embeddings(record, _checked(body, schema.EMBEDDINGS), settle)
                case "GET", "/v1/models":
                    offered = (*models(), *map(get_model, self._options.models))
                    listed = {"object": "list", "data": [_card(model) for model in offered]}
                    return self._answer_models(record, listed, settle)
                case "GET", path if path.startswith("/v1/models/"):
                    name = path.removeprefix("/v1/models/")
                    if not self._known(name):
                        return json_answer(404, error_body(404, f"Model {name} not found"))
                    return self._answer_models(record, _card(get_model(name)), settle)
                case _, "/v1/chat/completions" | "/v1/embeddings" | "/v1/models":
                    return json_answer(405, {"detail": "Method Not Allowed"})
            lost = {"message": "no Route matched with those values", "request_id": uuid.uuid4().hex}
            return json_answer(404, lost)
        except Rejection as rejection:
            return json_answer(rejection.status, rejection.body)

    async def _answer_chat(self, record: RequestRecord, body: dict[str, Any], settle: Settle) -> Answer:
        model = self._model(body["model"], kind="chat")
        self._chat.check(body, model)
        counts = await self._chat.prompt_tokens(body)
        tokens = sum(counts)
        rules.check_window(tokens, model)
        limited = self._limited(tokens + (body.get("max_tokens") or 0))
        if limited is not None:
            return limited
        fault, delay = self._fault(record, tokens)
        given = canned(fault, settle, delay=delay, streamed=bool(body.get("stream")))
        return given or self._chat.answer(record, body, counts, fault, settle, delay=delay, limits=self._limit.headers)

    async def _answer_embeddings(self, record: RequestRecord, body: dict[str, Any], settle: Settle) -> Answer:
        self._model(body["model"], kind="embeddings")
        vectors, counts = await self._embeddings.embed(body)
        tokens = sum(counts)
        limited = self._limited(tokens)
        if limited is not None:
            return limited
        fault, delay = self._fault(record, tokens)
        given = canned(fault, settle, delay=delay, streamed=False)
        limits = self._limit.headers(tokens)
        return given or self._embeddings.answer(
            record, body, vectors, tokens, fault, settle, delay=delay, limits=limits
        )

    def _answer_models(self, record: RequestRecord, shown: Any, settle: Settle) -> Answer:
        limited = self._limited(0)
        if limited is not None:
            return limited
        fault, delay = self._fault(record, 0)
        given = canned(fault, settle, delay=delay, streamed=False)
        return given or broken_off(json_answer(200, shown, self._limit.headers(0), delay=delay), fault)

    def _model(self, name: str, *, kind: str) -> Model:
        model = get_model(name)
        embeds = model.can("embeddings") and not model.can("chat")
        if not self._known(name) or embeds != (kind == "embeddings"):
            raise Rejection(f"Invalid model: {name}", "invalid_model", "1500")
        return model

    def _known(self, name: str) -> bool:
        return get_model(name).known or name in OLDER_MODELS or name in self._options.models

    def _limited(self, tokens: int) -> Answer | None:
        seconds = self._limit.take(tokens)
        if seconds == 0:
            return None
        # The header knows whole seconds only (RFC 9110, section 10.2.3).
        told = self._limit.headers(tokens) | {"retry-after": str(math.ceil(seconds))}
        return json_answer(429, error_body(429), told)

    def _fault(self, record: RequestRecord, tokens: int) -> tuple[Fault | None, float]:
        """What goes wrong with this request, if anything, and the seconds until the first byte."""
        delay = self._options.latency + self._options.latency_per_token * tokens
        fault = self._next_fault(record)
        while isinstance(fault, Slow):
            delay += fault.seconds
            fault = None if fault.then is None else to_fault(fault.then)
        return fault, delay

    def _next_fault(self, record: RequestRecord) -> Fault | None:
        if self._queue:
            with self._queue_lock:
                if self._queue:
                    return self._queue.popleft()
        for rule, fault in self._faults:
            if rule(record) if callable(rule) else self._draw.random() < rule:
                return fault
        return None


def _checked(body: Any, check: schema.Check) -> dict[str, Any]:
    if isinstance(body, orjson.JSONDecodeError):
        wrong = [{"type": "json_invalid", "loc": ["body", body.pos], "msg": "JSON decode error", "input": {}}]
    else:
        wrong = schema.problems(body, check)
    if wrong:
        raise Rejection({"detail": wrong}, "invalid_request_error", status=422)
    checked: dict[str, Any] = body
    return checked


def _card(model: Model) -> dict[str, Any]:
    """A model as `GET /v1/models` shows it."""
    return {
        "id": model.id,
        "object": "model",
        "created": CREATED,
        "owned_by": "mistralai",
        "capabilities": {
            "completion_chat": model.can("chat"),
            "completion_fim": model.id.startswith("codestral"),
            "function_calling": model.can("tools"),
            "fine_tuning": False,
            "vision": model.can("vision"),
            "classification": False,
            "audio": model.can("audio"),
        },
        "name": model.id,
        "description": None,
        "max_context_length": model.context_window,
        "aliases": [],
        "deprecation": None,
        "default_model_temperature": None,
        "type": "base",
    }
