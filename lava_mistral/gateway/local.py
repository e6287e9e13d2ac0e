"""A gateway of one's own, in a thread of this process."""

import asyncio
from typing import Any, Literal, Self

from lava_mistral.gateway.lava.app import Lava
from lava_mistral.gateway.options import Options
from lava_mistral.gateway.request_log import RequestRecord
from lava_mistral.gateway.server import ServerThread


class LocalGateway:
    """A Lava gateway on this machine, with a simulated Mistral behind it.

        with LocalGateway() as gateway:
            client = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)

    It serves HTTP from a thread of its own, at `host` and `port` (0 takes a free one), and is strict where Lava and
    Mistral are strict; what it answers is made from the text it is given, not by a model. `secret_key` is a key that it
    accepts, `wallet` holds the balances. Further arguments are the fields of `Options`.

    Raises:
        ValueError: an option is unknown, of the wrong type, or makes no sense.
        OSError: the port is taken (when it starts).
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, **options: Any) -> None:
        self.options = Options(**options)
        self.secret_key = self.options.secret_key
        self._address = (host, port)
        self._server: ServerThread | None = None
        self._lava = Lava(self.options)
        self.wallet = self._lava.accounts.wallet

    def __repr__(self) -> str:
        return f"LocalGateway({self.base_url if self._server else 'stopped'})"

    def start(self) -> Self:
        """Begin to serve; without effect when it does already."""
        if self._server is None:
            self._server = ServerThread(self._lava, self._address, self.options.read_timeout)
        return self

    def stop(self) -> None:
        """Break off what is under way and stop serving; without effect when it has stopped already."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def wait(self) -> None:
        """Serve until interrupted."""
        if self._server is not None:
            self._server.thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def port(self) -> int:
        """The port that it listens on; a `RuntimeError` while it is not running."""
        if self._server is None:
            raise RuntimeError("the gateway is not running: write `with LocalGateway() as gateway:`, or call start()")
        return self._server.port

    @property
    def base_url(self) -> str:
        """What to give as `base_url=` or in `LAVA_BASE_URL`: `"http://127.0.0.1:PORT/v1"`."""
        host, _ = self._address
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/v1"

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that lead code to it which reads its settings there."""
        return {"LAVA_SECRET_KEY": self.secret_key, "LAVA_BASE_URL": self.base_url}

    @property
    def requests(self) -> list[RequestRecord]:
        """What arrived at `/v1/forward`, in order, at most the newest `keep_requests`."""
        return self._lava.log.all()

    def queue(self, *responses: Any, path: Literal["chat", "embeddings", "models", "other"] | None = None) -> None:
        """Decide the next answers of the provider, in this order, each for one valid request (of the kind `path`).

        Each is a dict (a JSON body), a status, a tuple `(status, body)`, bytes or text (a body: an event stream, JSON,
        HTML or plain text), a list of bytes, text, pauses in seconds, `Cut` and `Stall` (a body played so), or a fault
        such as `Status(429, retry_after=1)`, `Slow(2.0)`, `Reset()`, `Interrupted()` or `WrongVectors("short")`;
        anything else is a `ValueError`.
        """
        self._lava.provider.queue(responses, path)

    @property
    def queued(self) -> int:
        """How many answers given to `queue` have not been asked for yet."""
        return len(self._lava.provider.queued)

    def reset(self) -> None:
        """Forget records, queued answers and maxima; balances stay."""
        self._lava.log.clear()
        self._lava.provider.queued.clear()
        self._lava.traffic.forget()

    @property
    def in_flight(self) -> int:
        """How many requests are being answered now."""
        return self._lava.traffic.in_flight

    @property
    def max_in_flight(self) -> int:
        """The most requests that were being answered at one time."""
        return self._lava.traffic.max_in_flight

    @property
    def connections(self) -> int:
        """How many connections were made in all."""
        return self._lava.traffic.connections

    @property
    def max_connections(self) -> int:
        """The most connections that were open at one time."""
        return self._lava.traffic.max_connections
