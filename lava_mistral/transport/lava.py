"""The forward proxy: re-address a request for Mistral to Lava.

A request for `https://api.mistral.ai/…` becomes one for `{base}/forward?u=…` with Lava's credential and metadata. The
transports of `forwarding.py` do that for whatever a library sends; the client does it for its own calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from lava_mistral.billing.identity import (
    MERCHANT,
    Billing,
    BillingContext,
    Secret,
    check_metadata,
    hidden,
    resolve_access,
    to_billing,
)
from lava_mistral.billing.scope import check_customer, identify
from lava_mistral.errors import ConfigurationError
from lava_mistral.transport.request import Url, parse_url

MISTRAL_HOST = "api.mistral.ai"
MISTRAL_URL = f"https://{MISTRAL_HOST}/v1"

# Set anew for Lava, or meaningless there.
_REPLACED = frozenset({b"host", b"authorization", b"x-lava-metadata", b"cookie"})


@lru_cache(maxsize=512)
def forward_url(base_url: str, target: str) -> Url:
    """Return the address at Lava that stands for a provider's address."""
    return parse_url(f"{base_url}/forward?u={quote(target, safe='')}")


class Forwarder:
    """The settings of one way through Lava, and what they make of a request."""

    def __init__(
        self,
        *,
        api_key: Secret | None = None,
        base_url: str | None = None,
        billing: Billing | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.api_key = hidden(api_key)
        self.base_url = base_url
        self.billing = to_billing(billing)
        self.metadata = check_metadata(metadata)

    def address(self, target: str, identity: BillingContext) -> tuple[Url, str, dict[str, str]]:
        """Return what a request to the provider address `target` is sent to: URL, credential and Lava's headers."""
        access = resolve_access(self.api_key, self.base_url)
        url = forward_url(access.base_url, target)
        bearer = access.key if identity.billing is MERCHANT else access.bearer(identity.billing)
        headers = {"host": url.authority, "authorization": f"Bearer {bearer}"}
        if identity.metadata:
            # ASCII escapes: a header can't hold other characters.
            headers["x-lava-metadata"] = json.dumps(dict(identity.metadata), separators=(",", ":"))
        return url, bearer, headers

    def readdress(self, library: Any, request: Any) -> Any:
        """Return the request to send to Lava for one that a client of httpx or httpx2 made for Mistral.

        The request that the library made stays untouched, so `response.request` still names Mistral and holds no
        credential.

        Args:
            library: `httpx` or `httpx2`.
            request: its request.

        Raises:
            ConfigurationError: it is for another host than Mistral's, there is no usable credential, or a spend limit
                holds.
        """
        url = request.url
        if url.host != MISTRAL_HOST or url.scheme != "https" or url.port is not None:
            raise ConfigurationError(
                f"This transport forwards requests for https://{MISTRAL_HOST} alone; this one is for "
                f"{url.scheme}://{url.netloc.decode('ascii')}. Point the client at {MISTRAL_URL}: "
                "the transport itself finds the way to Lava."
            )
        identity = identify(self.billing, self.metadata, api_key=self.api_key)
        check_customer(identity)
        if identity.limits:
            raise ConfigurationError(
                "A spend limit can't be kept for requests through a LavaTransport, whose cost is not known beforehand. "
                "Leave spend_limit= out of the billed_to blocks around them, or make the call with LavaMistral or one "
                "of the framework packages."
            )
        # Neither user and password nor a fragment of the address go with it.
        target = f"https://{MISTRAL_HOST}{url.raw_path.decode('ascii')}"
        address, _, headers = self.address(target, identity)
        kept = [(name, value) for name, value in request.headers.raw if name.lower() not in _REPLACED]
        return library.Request(
            request.method,
            str(address),
            headers=[*((name.encode(), value.encode()) for name, value in headers.items()), *kept],
            stream=request.stream,
            extensions=dict(request.extensions),
        )
