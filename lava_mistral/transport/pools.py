"""Connection pools shared by every client: one a process for sync code, one an event loop for async code.

The pools have no limit that makes a request wait for a connection. Proxies and certificate authorities from the
environment are honoured. A forked child starts with none; the pools of an event loop are closed when it shuts down
its async generators, as `asyncio.run` does, so that no connection outlives its loop.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import ssl
import urllib.request
from collections.abc import AsyncGenerator
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import httpx

from lava_mistral._fork import new_lock
from lava_mistral.billing.credentials import is_loopback

if TYPE_CHECKING:
    from lava_mistral.transport.aiohttp_transport import AiohttpTransport

KEEPALIVE = 30.0
"""Seconds that an idle connection is kept."""
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE)

_lock = new_lock()
_sync_pools: dict[str | None, httpx.HTTPTransport] = {}
_Pools: TypeAlias = "dict[str | None, tuple[AiohttpTransport, AsyncGenerator[None, None]]]"
_async_pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pools] = WeakKeyDictionary()
# A forked child must not close what its parent still uses; keeping the objects alive keeps their finalizers quiet.
_inherited: list[object] = []


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    # 60 ms to build; reads SSL_CERT_FILE and SSL_CERT_DIR.
    return httpx.create_ssl_context()


_PROXY_VARIABLES = tuple(
    spelled for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy") for spelled in (name, name.upper())
)


def proxy_for(url: httpx.URL) -> str | None:
    """The proxy that the environment names for an address, by the rules of the standard library."""
    if is_loopback(url.host):
        return None
    return _proxy(url.scheme, url.host, tuple(map(os.environ.get, _PROXY_VARIABLES)))


@lru_cache(maxsize=64)
def _proxy(scheme: str, host: str, _environment: tuple[str | None, ...]) -> str | None:
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def sync_pool(url: httpx.URL) -> httpx.HTTPTransport:
    """The process's pool for this address."""
    proxy = proxy_for(url)
    pool = _sync_pools.get(proxy)
    if pool is None:
        with _lock:
            pool = _sync_pools.get(proxy)
            if pool is None:
                pool = httpx.HTTPTransport(verify=_ssl_context(), limits=LIMITS, proxy=proxy)
                _sync_pools[proxy] = pool
    return pool


async def async_pool(url: httpx.URL) -> AiohttpTransport:
    """The running event loop's pool for this address."""
    # A fifth of a second to load, which sync code has no use for.
    from lava_mistral.transport.aiohttp_transport import AiohttpTransport

    loop = asyncio.get_running_loop()
    proxy = proxy_for(url)
    with _lock:
        pools = _async_pools.get(loop)
        if pools is None:
            for other in [known for known in _async_pools if known.is_closed()]:
                del _async_pools[other]
            pools = _async_pools[loop] = {}
        held = pools.get(proxy)
        if held is not None:
            return held[0]
        pool = AiohttpTransport(verify=_ssl_context(), proxy=proxy, keepalive=KEEPALIVE)
        keeper = _close_with_loop(pool, pools, proxy)
        pools[proxy] = (pool, keeper)
    # Its first step makes the loop know the generator, and so finish it on shutdown.
    await keeper.__anext__()
    return pool


async def _close_with_loop(pool: AiohttpTransport, pools: _Pools, proxy: str | None) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        # The generator holds its loop, so an entry left here would keep the loop alive.
        pools.pop(proxy, None)
        await pool.aclose()


def close_sync_pools() -> None:
    """Close the process's pools for sync code; the next request opens a new one."""
    with _lock:
        pools = list(_sync_pools.values())
        _sync_pools.clear()
    for pool in pools:
        pool.close()


async def close_async_pools() -> None:
    """Close the running event loop's pools; the next request opens a new one."""
    with _lock:
        pools = _async_pools.pop(asyncio.get_running_loop(), {})
    for _, keeper in list(pools.values()):
        await keeper.aclose()


def _after_fork() -> None:
    _inherited.append((dict(_sync_pools), [dict(pools) for pools in _async_pools.values()]))
    _sync_pools.clear()
    _async_pools.clear()


atexit.register(close_sync_pools)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
