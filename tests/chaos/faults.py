"""Faults of an upstream, each with what may come of it: the right result, or an error of one of the named classes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from tests.chaos.answers import DONE, Reply, chat, chunk, chunks, embeddings, event, good, kind_of, sse

OK = "ok"
CONNECTION = {"APIConnectionError"}
SERVER = {"ServerError"}
TIMEOUT = {"APITimeoutError"}
INTERRUPTED = {"StreamInterruptedError"}
STALLED = {"StreamStalledError"}
ANY = {"LavaError"}


class Exchange(Protocol):
    """One request, and the connection on which it is answered."""

    body: dict[str, Any]
    kind: str
    attempt: int
    credential: str

    async def send(self, data: bytes) -> None: ...
    async def pause(self, seconds: float) -> None: ...
    async def silence(self) -> None: ...
    def reset(self) -> None: ...
    def close(self) -> None: ...
    async def reply(self, reply: Reply) -> None: ...


Respond = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """A fault and what a caller may see of it.

    Attributes:
        expect: outcomes by kind of request (`chat`, `stream`, `embed`): `"ok"` or names of error classes.
        repeated: whether a failed request is tried again.
        before_sending: whether the fault comes before the whole request was read.
        seconds: what the fault may take beyond the time limits.
    """

    name: str
    respond: Respond
    expect: dict[str, set[str]]
    repeated: bool = True
    before_sending: bool = False
    seconds: float = 0.0


FAULTS: dict[str, Fault] = {}


def add(
    name: str,
    respond: Respond,
    *,
    chat: set[str] | None = None,
    stream: set[str] | None = None,
    embed: set[str] | None = None,
    all: set[str] | None = None,
    late: bool = False,
    **options: Any,
) -> None:
    """Register a fault, and the same fault at the first try alone where a second one helps.

    Args:
        late: whether a stream had begun to be handed on, so that it is not tried again.
    """
    given = {"chat": chat or all, "stream": stream or all, "embed": embed or all}
    expect = {kind: outcomes for kind, outcomes in given.items() if outcomes}
    FAULTS[name] = Fault(name, respond, expect, **options)
    if not options.get("repeated", True) or options.get("before_sending"):
        return
    recovers = {
        kind: {OK} for kind, outcomes in expect.items() if OK not in outcomes and (kind != "stream" or not late)
    }

    async def once(exchange: Exchange) -> None:
        await (respond(exchange) if exchange.attempt == 1 else exchange.reply(good(exchange.body)))

    if recovers:
        FAULTS[f"{name}, once"] = Fault(f"{name}, once", once, recovers, seconds=options.get("seconds", 0.0) + 1.5)


def answering(make: Callable[[dict[str, Any]], Reply]) -> Respond:
    """Respond with a reply that is made of the request's body."""

    async def respond(exchange: Exchange) -> None:
        await exchange.reply(make(exchange.body))

    return respond


def raw(make: Callable[[dict[str, Any]], bytes], end: str = "close") -> Respond:
    """Respond with bytes, then close, reset or fall silent."""

    async def respond(exchange: Exchange) -> None:
        await exchange.send(make(exchange.body))
        match end:
            case "close":
                exchange.close()
            case "reset":
                exchange.reset()
            case "silence":
                await exchange.silence()

    return respond


# ---- answers that are cut, at every depth, in every framing, with every end


def _cut(framing: str, share: float) -> Callable[[dict[str, Any]], bytes]:
    def make(body: dict[str, Any]) -> bytes:
        reply = good(body, framing)
        head, rest = reply.head(), reply.framed()
        whole = head + rest
        return whole[: int(len(head) * 0.6)] if share < 0 else whole[: len(head) + int(len(rest) * share)]

    return make


for _framing in ("length", "chunked", "close"):
    for _share in (-1, 0.0, 0.3, 0.7):
        for _end in ("close", "reset", "silence"):
            if _framing == "close" and _share >= 0 and _end == "close":
                _lost = SERVER
            else:
                _lost = TIMEOUT if _end == "silence" else CONNECTION
            _first = TIMEOUT if _end == "silence" else CONNECTION | INTERRUPTED
            add(
                f"cut: {_framing}, {_share}, {_end}",
                raw(_cut(_framing, _share), _end),
                chat=_lost,
                embed=_lost,
                stream=_first if _share <= 0 else (STALLED if _end == "silence" else INTERRUPTED),
                late=_share > 0,
            )


# ---- connections and framing


async def _reset(exchange: Exchange) -> None:
    exchange.reset()


async def _close(exchange: Exchange) -> None:
    exchange.close()


async def _silence(exchange: Exchange) -> None:
    await exchange.silence()


add("reset after the request", _reset, all=CONNECTION)
add("closed after the request", _close, all=CONNECTION)
add("no answer", _silence, all=TIMEOUT)
add("reset while the request is sent", _reset, all=CONNECTION, before_sending=True)


def _head(lines: Iterable[str], body: bytes = b"") -> bytes:
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _with_length(length: str) -> Callable[[dict[str, Any]], bytes]:
    def make(body: dict[str, Any]) -> bytes:
        reply = good(body, "length")
        return _head(
            ["HTTP/1.1 200 OK", f"content-type: {reply.content_type}", f"content-length: {length}"], reply.body
        )

    return make


for _name, _length in {"a word": "many", "negative": "-5", "empty": "", "two": "10, 20", "hexadecimal": "0x40"}.items():
    add(f"content-length: {_name}", raw(_with_length(_length)), all=CONNECTION)
add("content-length: far too large, then closed", raw(_with_length("9999999")), chat=CONNECTION, embed=CONNECTION,
    stream={OK, *INTERRUPTED})  # fmt: skip


def _chunked(body: dict[str, Any], *pieces: bytes) -> bytes:
    reply = good(body, "chunked")
    return reply.head() + b"".join(pieces)


for _name, _junk in {
    "no number": b"zz\r\nabc\r\n",
    "negative": b"-5\r\nhello\r\n",
    "huge": b"fffffffffffffffff\r\nabc",
    "longer than it says": b"3\r\nabcdef\r\n0\r\n\r\n",
    "missing line end": b"5\r\nhelloX0\r\n\r\n",
}.items():
    add(f"chunk size: {_name}", raw(lambda body, junk=_junk: _chunked(body, junk)), all=CONNECTION | INTERRUPTED)
    add(
        f"chunk size in the middle: {_name}",
        raw(lambda body, junk=_junk: _chunked(body, good(body, "chunked").framed()[:140], junk)),
        chat=CONNECTION,
        embed=CONNECTION,
        stream=CONNECTION | INTERRUPTED,
        late=True,
    )
    add(
        f"chunk size, then silence: {_name}",
        raw(lambda body, junk=_junk: _chunked(body, junk), "silence"),
        all=CONNECTION | INTERRUPTED | TIMEOUT,
    )

for _name, _line in {
    "garbage": "not HTTP at all",
    "version 9": "HTTP/9.9 200 OK",
    "status of letters": "HTTP/1.1 abc OK",
    "status 99": "HTTP/1.1 99 Odd",
    "tls": "\x15\x03\x01\x00\x02\x02\x28",
}.items():
    add(f"status line: {_name}", raw(lambda body, line=_line: _head([line])), all=CONNECTION | SERVER | INTERRUPTED)


def _headers(*headers: tuple[str, str]) -> Respond:
    def make(body: dict[str, Any]) -> Reply:
        reply = good(body)
        reply.headers += headers
        return reply

    return answering(make)


add("headers: one of 9 KB", _headers(("x-long", "a" * 9_000)), all={OK})
add("headers: one of 40 KB", _headers(("x-long", "a" * 40_000)), all={OK, *CONNECTION})
add("headers: 130 lines", _headers(*((f"x-{number}", "a") for number in range(130))), all={OK})
add("headers: Latin-1", _headers(("x-name", "Größe")), all={OK})
add("headers: NUL", _headers(("x-name", "a\0b")), all={OK, *CONNECTION})
add("headers: a line without colon", _headers(("x-a: b\r\nnonsense", "c")), all={OK, *CONNECTION})
add("headers: cookies", _headers(("set-cookie", "a=b; Path=/"), ("set-cookie", "c=d")), all={OK})
for _value in ("absurd", "-1", "1e400", "9" * 400, "NaN", ""):
    add(
        f"rate-limit headers: {_value[:8]!r}",
        _headers(
            ("x-ratelimit-limit-tokens-minute", _value),
            ("x-ratelimit-remaining-tokens-minute", _value),
            ("x-ratelimit-limit-req-10-second", _value),
        ),
        all={OK},
    )

add("rate-limit headers: a window without end", _headers((f"x-ratelimit-limit-req-{'9' * 400}-second", "5")), all={OK})


def _informational(status: str, times: int) -> Respond:
    async def respond(exchange: Exchange) -> None:
        for _ in range(times):
            await exchange.send(f"HTTP/1.1 {status}\r\n\r\n".encode())
        await exchange.reply(good(exchange.body))

    return respond


for _status in ("100 Continue", "102 Processing", "103 Early Hints"):
    for _times in (1, 40):
        add(f"{_status}, {_times} times", _informational(_status, _times), all={OK})


async def _informational_for_ever(exchange: Exchange) -> None:
    for _ in range(300):
        await exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")
        await exchange.pause(0.2)


add("102 for ever", _informational_for_ever, all=TIMEOUT | CONNECTION)
add("101 Switching Protocols", raw(lambda _: _head(["HTTP/1.1 101 Switching Protocols", "upgrade: h2c"])),
    all=CONNECTION | SERVER | INTERRUPTED | TIMEOUT)  # fmt: skip


def _http10(body: dict[str, Any]) -> bytes:
    reply = good(body, "close")
    return reply.head().replace(b"HTTP/1.1", b"HTTP/1.0", 1) + reply.body


add("HTTP/1.0", raw(_http10), all={OK})


def _compressed(how: Callable[[bytes], bytes], encoding: str) -> Respond:
    def make(body: dict[str, Any]) -> Reply:
        reply = good(body)
        return Reply(
            how(reply.body), headers=[("content-encoding", encoding)], content_type=reply.content_type, framing="length"
        )

    return answering(make)


add("gzip", _compressed(gzip.compress, "gzip"), all={OK})
add("deflate", _compressed(zlib.compress, "deflate"), all={OK})
add("gzip, cut", _compressed(lambda body: gzip.compress(body)[:-12], "gzip"), chat=CONNECTION | SERVER,
    embed=CONNECTION | SERVER, stream={OK, *INTERRUPTED}, late=True)  # fmt: skip
add("gzip, broken", _compressed(lambda body: gzip.compress(body)[:10] + b"\xff" * 40, "gzip"),
    all=CONNECTION | SERVER | INTERRUPTED, late=True)  # fmt: skip
add("gzip that is none", _compressed(lambda body: body, "gzip"), all=CONNECTION | SERVER | INTERRUPTED, late=True)
add("an unknown encoding", _compressed(lambda body: body, "zebra"), all={OK, *CONNECTION, *SERVER, *INTERRUPTED})


# ---- statuses, with bodies of every form

BODIES: dict[str, tuple[str, bytes]] = {
    "Lava, object": ("application/json", b'{"error": {"message": "No.", "code": "no", "status": 400}}'),
    "Lava, text": ("application/json", b'{"error": "No."}'),
    "Mistral": ("application/json", b'{"object": "error", "message": "No.", "type": "invalid", "code": "1"}'),
    "Mistral, details": ("application/json", b'{"detail": [{"loc": ["body", "x"], "msg": "No.", "type": "t"}]}'),
    "HTML": ("text/html", b"<html><body><h1>No.</h1></body></html>"),
    "nothing": ("application/json", b""),
    "null": ("application/json", b"null"),
    "a list": ("application/json", b"[1, 2]"),
    "a number": ("application/json", b"17"),
    "odd fields": ("application/json", b'{"message": {"a": [1]}, "code": {"b": 2}, "type": [3], "error": null}'),
    "deep": ("application/json", b'{"message": ' + b"[" * 400 + b"]" * 400 + b"}"),
    "deeper than JSON": ("application/json", b"[" * 20_000 + b"]" * 20_000),
    "no UTF-8": ("application/json", b'{"message": "\xff\xfe\xfa"}'),
    "half a surrogate pair": ("application/json", b'{"message": "\\ud83d"}'),
    "an unknown charset": ("application/json; charset=zebra", b'{"message": "No."}'),
    "a transforming charset": ("application/json; charset=base64", b'{"message": "No."}'),
    "control characters": ("text/plain", b"\x1b[31mNo\x07\x1b]52;c;AAAA\x07"),
    "2 MB": ("text/plain", b"No. " * 500_000),
}
CLASSES: dict[int, set[str]] = {
    400: {"InvalidRequestError"},
    401: {"AuthenticationError"},
    402: {"InsufficientBalanceError"},
    403: {"PermissionDeniedError"},
    404: {"NotFoundError"},
    413: {"InvalidRequestError"},
    422: {"InvalidRequestError"},
}


def _status(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Respond:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return answering(lambda _: Reply(body, f"{status} Odd", named, content_type))


for _form, (_type, _body) in BODIES.items():
    for _code in (400, 401, 402, 403, 404, 422):
        add(f"{_code}: {_form}", _status(_code, _body, _type), all=CLASSES[_code], repeated=False)
    add(f"500: {_form}", _status(500, _body, _type), all=SERVER)
for _code in (409, 410, 418, 451, 499):
    add(f"{_code}", _status(_code, b"{}"), all={"InvalidRequestError"}, repeated=False)
for _code in (501, 505, 520, 529, 599):
    add(f"{_code}", _status(_code, b"{}"), all=SERVER, repeated=False)
for _code in (502, 503, 504):
    add(f"{_code}", _status(_code, b"{}"), all=SERVER)
add("408", _status(408, b"{}"), all=TIMEOUT)
for _code in (300, 301, 302, 303, 307, 308):
    add(
        f"{_code} to another host",
        _status(_code, b"{}", location="http://127.0.0.1:1/stolen"),
        all=SERVER | CONNECTION | {"InvalidRequestError"},
        repeated=False,
    )
for _code in (204, 205, 304, 600, 999):
    add(f"{_code}", raw(lambda _, code=_code: _head([f"HTTP/1.1 {code} Odd", "content-length: 0"])),
        all=SERVER | CONNECTION | INTERRUPTED | {"InvalidRequestError"}, repeated=_code < 300)  # fmt: skip
for _name, _value in {
    "0": "0", "0.1": "0.1", "negative": "-3", "empty": "", "a word": "soon", "NaN": "nan", "infinite": "1e400",
    "a past date": "Thu, 01 Jan 1970 00:00:00 GMT", "half a date": "Thu, 01 Jan", "year 0": "Thu, 01 Jan 0000 00:00:00 GMT",
    "blanks": "   ", "not ASCII": "½",
}.items():  # fmt: skip
    add(f"429, Retry-After: {_name}", _status(429, b"{}", retry_after=_value), all={"RateLimitError"})
add("429, Retry-After: a day", _status(429, b"{}", retry_after="86400"), all={"RateLimitError"}, repeated=False)


# ---- time


async def _drip_headers(exchange: Exchange) -> None:
    for at, byte in enumerate(good(exchange.body).head() * 20):
        await exchange.send(bytes([byte]))
        await exchange.pause(0.05 if at % 4 == 0 else 0)


async def _drip_body(exchange: Exchange) -> None:
    reply = good(exchange.body, "length")
    await exchange.send(reply.head())
    for byte in reply.body:
        await exchange.send(bytes([byte]))
        await exchange.pause(0.3)


async def _drip_error(exchange: Exchange) -> None:
    await exchange.send(Reply(b"x" * 500, "500 Odd").head())
    for _ in range(500):
        await exchange.send(b"x")
        await exchange.pause(0.2)


add("headers byte by byte", _drip_headers, all=TIMEOUT)
add("body byte by byte", _drip_body, chat=TIMEOUT, embed=TIMEOUT, stream=STALLED | TIMEOUT)
add("an error byte by byte", _drip_error, all=TIMEOUT | SERVER)


def _repeating(first: int, piece: Callable[[dict[str, Any]], bytes], pause: float = 0.15) -> Respond:
    async def respond(exchange: Exchange) -> None:
        reply = sse([], "close")
        await exchange.send(reply.head() + b"".join(map(event, chunks(exchange.body)[:first])))
        for _ in range(400):
            await exchange.send(piece(exchange.body))
            await exchange.pause(pause)

    return respond


for _name, _piece in {
    "comments": lambda _: b": alive\n\n",
    "empty events": lambda _: b"data:\n\n",
    "pings": lambda _: b"event: ping\n\n",
    "no choices": lambda body: event(chunk(body, {}) | {"choices": []}),
    "only a role": lambda body: event(chunk(body, {"role": "assistant", "content": ""})),
    "nothing new": lambda body: event(chunk(body, {})),
}.items():
    add(f"for ever, from the start: {_name}", _repeating(0, _piece), stream=STALLED | TIMEOUT)
    add(f"for ever, in the middle: {_name}", _repeating(2, _piece), stream=STALLED, late=True)


# ---- what a JSON answer holds


def _altered(make: Callable[[dict[str, Any]], dict[str, Any]], alter: Callable[[Any], Any]) -> Respond:
    def reply(body: dict[str, Any]) -> Reply:
        value = make(body)
        altered = alter(value)
        return Reply(
            altered if isinstance(altered, bytes) else json.dumps(value if altered is None else altered).encode()
        )

    return answering(reply)


NOT_AN_ANSWER: dict[str, bytes] = {
    "nothing": b"", "null": b"null", "a list": b"[]", "a text": b'"hello"', "a number": b"7", "garbage": b"{nope",
    "an error": b'{"error": {"message": "No."}}', "an empty object": b"{}", "HTML": b"<html></html>",
    "no UTF-8": b'{"choices": "\xff"}', "deeper than JSON": b"[" * 50_000, "trailing garbage": b'{"a": 1} x',
}  # fmt: skip
for _name, _bytes in NOT_AN_ANSWER.items():
    add(f"200: {_name}", answering(lambda _, content=_bytes: Reply(content)), chat=SERVER, embed=SERVER,
        stream=INTERRUPTED | SERVER)  # fmt: skip

USAGES: dict[str, Any] = {
    "absent": ..., "null": None, "a text": "much", "a list": [1], "texts": {"prompt_tokens": "11", "completion_tokens": "7"},
    "floats": {"prompt_tokens": 11.0, "completion_tokens": 7.5}, "negative": {"prompt_tokens": -1, "completion_tokens": 7},
    "nulls": {"prompt_tokens": None, "completion_tokens": None}, "huge": {"prompt_tokens": 10**30, "completion_tokens": 1},
    "odd details": {"prompt_tokens": 11, "completion_tokens": 7, "prompt_tokens_details": "x", "num_cached_tokens": []},
    "no total": {"prompt_tokens": 11, "completion_tokens": 7}, "true": {"prompt_tokens": True, "completion_tokens": False},
}  # fmt: skip


def _with_usage(usage: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value.pop("usage", None) and None if usage is ... else value.update(usage=usage)


for _name, _usage in USAGES.items():
    add(f"usage: {_name}", _altered(chat, _with_usage(_usage)), chat={OK})
    add(f"usage of embeddings: {_name}", _altered(embeddings, _with_usage(_usage)), embed={OK})


def _message(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["choices"][0]["message"].update(fields)


def _choice(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["choices"][0].update(fields)


PARSING = SERVER | {"OutputParserException", "ValueError"}
for _name, _alter, _outcomes in (
    ("choices: null", lambda value: value.update(choices=None), SERVER),
    ("choices: none", lambda value: value.update(choices=[]), SERVER),
    ("choices: an object", lambda value: value.update(choices={"0": 1}), SERVER),
    ("choices: of null", lambda value: value.update(choices=[None]), SERVER),
    ("choices: empty objects", lambda value: value.update(choices=[{}]), SERVER),
    ("message: null", _choice(message=None), SERVER),
    ("message: null and nothing else", _choice(message=None, finish_reason=None), SERVER),
    ("message: a list", _choice(message=[1]), SERVER),
    ("content: a number", _message(content=5), SERVER),
    ("content: of numbers", _message(content=[5]), SERVER),
    ("content: parts without type", _message(content=[{"text": "x"}, {"type": None}]), {OK, *PARSING}),
    ("content: unknown parts", _message(content=[{"type": "hologram", "x": 1}]), {OK, *PARSING}),
    ("content: parts without url", _message(content=[{"type": "image_url"}, {"type": "text"}]), {OK, *PARSING}),
    ("content: nested thinking", _message(content=[{"type": "thinking", "thinking": {"a": [{}]}}]), {OK, *PARSING}),
    ("finish reason: null", _choice(finish_reason=None), {OK, *SERVER}),
    ("finish reason: a number", _choice(finish_reason=3), {OK, *SERVER}),
    ("finish reason: a list", _choice(finish_reason=["stop"]), {OK, *SERVER}),
    ("finish reason: unknown", _choice(finish_reason="boredom"), {OK}),
    ("finish reason: error", _choice(finish_reason="error"), SERVER),
    ("index: a text", _choice(index="0"), {OK, *SERVER}),
    ("index: huge", _choice(index=10**20), {OK, *SERVER}),
    ("id and model: numbers", lambda value: value.update(id=5, model=6), {OK, *SERVER}),
    ("model: a list", lambda value: value.update(model=["m"]), {OK, *SERVER}),
    ("created: a text", lambda value: value.update(created="now"), {OK}),
    ("tool calls: an object", _message(tool_calls={"a": 1}), SERVER),
    ("tool calls: of numbers", _message(tool_calls=[1]), SERVER),
    ("tool calls: without function", _message(tool_calls=[{"id": "a"}]), {OK, *PARSING}),
    ("tool calls: unhashable ids", _message(tool_calls=[{"id": [1], "function": {"name": "f", "arguments": "{}"}}]),
     {OK, *PARSING}),
    ("tool calls: null", _message(tool_calls=None), {OK, *PARSING}),
):  # fmt: skip
    add(_name, _altered(chat, _alter), chat=_outcomes)


def _item(**fields: Any) -> Callable[[dict[str, Any]], None]:
    return lambda value: value["data"][-1].update(fields)


def _every(**fields: Any) -> Callable[[dict[str, Any]], None]:
    def alter(value: dict[str, Any]) -> None:
        for item in value["data"]:
            item.update(fields)

    return alter


for _name, _alter, _outcomes in (
    ("vectors: one too few", lambda value: value["data"].pop() and None, SERVER),
    ("vectors: one too many", lambda value: value["data"].append(dict(value["data"][0])), SERVER),
    ("vectors: shuffled", lambda value: value["data"].reverse(), {OK}),
    ("vectors: the same index twice", _item(index=0), SERVER | {OK}),
    ("vectors: index negative", _item(index=-1), SERVER),
    ("vectors: index a text", _item(index="1"), SERVER),
    ("vectors: index true", _item(index=True), SERVER),
    ("vectors: index far off", _item(index=10**9), SERVER),
    ("vectors: null", _item(embedding=None), SERVER),
    ("vectors: empty", _item(embedding=[]), SERVER),
    ("vectors: a number", _item(embedding=1.0), SERVER),
    ("vectors: of texts", _item(embedding=["1"] * 8), SERVER),
    ("vectors: of nulls", _item(embedding=[None] * 8), SERVER),
    ("vectors: of lists", _item(embedding=[[1.0]] * 8), SERVER),
    ("vectors: of huge numbers", _item(embedding=[10**400] * 8), SERVER),
    ("vectors: one too short", _item(embedding=[0.0] * 7), SERVER),
    ("vectors: all of another length", _every(embedding=[0.0] * 9), SERVER),
    ("vectors: no base64", _every(embedding="?!?!"), SERVER),
    ("vectors: base64 of 7 bytes", _every(embedding="AAAAAAAAAA=="), SERVER),
    ("vectors: NaN", lambda value: json.dumps(value).encode().replace(b'"index": 0', b'"index": 0, "embedding": [NaN]'), SERVER),
    ("data: null", lambda value: value.update(data=None), SERVER),
    ("data: an object", lambda value: value.update(data={"0": 1}), SERVER),
    ("data: of nulls", lambda value: value.update(data=[None] * len(value["data"])), SERVER),
):  # fmt: skip
    add(_name, _altered(embeddings, _alter), embed=_outcomes)


async def _no_base64(exchange: Exchange) -> None:
    if exchange.body.get("encoding_format") == "base64":
        await exchange.reply(Reply(b'{"object": "error", "message": "encoding_format"}', "400 Bad Request"))
    else:
        await exchange.reply(good(exchange.body))


async def _small_batches(exchange: Exchange) -> None:
    if len(exchange.body["input"]) > 300:
        text = b'{"object": "error", "message": "Too many inputs in request, split into more batches.", "code": "3210"}'
        await exchange.reply(Reply(text, "400 Bad Request"))
    else:
        await exchange.reply(good(exchange.body))


add("base64 refused", _no_base64, embed={OK})
add("batches of 300 at most", _small_batches, embed={OK})


# ---- what a stream holds


def _stream(make: Callable[[dict[str, Any]], list[bytes]], framing: str = "chunked") -> Respond:
    return answering(lambda body: sse(make(body), framing))


def _events(body: dict[str, Any]) -> list[bytes]:
    return [*map(event, chunks(body)), DONE]


def _inserted(place: int, *extra: Any) -> Callable[[dict[str, Any]], list[bytes]]:
    def make(body: dict[str, Any]) -> list[bytes]:
        found = _events(body)
        return [*found[:place], *(event(piece) for piece in extra), *found[place:]]

    return make


def _joined(separator: bytes) -> Callable[[dict[str, Any]], list[bytes]]:
    return lambda body: [piece.replace(b"\n\n", separator) for piece in _events(body)]


def _byte_by_byte(body: dict[str, Any]) -> Reply:
    return sse(_events(body))


async def _split(exchange: Exchange) -> None:
    reply = sse(_events(exchange.body))
    await exchange.send(reply.head())
    for byte in reply.body:
        await exchange.send(b"1\r\n" + bytes([byte]) + b"\r\n")
    await exchange.send(b"0\r\n\r\n")


add("stream: a chunk a byte", _split, stream={OK}, seconds=3)
for _name, _separator in {"CRLF": b"\r\n\r\n", "CR": b"\r\r", "mixed": b"\r\n\n"}.items():
    add(f"stream: lines end in {_name}", _stream(_joined(_separator)), stream={OK})
add("stream: a byte order mark", _stream(lambda body: [b"\xef\xbb\xbf", *_events(body)]), stream={OK})
add("stream: comments", _stream(lambda body: [b": hi\n\n" + piece for piece in _events(body)]), stream={OK})
add("stream: ids and names", _stream(lambda body: [b"id: 1\nevent: message\n" + p for p in _events(body)]), stream={OK})
add("stream: [DONE] twice", _stream(lambda body: [*_events(body), DONE]), stream={OK})
add("stream: text after [DONE]", _stream(lambda body: [*_events(body), event({"choices": "x"})]), stream={OK})
add("stream: no [DONE]", _stream(lambda body: _events(body)[:-1]), stream={OK})
add("stream: no last blank line", _stream(lambda body: [*_events(body)[:-1], DONE[:-1]]), stream={OK})
add("stream: content type of JSON", answering(lambda body: Reply(sse(_events(body)).body)), stream={OK, *INTERRUPTED})
add("stream: only [DONE]", _stream(lambda _: [DONE]), stream=INTERRUPTED)
add("stream: only a role", _stream(lambda body: [_events(body)[0], DONE]), stream=INTERRUPTED)
add("stream: no event", _stream(lambda _: []), stream=INTERRUPTED)
add("stream: [DONE] without a finish", _stream(lambda body: [*map(event, chunks(body)[:-1]), DONE]),
    stream={OK, *INTERRUPTED}, late=True)  # fmt: skip
add("stream: a whole completion", answering(lambda body: Reply(json.dumps(chat(body)).encode())), stream={OK})
for _name, _extra, _outcomes in (
    ("no choices", {"choices": []}, {OK}),
    ("choices null", {"choices": None}, {OK, *INTERRUPTED}),
    ("a choice null", {"choices": [None]}, INTERRUPTED),
    ("choices an object", {"choices": {"a": 1}}, INTERRUPTED),
    ("a delta null", {"choices": [{"index": 0, "delta": None}]}, {OK}),
    ("a delta list", {"choices": [{"index": 0, "delta": [1]}]}, INTERRUPTED),
    ("content null", {"choices": [{"index": 0, "delta": {"content": None}}]}, {OK}),
    ("content a number", {"choices": [{"index": 0, "delta": {"content": 5}}]}, INTERRUPTED),
    ("an index of text", {"choices": [{"index": "0", "delta": {"content": ""}}]}, {OK, *INTERRUPTED}),
    ("an odd usage", {"choices": [], "usage": "x"}, {OK, *INTERRUPTED}),
    ("a finish reason of 5", {"choices": [{"index": 0, "delta": {}, "finish_reason": 5}]}, {OK, *INTERRUPTED}),
    ("an error object", {"error": {"message": "No."}}, INTERRUPTED),
    ("Mistral's error", {"object": "error", "message": "No.", "code": "1"}, INTERRUPTED),
    ("a finish reason error", {"choices": [{"index": 0, "delta": {}, "finish_reason": "error"}]}, INTERRUPTED),
    ("a list", [1], INTERRUPTED),
    ("null", None, INTERRUPTED),
    ("garbage", b"{nope", INTERRUPTED),
    ("two objects", b"{} {}", INTERRUPTED),
    ("depth", b'{"choices": ' + b"[" * 30_000, INTERRUPTED),
    ("no UTF-8", b'{"choices": [], "x": "\xff"}', {OK, *INTERRUPTED}),
):  # fmt: skip
    for _place, _where in ((0, "first"), (3, "in the middle")):
        add(f"stream, {_where}: {_name}", _stream(_inserted(_place, _extra)), stream=_outcomes, late=_place > 0)


def _fragments(pieces: list[dict[str, Any]]) -> Callable[[dict[str, Any]], list[bytes]]:
    def make(body: dict[str, Any]) -> list[bytes]:
        found = _events(body)
        if not body.get("tools"):
            return found
        deltas = [event(chunk(body, {"tool_calls": [piece]})) for piece in pieces]
        return [found[0], *deltas, *found[2:]]

    return make


TOOL = SERVER | INTERRUPTED | {"ValueError", OK}
for _name, _pieces in {
    "arguments in pieces": [
        {"index": 0, "id": "abcDEF123", "function": {"name": "weather", "arguments": '{"ci'}},
        {"index": 0, "function": {"arguments": 'ty": "split"}'}},
    ],
    "a name in pieces": [
        {"index": 0, "id": "abcDEF123", "function": {"name": "wea", "arguments": ""}},
        {"index": 0, "function": {"name": "ther", "arguments": '{"city": "split"}'}},
    ],
    "a function null": [{"index": 0, "id": "abcDEF123", "function": None}],
    "a name of 5": [{"index": 0, "id": "abcDEF123", "function": {"name": 5, "arguments": "{}"}}],
    "an unhashable id": [{"index": 0, "id": {}, "function": {"name": "weather", "arguments": '{"city": "split"}'}}],
    "arguments cut": [{"index": 0, "id": "abcDEF123", "function": {"name": "weather", "arguments": '{"city": "sp'}}],
    "a negative index": [{"index": -1, "id": "abcDEF123", "function": {"name": "weather", "arguments": '{"city": "split"}'}}],
}.items():  # fmt: skip
    add(f"tool stream: {_name}", _stream(_fragments(_pieces)), stream=TOOL, late=True)


# ---- the credential, repeated wherever an upstream can put it


def _echoing(status: int) -> Respond:
    async def respond(exchange: Exchange) -> None:
        key = exchange.credential
        text = json.dumps({"error": {"message": f"bad key {key}", key: key}}).encode()
        headers = [("x-lava-request-id", key), ("x-debug", f"Bearer {key}"), ("mistral-correlation-id", key)]
        await exchange.reply(Reply(text, f"{status} {key}", headers))

    return respond


for _code in (400, 401, 402, 403, 404, 422, 429, 500):
    add(f"{_code}, the key in every place", _echoing(_code), all=ANY, repeated=_code >= 429)


async def _echo_in_stream(exchange: Exchange) -> None:
    key = exchange.credential
    events = [*map(event, chunks(exchange.body)[:3]), event({"error": {"message": key, "code": key}})]
    await exchange.reply(sse(events))


add("stream: an error with the key", _echo_in_stream, stream=INTERRUPTED, late=True)
assert kind_of({"input": []}) == "embed"
