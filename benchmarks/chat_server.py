"""A raw asyncio HTTP server in a process of its own: the cheapest thing that answers chat requests.

It prints its port and answers whatever is posted. A body with `"stream":true` gets `CHUNKS` chunks, `PAUSE` seconds
apart (all in one write where it is zero), any other one JSON answer.
"""

from __future__ import annotations

import asyncio
import json
import sys

USAGE = {"prompt_tokens": 20, "completion_tokens": 500, "total_tokens": 520}
BASE = {"id": "cmpl-0", "created": 1700000000, "model": "mistral-small-2603"}
ANSWER = json.dumps(
    {
        **BASE,
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "word " * 50}, "finish_reason": "stop"},
        ],
        "usage": USAGE,
    }
).encode()


def chunk(content: str, finish: str | None = None) -> bytes:
    body = {
        **BASE,
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
    }
    if finish:
        body["usage"] = USAGE
    return f"data: {json.dumps({**body, 'p': 'abcdefghijkl'})}\n\n".encode()


def framed(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def main(chunks: int, pause: float) -> None:
    words = [chunk(" word") for _ in range(chunks - 1)]
    last = chunk("", "stop") + b"data: [DONE]\n\n"
    whole = framed(b"".join(words) + last) + b"0\r\n\r\n"
    plain = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-lava-request-id: req_0\r\n"
    plain += f"content-length: {len(ANSWER)}\r\n\r\n".encode() + ANSWER
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-lava-request-id: req_0\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                length = int(request.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                if b'"stream":true' not in body.replace(b" ", b""):
                    writer.write(plain)
                elif not pause:
                    writer.write(head + whole)
                else:
                    writer.write(head)
                    for word in words:
                        writer.write(framed(word))
                        await asyncio.sleep(pause)
                    writer.write(framed(last) + b"0\r\n\r\n")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
