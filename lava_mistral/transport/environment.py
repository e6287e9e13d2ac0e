"""Read from the environment which certificates to trust and which proxy to use."""

from __future__ import annotations

import base64
import os
import ssl
import urllib.request
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from lava_mistral.billing.credentials import is_loopback
from lava_mistral.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy of HTTP, and what proves to it who we are."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


@lru_cache(maxsize=1)
def ssl_context() -> ssl.SSLContext:
    """Return the certificates to trust: those of SSL_CERT_FILE or SSL_CERT_DIR, else certifi's."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and not folder:
        import certifi

        file = certifi.where()
    try:
        # Reading them takes 20 to 60 ms.
        context = ssl.create_default_context(cafile=file or None, capath=folder or None)
    except OSError as error:
        raise ConfigurationError(
            f"The certificates in SSL_CERT_FILE or SSL_CERT_DIR ({file or folder}) can't be read: {error}."
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def proxy_for(scheme: str, host: str) -> Proxy | None:
    """Return the proxy that the environment names for a host; raises where only a client of one's own can use it."""
    proxy = environment_proxy(scheme, host)
    if proxy is None:
        return None
    if not proxy.startswith("http://"):
        raise ConfigurationError(
            f"The environment names a proxy of {proxy.partition('://')[0]}:// for {host}; only http:// works "
            "without a client of your own. Give http_client=httpx.Client(proxy=…), for SOCKS with httpx[socks]."
        )
    try:
        parts = urlsplit(proxy)
        name, port = parts.hostname or "", parts.port or 80
        # As the resolver does; it refuses empty labels and those of more than 63 characters.
        name.encode("idna")
    except ValueError:
        name = ""
    if not name:
        # Not shown: user and password may be in it.
        raise ConfigurationError(
            "The proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not an address of the form "
            "http://user:password@host:port, with a / or @ in the password percent-encoded."
        )
    if parts.username is None:
        return Proxy(name, port)
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(name, port, f"Basic {base64.b64encode(pair.encode()).decode()}")


def environment_proxy(scheme: str, host: str) -> str | None:
    """Return the proxy that the environment names for a host, whatever its kind, by the standard library's rules."""
    if is_loopback(host):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
