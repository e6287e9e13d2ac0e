"""A raw asyncio HTTP server in a process of its own: the cheapest thing that answers embeddings requests.

    python ingest_server.py LATENCY PER_TOKEN [CORPUS]

It prints its port. An answer takes `LATENCY` seconds and `PER_TOKEN` seconds for each token of its inputs, by the
counts of the corpus (`ingest_corpus`) or, for a text that is not in it, by four characters a token. As Mistral does, it
refuses more than 16,384 tokens or 512 inputs. A vector depends on its text, and comes in base64 where that is asked
for, in decimal numbers otherwise. `GET` of anything gives and resets the number of requests, of those that were
refused, and the most that were in flight at once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
import sys
import zlib
from functools import lru_cache
from pathlib import Path

DIMENSION = 1024
ROWS = 251
MAX_TOKENS, MAX_INPUTS = 16_384, 512
HEAD = b"\r\ncontent-type: application/json\r\nx-lava-request-id: req_0\r\ncontent-length: "


def place_of(text: str) -> int:
    """Which of the vectors a text has."""
    return zlib.crc32(text.encode()) % ROWS


@lru_cache(maxsize=ROWS)
def numbers(place: int) -> tuple[float, ...]:
    """A vector: sixteen-bit numbers, as Mistral's are."""
    draw = random.Random(place)
    return struct.unpack("<1024e", struct.pack("<1024e", *(draw.gauss(0.0, 1 / 32) for _ in range(DIMENSION))))


@lru_cache(maxsize=ROWS)
def in_decimal(place: int) -> bytes:
    return json.dumps(numbers(place)).encode()


@lru_cache(maxsize=ROWS)
def in_base64(place: int) -> bytes:
    return b'"' + base64.b64encode(struct.pack("<1024f", *numbers(place))) + b'"'


def refusal(message: str) -> bytes:
    return json.dumps({"object": "error", "message": message, "type": "invalid_request", "code": "3210"}).encode()


def read(corpus: str) -> dict[str, int]:
    """The tokens of each text."""
    jobs = json.loads(Path(corpus).read_bytes()).values()
    return {text: count for texts, counts in jobs for text, count in zip(texts, counts, strict=True)}


async def main(latency: float, per_token: float, counts: dict[str, int]) -> None:
    requests = refused = in_flight = most = 0
    for place in range(ROWS):
        in_decimal(place)
        in_base64(place)

    async def answer(body: bytes) -> tuple[bytes, bytes]:
        nonlocal requests, refused, in_flight, most
        requests += 1
        in_flight += 1
        most = max(most, in_flight)
        try:
            asked = json.loads(body)
            texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
            tokens = sum(counts.get(text) or len(text) // 4 for text in texts)
            if tokens > MAX_TOKENS or len(texts) > MAX_INPUTS:
                refused += 1
                return b"400 Bad Request", refusal("Too many tokens overall, split into more batches.")
            write = in_base64 if asked.get("encoding_format") == "base64" else in_decimal
            data = b",".join(
                b'{"object":"embedding","index":%d,"embedding":%b}' % (place, write(place_of(text)))
                for place, text in enumerate(texts)
            )
            usage = b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":0}' % (tokens, tokens)
            whole = b'{"id":"e","object":"list","model":"mistral-embed","data":[' + data + b'],"usage":' + usage + b"}"
            await asyncio.sleep(latency + per_token * tokens)
            return b"200 OK", whole
        finally:
            in_flight -= 1

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests, refused, most
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                status = b"200 OK"
                if request.startswith(b"GET"):
                    whole = json.dumps({"requests": requests, "refused": refused, "most_in_flight": most}).encode()
                    requests = refused = most = 0
                else:
                    length = int(request.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    status, whole = await answer(await reader.readexactly(length))
                writer.write(b"HTTP/1.1 " + status + HEAD + str(len(whole)).encode() + b"\r\n\r\n")
                writer.write(whole)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]), float(sys.argv[2]), read(sys.argv[3]) if len(sys.argv) > 3 else {}))
