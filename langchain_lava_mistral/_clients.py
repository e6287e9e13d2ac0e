"""Make the core's clients of a model's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from langchain_lava_mistral._settings import CLIENT

if TYPE_CHECKING:
    from lava_mistral.client.async_client import AsyncLavaMistral
    from lava_mistral.client.sync_client import LavaMistral


def new_clients(fields: Mapping[str, Any], **more: Any) -> tuple[LavaMistral, AsyncLavaMistral]:
    """Return the core's clients for a model's fields.

    Args:
        fields: those of `LavaSettings`.
        **more: further settings of the clients.
    """
    # They load httpx.
    from lava_mistral.client.async_client import AsyncLavaMistral
    from lava_mistral.client.sync_client import LavaMistral

    settings = {"metadata" if name == "lava_metadata" else name: fields[name] for name in CLIENT} | more
    return (
        LavaMistral(**settings, http_client=fields["http_client"]),
        AsyncLavaMistral(**settings, http_client=fields["http_async_client"]),
    )
