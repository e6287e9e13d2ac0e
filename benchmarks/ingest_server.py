"""A raw asyncio HTTP server in a process of its own: the cheapest thing that answers embeddings requests.

It prints its port. An answer takes `LATENCY` seconds and `PER_TOKEN` seconds for each token, a token being
`CHARACTERS` characters of the inputs. It comes in base64 where that is asked for, in decimal numbers otherwise. `GET`
of anything gives and resets the number of requests and the most that were in flight at once.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import struct
import sys

DIMENSION = 1024
_draw = random.Random(0)
# Sixteen-bit numbers printed in decimal, as Mistral's are.
NUMBERS = struct.unpack("<1024e", struct.pack("<1024e", *(_draw.gauss(0.0, 1 / 32) for _ in range(DIMENSION))))
FLOATS = json.dumps(NUMBERS).encode()
BASE64 = b'"' + base64.b64encode(struct.pack("<1024f", *NUMBERS)) + b'"'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-lava-request-id: req_0\r\ncontent-length: "


async def main(latency: float, per_token: float, characters: float) -> None:
    requests = in_flight = most = 0

    async def answer(body: bytes) -> bytes:
        nonlocal requests, in_flight, most
        requests += 1
        in_flight += 1
        most = max(most, in_flight)
        try:
            asked = json.loads(body)
            texts = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
            tokens = round(sum(map(len, texts)) / characters)
            vector = BASE64 if asked.get("encoding_format") == "base64" else FLOATS
            items = (b'{"object":"embedding","index":%d,"embedding":' % place for place in range(len(texts)))
            usage = b'{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":0}' % (tokens, tokens)
            data = b",".join(item + vector + b"}" for item in items)
            whole = b'{"id":"e","object":"list","model":"mistral-embed","data":[' + data + b'],"usage":' + usage + b"}"
            await asyncio.sleep(latency + per_token * tokens)
            return whole
        finally:
            in_flight -= 1

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests, most
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                if request.startswith(b"GET"):
                    whole = json.dumps({"requests": requests, "most_in_flight": most}).encode()
                    requests = most = 0
                else:
                    length = int(request.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                    whole = await answer(await reader.readexactly(length))
                writer.write(HEAD + str(len(whole)).encode() + b"\r\n\r\n")
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
    asyncio.run(main(*map(float, sys.argv[1:4])))
