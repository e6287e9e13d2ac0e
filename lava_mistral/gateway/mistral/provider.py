"""Mistral's side: checks a request as Mistral does and answers with the simulated model, or with what was asked for."""

import math
import operator
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from lava_mistral.gateway.faults import Fault, Slow, error_body, to_fault
from lava_mistral.gateway.mistral import embeddings, rules
from lava_mistral.gateway.mistral.answers import broken_off, canned, json_answer
from lava_mistral.gateway.mistral.chat import Chat
from lava_mistral.gateway.mistral.rules import Rejection
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.request_log import KINDS, RequestRecord
from lava_mistral.gateway.server import HttpAnswer
from lava_mistral.pricing.catalog import Model, get_model, models

# Models that Lava does not list: older names, and those that listen.
_OLDER = ("mistral-tiny", "mistral-small", "open-mistral-7b", "open-mixtral-8x7b", "open-mixtral-8x22b")
_EARS = ("voxtral-small-latest", "voxtral-mini-latest", "voxtral-small-2507", "voxtral-mini-2507")


class RateLimit:
    """A bucket of requests and one of tokens, with `burst` seconds' worth at most; used in one thread.

    Without a limit, the headers tell the figures of a large account.
    """

    def __init__(self, options: Options, clock: Callable[[], float] = time.monotonic) -> None:
        a_second, a_minute, burst = options.requests_per_second, options.tokens_per_minute, options.burst
        self._rates = (a_second or 6_000.0, (a_minute or 20_000_000) / 60)
        saved_up = (a_second and a_second * min(burst, 10.0), a_minute and a_minute / 60 * min(burst, 60.0))
        self._most = [max(1.0, units) if units else math.inf for units in saved_up]
        self._levels = self._most
        self._clock, self._at = clock, clock()

    def take(self, tokens: int) -> float:
        """Take one request of so many tokens; returns 0, or the seconds to wait if it is too much now."""
        before, self._at = self._at, self._clock()
        filled = [level + (self._at - before) * rate for level, rate in zip(self._levels, self._rates, strict=True)]
        self._levels = list(map(min, self._most, filled))
        # More than the capacity goes when it is full.
        lacking = map(operator.sub, map(min, (1, tokens), self._most), self._levels)
        seconds: float = max(map(operator.truediv, lacking, self._rates))
        # A float's last digit is no reason to wait.
        if seconds > 1e-9:
            return seconds
        self._levels = list(map(operator.sub, self._levels, (1, tokens)))
        return 0.0

    def headers(self, tokens: int) -> dict[str, str]:
        limit, minute = max(1, int(self._rates[0] * 10)), round(self._rates[1] * 60)
        told = {
            "limit-req-10-second": limit,
            "remaining-req-10-second": max(0, int(min(self._levels[0], limit - 1))),
            "limit-tokens-minute": minute,
            "remaining-tokens-minute": max(0, int(min(self._levels[1], minute - tokens))),
            "limit-tokens-month": 200_000_000_000,
            "remaining-tokens-month": 200_000_000_000 - tokens,
            "tokens-query-cost": tokens,
        }
        return {f"x-ratelimit-{name}": str(value) for name, value in told.items()}


class Provider:
    """The simulated Mistral. `queue` may be called from any thread, the rest in the server's."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._chat = Chat(options)
        self._limit = RateLimit(options)
        self._draw = random.Random(options.seed)
        self.queued: list[tuple[str | None, Fault]] = []

    def queue(self, responses: Sequence[Any], path: str | None) -> None:
        if path is not None and path not in KINDS:
            raise ValueError(f"path is one of {', '.join(KINDS)}, not {path!r}")
        self.queued += [(path, to_fault(response)) for response in responses]

    async def handle(self, record: RequestRecord, body: Any) -> HttpAnswer:
        """Answer one request to api.mistral.ai; the body is parsed, or the error of one that can't be."""
        try:
            key, accepted = record.credential.get("provider_key"), self._options.provider_keys
            if key is not None and accepted is not None and key not in accepted:
                raise Rejection(None, status=401)
            if record.method == "POST" and record.path in rules.BODIES:
                rules.check_body(body, rules.BODIES[record.path])
            return await self._answer(record, body)
        except Rejection as rejection:
            # The header knows whole seconds only (RFC 9110, section 10.2.3).
            told = self._limit.headers(0) | {"retry-after": str(math.ceil(rejection.wait))} if rejection.wait else {}
            return json_answer(rejection.status, rejection.body, told)

    async def _answer(self, record: RequestRecord, body: Any) -> HttpAnswer:
        tokens = allowed = 0
        make: Callable[..., HttpAnswer] | None = None
        match record.method, record.path:
            case "POST", "/v1/chat/completions":
                counts = await self._chat.prompt_tokens(body, self._model(body["model"], "chat"))
                tokens, allowed = sum(counts), body.get("max_tokens") or 0
                make = partial(self._chat.answer, body, counts, record)
            case "POST", "/v1/embeddings":
                self._model(body["model"], "embeddings")
                vectors, tokens = await embeddings.embedded(body, exact=self._options.tokenizer == "exact")
                make = partial(embeddings.answer, body, vectors, tokens, record, base64=self._options.base64)
            case "GET", path if path == "/v1/models" or path.startswith("/v1/models/"):
                listed = self._models(path.partition("/v1/models/")[2])
            case _, "/v1/chat/completions" | "/v1/embeddings" | "/v1/models":
                return json_answer(405, {"detail": "Method Not Allowed"})
            case _:
                return json_answer(404, error_body(404))
        if seconds := self._limit.take(tokens + allowed):
            raise Rejection(None, status=429, wait=seconds)
        late, fault = self._options.latency + self._options.latency_per_token * tokens, self._next_fault(record)
        while isinstance(fault, Slow):
            late, fault = late + fault.seconds, fault.then
        answer = canned(record, fault)
        if answer is None:
            answer = make(fault=fault) if make else json_answer(200, listed)
            answer.headers |= self._limit.headers(answer.usage["total_tokens"] if answer.usage else tokens)
            answer = broken_off(answer, fault)
        answer.delay += late
        return answer

    def _models(self, name: str) -> dict[str, Any]:
        if not name:
            return {"object": "list", "data": list(map(_card, (*models(), *map(get_model, self._options.models))))}
        if (model := self._known(name)) is None:
            raise Rejection(f"Model {name} not found", None, status=404)
        return _card(model)

    def _model(self, name: str, kind: str) -> Model:
        model = self._known(name)
        if model is None or (model.can("embeddings") and not model.can("chat")) != (kind == "embeddings"):
            raise Rejection(f"Invalid model: {name}", "invalid_model")
        return model

    def _known(self, name: str) -> Model | None:
        model = get_model(name)
        if name in _EARS:
            return replace(model, capabilities=model.capabilities | {"audio"})
        return model if model.known or name in (*_OLDER, *self._options.models) else None

    def _next_fault(self, record: RequestRecord) -> Fault | None:
        for at, (path, fault) in enumerate(self.queued):
            if path in (None, record.kind):
                del self.queued[at]
                return fault
        faults: Sequence[tuple[Any, Fault]] = self._options.faults
        drawn = (fault for rule, fault in faults if (rule(record) if callable(rule) else self._draw.random() < rule))
        return next(drawn, None)


def _card(model: Model) -> dict[str, Any]:
    abilities = {"completion_chat": "chat", "function_calling": "tools", "vision": "vision", "audio": "audio"}
    capabilities = {name: ability in model.capabilities for name, ability in abilities.items()}
    nothing = ("description", "deprecation", "deprecation_replacement_model", "default_model_temperature")
    capabilities |= {"completion_fim": "codestral" in model.id, "fine_tuning": False}
    named = {"id": model.id, "name": model.id, "object": "model", "owned_by": "mistralai", "type": "base"}
    told = {"created": 1_735_689_600, "max_context_length": model.context_window, "capabilities": capabilities}
    return {**named, **told, "aliases": [], **dict.fromkeys(nothing)}
