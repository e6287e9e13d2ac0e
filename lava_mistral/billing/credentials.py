"""Keys and addresses: what proves who we are at Lava, and where Lava is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import urlsplit

from lava_mistral.errors import ConfigurationError

PRODUCTION_URL = "https://api.lava.so/v1"


SANDBOX_URL = "https://sandbox-api.lava.so/v1"


@runtime_checkable
class SecretValue(Protocol):
    """A wrapped secret, such as pydantic's `SecretStr`."""

    def get_secret_value(self) -> str: ...


Secret: TypeAlias = str | SecretValue | Callable[[], str]
"""A key: plain, wrapped, or a function that returns the one that is valid now."""


class HiddenText:
    """A key that is shown to nobody who prints it, walks its fields or writes it into a trace."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """The key."""
        return self._value

    def __repr__(self) -> str:
        return "'**********'"

    def __eq__(self, other: object) -> bool:
        return self._value == (other._value if isinstance(other, HiddenText) else other)

    def __hash__(self) -> int:
        return hash(self._value)


def hidden(secret: Secret | None) -> Secret | None:
    """The secret in a form that does not show it."""
    return HiddenText(secret) if isinstance(secret, str) else secret


def reveal(secret: Secret, what: str) -> str:
    """The plain text of a secret, checked to be usable in a header.

    Args:
        secret: the key, a wrapper around it, or a function that returns it.
        what: its name in the error.

    Raises:
        ConfigurationError: it is empty, no text, or holds white space or characters outside ASCII.
    """
    value: Any = secret() if callable(secret) else secret
    # Not by the protocol, which takes longer to ask than all the rest.
    unwrap = getattr(value, "get_secret_value", None)
    if callable(unwrap):
        value = unwrap()
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} must be text, not {type(value).__name__}.")
    if not value:
        raise ConfigurationError(f"{what} is empty. Leave it out, or give the key.")
    if value[0] in "\"'":
        raise ConfigurationError(f"{what} begins with a quotation mark, which is no part of a key: leave it out.")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(
            f"{what} holds white space or a character that no key has (often a line break at its end). "
            + (
                "Set it again without that."
                if what.startswith("LAVA_")
                else f"Write {what}=key.strip(), or copy it again."
            )
        )
    return value


def decode_forward_token(token: str) -> dict[str, Any] | None:
    """The fields of a forward token, or `None` for an opaque one."""
    try:
        fields = json.loads(base64.b64decode(token, validate=True))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("secret_key"), str) else None


def is_lava_credential(key: str) -> bool:
    """Whether a key looks like one of Lava's: a secret or spend key, or a forward token that can be read."""
    return key.startswith(("aks_", "lava_sk_")) or decode_forward_token(key) is not None


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=64)
def check_base_url(url: str) -> str:
    """The base URL without a trailing slash.

    Raises:
        ConfigurationError: it is no URL, or plain http to another machine, where the key could be read on the way.
    """
    if "@" in url:
        # Before anything that shows the URL: user and password are in it.
        raise ConfigurationError(f"The base URL must be plain scheme, host and path, like {PRODUCTION_URL}.")
    if not url.isprintable() or " " in url or "%20" in url:
        raise ConfigurationError(
            f"The base URL {url!r} (base_url= or LAVA_BASE_URL) holds white space, often a line break at its end: set "
            "it again without."
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
        # Read, since only then it is checked.
        _ = parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"The base URL {url!r} is not one: write it like {PRODUCTION_URL}.")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigurationError(
            f"The base URL {url!r} would send the key unencrypted: write https:// (http:// is for this machine only)."
        )
    if parts.query or parts.fragment:
        raise ConfigurationError(f"The base URL must be plain scheme, host and path, like {PRODUCTION_URL}.")
    return url.rstrip("/")
