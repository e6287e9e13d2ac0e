"""Mistral's side: checks a request as Mistral does and answers with the simulated model, or with what was asked for."""

from __future__ import annotations

import asyncio
import random
import secrets
import string
import threading
import time
import uuid
from base64 import b64encode
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import orjson

from lava_mistral.catalog import Model, get_model, models
from lava_mistral.gateway import pieces, rules, schema, stream
from lava_mistral.gateway.delivery import Answer
from lava_mistral.gateway.embedder import DIMENSIONS, Embedder
from lava_mistral.gateway.faults import (
    EVENT_STREAM,
    Body,
    Cut,
    Fault,
    Garbage,
    Interrupted,
    Reset,
    Slow,
    Stall,
    Status,
    Step,
    WrongVectors,
    error_body,
    looks_like_stream,
    retry_after_header,
    to_bytes,
    to_fault,
)
from lava_mistral.gateway.limits import RateLimit
from lava_mistral.gateway.model import Reply, answer
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.records import RequestRecord
from lava_mistral.gateway.rules import Rejection
from lava_mistral.wire import Usage

Settle: TypeAlias = Callable[[Usage], None]
"""Called with the usage when the answer's tokens are known, before the client can know them."""

# Names of older models in public recordings of Mistral's traffic; Lava does not list them.
OLDER_MODELS = frozenset(
    ("mistral-tiny", "open-mistral-7b", "open-mixtral-8x7b", "open-mixtral-8x22b", "mistral-small")
)
CREATED = 1_735_689_600
_JSON = "application/json"
_ALPHABET = string.ascii_letters + string.digits
# So many tokens of embeddings take milliseconds: worth a thread, so that streams flow on meanwhile.
_MANY_TOKENS = 2_000
_ENDLESS_TOKENS = 200


class Provider:
    """The simulated Mistral. `queue` may be called from any thread, the rest in the server's."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._limit = RateLimit(options.requests_per_second, options.tokens_per_minute, options.burst)
        self._embedder = Embedder()
        self._draw = random.Random(options.seed)
        self._faults = [(probability, to_fault(fault)) for probability, fault in options.faults]
        self._queue: deque[Fault] = deque()
        self._queue_lock = threading.Lock()
        self._cached: OrderedDict[tuple[str, str], list[int]] = OrderedDict()

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

    async def handle(self, record: RequestRecord, content: bytes, settle: Settle) -> Answer:
        """Answer one request to api.mistral.ai."""
        try:
            key = record.credential.get("provider_key")
            accepted = self._options.provider_keys
            if key is not None and accepted is not None and key not in accepted:
                raise Rejection(None, status=401)
            match record.method, record.path:
                case "POST", "/v1/chat/completions":
                    return await self._chat(record, _parsed(content, schema.CHAT), settle)
                case "POST", "/v1/embeddings":
                    return await self._embeddings(record, _parsed(content, schema.EMBEDDINGS), settle)
                case "GET", "/v1/models":
                    return _json(200, {"object": "list", "data": [_card(model) for model in models()]})
                case "GET", path if path.startswith("/v1/models/"):
                    return self._card(path.removeprefix("/v1/models/"))
                case _, "/v1/chat/completions" | "/v1/embeddings" | "/v1/models":
                    return _json(405, {"detail": "Method Not Allowed"})
            return _json(404, {"message": "no Route matched with those values", "request_id": uuid.uuid4().hex})
        except Rejection as rejection:
            return _json(rejection.status, rejection.body)

    def _card(self, name: str) -> Answer:
        if not self._known(name):
            return _json(404, error_body(404, f"Model {name} not found"))
        return _json(200, _card(get_model(name), name))

    def _known(self, name: str) -> bool:
        return get_model(name).known or name in OLDER_MODELS or name in self._options.models

    def _next_fault(self) -> Fault | None:
        if self._queue:
            with self._queue_lock:
                if self._queue:
                    return self._queue.popleft()
        for probability, fault in self._faults:
            if self._draw.random() < probability:
                return fault
        return None

    def _limited(self, tokens: int) -> Answer | None:
        seconds = self._limit.take(tokens)
        if seconds == 0:
            return None
        headers = self._limit.headers(tokens) | {"retry-after": f"{max(seconds, 0.01):.2f}"}
        return _json(429, error_body(429), headers)

    # Chat.

    async def _chat(self, record: RequestRecord, body: dict[str, Any], settle: Settle) -> Answer:
        model = get_model(body["model"])
        rules.check_model(model, kind="chat", known=self._known(body["model"]), name=body["model"])
        rules.check_messages(body["messages"])
        rules.check_tools(body)
        rules.check_format(body)
        rules.check_images(body["messages"], model)
        counts = self._prompt_tokens(body)
        prompt_tokens = sum(counts)
        rules.check_window(prompt_tokens, model)
        limited = self._limited(prompt_tokens + (body.get("max_tokens") or 0))
        if limited is not None:
            return limited
        fault = self._next_fault()
        delay = self._options.latency + self._options.latency_per_token * prompt_tokens
        if isinstance(fault, Slow):
            delay += fault.seconds
            fault = None if fault.then is None else to_fault(fault.then)
        canned = _canned(fault, settle, delay, streamed=bool(body.get("stream")))
        if canned is not None:
            return canned
        choices = [self._choice(body, model, number) for number in range(body.get("n") or 1)]
        usage = self._usage(body, counts, choices)
        answer_id, created = uuid.uuid4().hex, int(time.time())
        record.response_id = answer_id
        if body.get("stream"):
            events = stream.events(
                choices,
                usage,
                id=answer_id,
                created=created,
                model=body["model"],
                fragment=self._options.fragment_tool_calls,
                draw=self._draw,
            )
            steps = _streamed(events, fault, self._options.pace, lambda: settle(usage))
            return Answer(200, _headers(EVENT_STREAM), steps, delay)
        settle(usage)
        finished = [
            {"index": at, "finish_reason": choice.finish, "message": choice.message()}
            for at, choice in enumerate(choices)
        ]
        if isinstance(fault, Interrupted) and fault.how == "finish error":
            finished[0]["finish_reason"] = "error"
        delay += self._options.latency_per_token * usage["completion_tokens"]
        response = {
            "id": answer_id,
            "created": created,
            "model": body["model"],
            "usage": usage,
            "object": "chat.completion",
            "choices": finished,
        }
        return _json(200, response, self._limit.headers(usage["total_tokens"]), delay)

    def _prompt_tokens(self, body: Mapping[str, Any]) -> list[int]:
        """The tokens of each message; those of the tools and of the prompt's start count to the first."""
        if self._options.tokenizer == "exact":
            from lava_mistral.tokens import count_tokens

            return [count_tokens(body["messages"], model=body["model"]).tokens]
        counts = [rules.message_tokens(message) for message in body["messages"]]
        counts[0] += 1
        if body.get("tools"):
            # Mistral's tokenizers take the punctuation of JSON together, several marks to a token.
            counts[0] += pieces.count(orjson.dumps(body["tools"]).decode()) * 2 // 3
        return counts

    def _usage(self, body: Mapping[str, Any], counts: list[int], choices: Sequence[stream.Choice]) -> Usage:
        prompt = sum(counts)
        completion = sum(map(self._completion_tokens, choices))
        usage: Usage = {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        }
        key = body.get("prompt_cache_key")
        if key is not None:
            cached = self._cache((body["model"], key), body["messages"], counts)
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
            usage["num_cached_tokens"] = cached
        return usage

    def _completion_tokens(self, choice: stream.Choice) -> int:
        called = 0
        for call in choice.calls:
            called += 3 + pieces.count(call["function"]["name"]) + pieces.count(call["function"]["arguments"])
        return len(choice.thinking) + len(choice.text) + called

    def _cache(self, key: tuple[str, str], messages: Sequence[Mapping[str, Any]], counts: list[int]) -> int:
        """How many tokens stand at the prompt's start as in the last prompt of the same key, in blocks of 16."""
        digests = [hash(orjson.dumps(message)) for message in messages]
        before = self._cached.pop(key, [])
        self._cached[key] = digests
        if len(self._cached) > 1_000:
            self._cached.popitem(last=False)
        same = 0
        for old, new, tokens in zip(before, digests, counts, strict=False):
            if old != new:
                break
            same += tokens
        return same // 16 * 16

    def _choice(self, body: Mapping[str, Any], model: Model, number: int) -> stream.Choice:
        reasoning = body["model"].startswith("magistral") or body.get("reasoning_effort") == "high"
        seed = body.get("random_seed") or 0
        reply = answer(body, choice=number + seed, reasoning=reasoning)
        limit = body.get("max_tokens")
        if reply.endless:
            return _cut(stream.Choice(text=[" "] * max(_ENDLESS_TOKENS, limit or 0), finish="length"), limit)
        text = _prefixed(body, reply)
        stopped = _stopped(text, body.get("stop"))
        choice = stream.Choice(thinking=pieces.split(reply.thinking), text=pieces.split(stopped), calls=_calls(reply))
        if choice.calls:
            choice.finish = "tool_calls"
            return choice
        return _cut(choice, limit)

    # Embeddings.

    async def _embeddings(self, record: RequestRecord, body: dict[str, Any], settle: Settle) -> Answer:
        model = get_model(body["model"])
        rules.check_model(model, kind="embeddings", known=self._known(body["model"]), name=body["model"])
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        rules.check_inputs(len(texts))
        dimensions = body.get("output_dimension") or DIMENSIONS
        if dimensions > DIMENSIONS:
            raise Rejection(f"output_dimension must be at most {DIMENSIONS}", "invalid_request_invalid_args", "3051")
        if sum(map(len, texts)) > _MANY_TOKENS:
            vectors, counts = await asyncio.to_thread(self._embedder, texts, dimensions=dimensions)
        else:
            vectors, counts = self._embedder(texts, dimensions=dimensions)
        if self._options.tokenizer == "exact":
            from lava_mistral.tokens import count_tokens

            counts = [count_tokens(text, model=body["model"]).tokens for text in texts]
        rules.check_input_tokens(counts)
        tokens = sum(counts)
        limited = self._limited(tokens)
        if limited is not None:
            return limited
        fault = self._next_fault()
        delay = self._options.latency + self._options.latency_per_token * tokens
        if isinstance(fault, Slow):
            delay += fault.seconds
            fault = None if fault.then is None else to_fault(fault.then)
        canned = _canned(fault, settle, delay, streamed=False)
        if canned is not None:
            return canned
        as_text = body.get("encoding_format") == "base64" and self._options.base64
        data = _data(vectors, body.get("output_dtype", "float"), as_text=as_text)
        if isinstance(fault, WrongVectors):
            data = _wronged(data, fault.how, as_text=as_text)
        usage: Usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        record.response_id = uuid.uuid4().hex
        settle(usage)
        response = {
            "id": record.response_id,
            "object": "list",
            "data": data,
            "model": body["model"],
            "usage": {"prompt_audio_seconds": None, **usage, "prompt_token_details": None},
        }
        return _json(200, response, self._limit.headers(tokens), delay)


def _parsed(content: bytes, check: schema.Check) -> dict[str, Any]:
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        wrong = {"type": "json_invalid", "loc": ["body", error.pos], "msg": "JSON decode error", "input": {}}
        raise Rejection({"detail": [wrong]}, "invalid_request_error", status=422) from None
    found = schema.problems(body, check)
    if found:
        raise Rejection({"detail": found}, "invalid_request_error", status=422)
    checked: dict[str, Any] = body
    return checked


def _headers(content_type: str) -> dict[str, str]:
    return {
        "content-type": content_type,
        "mistral-correlation-id": str(uuid.uuid4()),
        "x-kong-upstream-latency": "61",
        "x-kong-proxy-latency": "7",
    }


def _json(status: int, body: Any, headers: Mapping[str, str] | None = None, delay: float = 0.0) -> Answer:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    return Answer(status, _headers(_JSON) | dict(headers or {}), content, delay)


def _card(model: Model, name: str | None = None) -> dict[str, Any]:
    """A model as `GET /v1/models` shows it."""
    return {
        "id": name or model.id,
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
        "name": name or model.id,
        "description": None,
        "max_context_length": model.context_window,
        "aliases": [],
        "deprecation": None,
        "default_model_temperature": None,
        "type": "base",
    }


def _prefixed(body: Mapping[str, Any], reply: Reply) -> str:
    """The answer, begun with the text of a last assistant message."""
    last = body["messages"][-1]
    if last["role"] != "assistant" or reply.calls:
        return reply.text
    content = last.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    if reply.text.startswith(content):
        return reply.text
    gap = "" if not content or content[-1].isspace() or not reply.text else " "
    return content + gap + reply.text


def _stopped(text: str, stop: str | Sequence[str] | None) -> str:
    ends = [stop] if isinstance(stop, str) else stop or ()
    found = [text.index(end) for end in ends if end and end in text]
    return text[: min(found)] if found else text


def _cut(choice: stream.Choice, limit: int | None) -> stream.Choice:
    """The answer within `max_tokens`, thinking included."""
    if limit is not None and len(choice.thinking) + len(choice.text) > limit:
        choice.thinking = choice.thinking[:limit]
        choice.text = choice.text[: limit - len(choice.thinking)]
        choice.finish = "length"
    return choice


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {
            "id": "".join(secrets.choice(_ALPHABET) for _ in range(9)),
            "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()},
        }
        for call in reply.calls
    ]


def _streamed(events: Sequence[bytes], fault: Fault | None, pace: float, settle: Callable[[], None]) -> Iterator[Step]:
    """Plays a stream, with what is to go wrong; `settle` is called before the usage goes out."""
    last = len(events) - 1
    for at, event in enumerate(events):
        match fault:
            case Garbage(after=after) if at == min(after, last):
                yield b"data: {garbage\n\n"
            case Interrupted(after=after, how=how) if at == min(after, last):
                match how:
                    case "clean":
                        return
                    case "closed" | "reset":
                        yield Cut(reset=how == "reset")
                    case "stalled":
                        yield Stall()
                    case "error event":
                        yield b"data: " + orjson.dumps(error_body(503)) + b"\n\n"
                        yield stream.DONE
                        return
            case Interrupted(how="finish error") if at == last:
                head, _, tail = event.rpartition(b'"finish_reason":')
                event = head + b'"finish_reason":"error"' + tail[tail.index(b"}") :]
        if at == last:
            settle()
        elif pace and at:
            yield pace
        yield event
    if not (isinstance(fault, Interrupted) and fault.how == "no done"):
        yield stream.DONE


def _canned(fault: Fault | None, settle: Settle, delay: float, *, streamed: bool) -> Answer | None:
    """The answer that a fault is in itself; `None` for one that changes the usual answer, or for none."""
    match fault:
        case Reset():
            return Answer(0, reset=True, delay=delay)
        case Status():
            headers = dict(fault.headers)
            if fault.retry_after is not None:
                headers["retry-after"] = retry_after_header(fault.retry_after)
            body = error_body(fault.status) if fault.body is None else fault.body
            return _given(body, fault.status, headers, settle, delay)
        case Body():
            return _given(fault.body, fault.status, fault.headers, settle, delay)
        case Garbage() if not streamed:
            return Answer(200, _headers(_JSON), b'{"id": "garbage", "choices": [{"ind', delay)
    return None


def _given(body: Any, status: int, headers: Mapping[str, str], settle: Settle, delay: float) -> Answer:
    steps = body if isinstance(body, list) and not all(isinstance(step, dict) for step in body) else None
    if steps is None and not isinstance(body, bytes | str):
        if status < 400 and isinstance(body, dict) and isinstance(body.get("usage"), dict):
            settle(body["usage"])
        return Answer(status, _headers(_JSON) | dict(headers), to_bytes(body), delay)
    played: list[Step] = [body] if steps is None else steps
    kind = EVENT_STREAM if status < 400 and looks_like_stream(played) else _JSON
    named = {name.lower(): value for name, value in headers.items()}
    if status >= 400 or (steps is None and "event-stream" not in named.get("content-type", kind)):
        return Answer(
            status,
            _headers(kind) | named,
            b"".join(to_bytes(step) for step in played if isinstance(step, bytes | str)),
            delay,
        )
    return Answer(status, _headers(kind) | named, _played(played, settle), delay)


def _played(steps: Sequence[Step], settle: Settle) -> Iterator[Step]:
    """Plays given steps; a usage among them is settled before its line goes out."""
    settled = False
    line = b""
    for step in steps:
        if not settled and isinstance(step, bytes | str):
            *lines, line = (line + to_bytes(step)).split(b"\n")
            for complete in lines:
                usage = _usage_in(complete)
                if usage is not None:
                    settle(usage)
                    settled = True
                    break
        yield step


def _usage_in(line: bytes) -> Usage | None:
    if b'"usage"' not in line or not line.startswith(b"data:"):
        return None
    try:
        value = orjson.loads(line[5:])
    except orjson.JSONDecodeError:
        return None
    usage = value.get("usage") if isinstance(value, dict) else None
    return usage if isinstance(usage, dict) else None  # type: ignore[return-value]


def _data(vectors: np.ndarray[Any, Any], dtype: str, *, as_text: bool) -> list[dict[str, Any]]:
    match dtype:
        case "float":
            rows = vectors.astype("<f4") if as_text else vectors.astype(np.float64)
        case "int8":
            rows = np.clip(np.rint(vectors.astype(np.float32) * 127), -127, 127).astype(np.int8)
        case "uint8":
            rows = np.clip(np.rint(vectors.astype(np.float32) * 127 + 128), 0, 255).astype(np.uint8)
        case "binary":
            rows = (np.packbits(vectors > 0, axis=1).astype(np.int16) - 128).astype(np.int8)
        case _:
            rows = np.packbits(vectors > 0, axis=1)
    if as_text:
        return [
            {"object": "embedding", "embedding": b64encode(row.tobytes()).decode(), "index": at}
            for at, row in enumerate(rows)
        ]
    return [{"object": "embedding", "embedding": row, "index": at} for at, row in enumerate(rows)]


def _wronged(data: list[dict[str, Any]], how: str, *, as_text: bool) -> list[dict[str, Any]]:
    match how:
        case "short":
            return data[:-1]
        case "empty":
            return []
        case "shuffled":
            return data[1::2][::-1] + data[::2]
        case "duplicated":
            if len(data) > 1:
                data[-1] = {**data[0]}
            else:
                data.append({**data[0]})
            return data
        case "dimension":
            embedding = data[-1]["embedding"]
            data[-1]["embedding"] = embedding[: len(embedding) // 2]
            return data
        case _:
            if as_text:
                data[-1]["embedding"] = b64encode(np.full(DIMENSIONS, np.nan, "<f4").tobytes()).decode()
            else:
                # orjson writes NaN as null, the only thing that JSON has for it.
                data[-1]["embedding"] = [float("nan"), *data[-1]["embedding"].tolist()[1:]]
            return data
