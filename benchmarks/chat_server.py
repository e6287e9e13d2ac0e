"""A raw asyncio HTTP server in a process of its own: the cheapest thing that answers chat requests.

It prints its port. A request with `"stream":true` gets as many chunks as its `max_tokens` says (500 without), all in
one write; in one write each where `top_p` is 0.5, and 10 ms apart where it is 0.25. A model whose name begins with
"magistral" thinks aloud. Any other request gets one answer as JSON.
"""

from __future__ import annotations

import asyncio
import json
from functools import lru_cache

USAGE = {"prompt_tokens": 20, "completion_tokens": 500, "total_tokens": 520}
BASE = {"id": "cmpl-0", "created": 1700000000, "model": "mistral-small-2603"}
CHUNKS = 500
PAUSE = 0.01


def _answer() -> bytes:
    message = {"role": "assistant", "content": "word " * 50}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({**BASE, "object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-lava-request-id: req_0\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _event(content: object, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    body = {**BASE, "object": "chat.completion.chunk", "choices": [choice], "p": "abcdefghijkl"}
    data = f"data: {json.dumps({**body, 'usage': USAGE} if finish else body)}\n\n".encode()
    return data + b"data: [DONE]\n\n" if finish else data


def _framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@lru_cache(maxsize=4)
def _events(chunks: int, thinking: bool) -> list[bytes]:
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": " word"}]}]
    return [_event(thought if thinking else " word")] * (chunks - 1) + [_event("", "stop")]


@lru_cache(maxsize=4)
def _whole(chunks: int, thinking: bool) -> bytes:
    return STREAM + _framed(b"".join(_events(chunks, thinking))) + b"0\r\n\r\n"


ANSWER = _answer()
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-lava-request-id: req_0\r\n"
STREAM += b"transfer-encoding: chunked\r\n\r\n"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            if b'"stream":true' not in body.replace(b" ", b""):
                writer.write(ANSWER)
                await writer.drain()
                continue
            asked = json.loads(body)
            wanted = asked.get("max_tokens") or CHUNKS, asked["model"].startswith("magistral")
            pace = asked.get("top_p")
            if pace in (0.5, 0.25):
                writer.write(STREAM)
                for event in _events(*wanted):
                    writer.write(_framed(event))
                    await asyncio.sleep(PAUSE if pace == 0.25 else 0)
                writer.write(b"0\r\n\r\n")
            else:
                writer.write(_whole(*wanted))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024, limit=2**26)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
