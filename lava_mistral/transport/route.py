"""Re-address a request for `https://api.mistral.ai/…` to `{base}/forward?u=…` at Lava, with its credential."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote

from lava_mistral.billing.credentials import (
    MERCHANT,
    Billing,
    BillingContext,
    Secret,
    check_metadata,
    hidden,
    resolve_access,
    to_billing,
)
from lava_mistral.transport.request import Url, parse_url

MISTRAL_HOST = "api.mistral.ai"
MISTRAL_URL = f"https://{MISTRAL_HOST}/v1"


@lru_cache(maxsize=512)
def forward_url(base_url: str, target: str) -> Url:
    """Return the address at Lava that stands for a provider's address."""
    return parse_url(f"{base_url}/forward?u={quote(target, safe='')}")


@dataclass(kw_only=True, eq=False, repr=False)
class LavaRoute:
    """The settings of one way through Lava."""

    api_key: Secret | None = None
    base_url: str | None = None
    billing: Billing | None = None
    metadata: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        self.api_key, self.billing = hidden(self.api_key), to_billing(self.billing)
        self.metadata = check_metadata(self.metadata)

    def address(self, target: str, billing_context: BillingContext) -> tuple[Url, str, dict[str, str]]:
        """Return what a request to the provider address `target` is sent to: URL, credential and Lava's headers."""
        access = resolve_access(self.api_key, self.base_url)
        url = forward_url(access.base_url, target)
        bearer = access.key if billing_context.billing is MERCHANT else access.bearer(billing_context.billing)
        headers = {"host": url.authority, "authorization": f"Bearer {bearer}"}
        if billing_context.metadata:
            # ASCII escapes: a header can't hold other characters.
            headers["x-lava-metadata"] = json.dumps(dict(billing_context.metadata), separators=(",", ":"))
        return url, bearer, headers
