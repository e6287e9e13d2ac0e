"""Who pays for a call, and what says it to Lava: keys, addresses, `Billing` and forward tokens."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Protocol, TypeAlias, runtime_checkable
from urllib.parse import urlsplit

from lava_mistral._text import nearest
from lava_mistral.errors import ConfigurationError

PRODUCTION_URL = "https://api.lava.so/v1"
SANDBOX_URL = "https://sandbox-api.lava.so/v1"
FIELDS = ("customer_id", "meter_slug", "provider_key", "disable_billing")
_METADATA_KEY = re.compile(r"[A-Za-z0-9_]{1,255}\Z")


@runtime_checkable  # for pydantic
class SecretValue(Protocol):
    """A wrapped secret, such as pydantic's `SecretStr`."""

    def get_secret_value(self) -> str: ...


# A key: plain, wrapped, or a function that returns the one that is valid now.
Secret: TypeAlias = str | SecretValue | Callable[[], str]


class HiddenText:
    """A key that is shown to nobody who prints it, walks its fields or writes it into a trace."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "'**********'"

    def __eq__(self, other: object) -> bool:
        return self._value == (other._value if isinstance(other, HiddenText) else other)

    def __hash__(self) -> int:
        return hash(self._value)


def hidden(secret: Secret | None) -> Secret | None:
    """Return the secret in a form that does not show it."""
    return HiddenText(secret) if isinstance(secret, str) else secret


def reveal(secret: Secret, what: str) -> str:
    """Return the plain text of a secret, checked to be usable in a header; `what` names it in the error."""
    value: Any = secret() if callable(secret) else secret
    value = value.get_secret_value() if hasattr(value, "get_secret_value") else value
    if not isinstance(value, str):
        raise ConfigurationError(f"{what} must be text, not {type(value).__name__}.")
    if not value:
        raise ConfigurationError(f"{what} is empty. Leave it out, or give the key.")
    if value[0] in "\"'":
        raise ConfigurationError(f"{what} begins with a quotation mark, which is no part of a key: leave it out.")
    if "…" in value:
        raise ConfigurationError(f"{what} holds a … as documentation writes it: give the whole key.")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigurationError(
            f"{what} holds white space or a character that no key has (often a line break at its end). "
            "Set it again without that, or give key.strip()."
        )
    return value


def decode_forward_token(token: str) -> dict[str, Any] | None:
    """Return the fields of a forward token, or `None` for an opaque one."""
    try:
        fields = json.loads(base64.b64decode(token, validate=True))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("secret_key"), str) else None


def is_lava_credential(key: str) -> bool:
    """Tell whether a key looks like one of Lava's: a secret or spend key, or a forward token that can be read."""
    return key.startswith(("aks_", "lava_sk_")) or decode_forward_token(key) is not None


def is_loopback(host: str) -> bool:
    """Tell whether the host is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=64)
def check_base_url(url: str) -> str:
    """Return the base URL without a trailing slash, if it is one of https, or of http to this machine."""
    shown, fault = f"{url!r} (base_url= or LAVA_BASE_URL) ", ""
    try:
        parts = urlsplit(url)
        # The port is checked only when it is read.
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if "@" in url or (host and ("?" in url or "#" in url)):
        # Not shown: user and password may be in it.
        shown, fault = "", f"must be plain scheme, host and path, like {PRODUCTION_URL}"
    elif not url.isprintable() or " " in url or "%20" in url:
        fault = "holds white space, often a line break at its end: set it again without"
    elif not host or parts.scheme not in ("http", "https"):
        fault = f"is not one: write it like {PRODUCTION_URL}"
    elif f".{host}".endswith((".mistral.ai", ".api.openai.com")):
        fault = "is not Lava: calls go to Mistral through Lava, whose own address is base_url=. Leave it out"
    elif parts.scheme == "http" and not is_loopback(host):
        fault = "would send the key unencrypted: write https:// (http:// is for this machine only)"
    if fault:
        raise ConfigurationError(f"The base URL {shown}{fault}.")
    return url.rstrip("/")


@dataclass(frozen=True)
class Billing:
    """Whom Lava charges for a call, and whose Mistral key it uses.

    Without any field the merchant's own wallet pays. The combinations are those of Lava's forward token:

    - `meter_slug`: usage is tracked on the meter, the merchant pays;
    - `customer_id` and `meter_slug`: the customer's plan pays;
    - these two and `disable_billing=True`: tracked for the customer, whose plan is still enforced; the merchant pays;
    - `provider_key` beside any of them: the call runs on your own Mistral key, Lava still meters it. It is text, a
      `SecretStr`, or a function that is called for every request, and is never shown.

    Raises:
        ConfigurationError: a combination that Lava refuses.
    """

    customer_id: str | None = None
    meter_slug: str | None = None
    provider_key: Secret | None = field(default=None, repr=False)
    disable_billing: bool | None = None

    def __post_init__(self) -> None:
        for name in ("customer_id", "meter_slug"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigurationError(f"{name} of Billing or billed_to must be non-empty text, not {value!r}.")
        if self.customer_id is not None and self.meter_slug is None:
            raise ConfigurationError(
                "A customer_id needs the meter that the usage counts on: write Billing(customer_id="
                f'{self.customer_id!r}, meter_slug="your-meter") or billed_to({self.customer_id!r}, "your-meter").'
            )
        if self.disable_billing is not None and not isinstance(self.disable_billing, bool):
            raise ConfigurationError(f"disable_billing must be a bool, not {self.disable_billing!r}.")
        if self.disable_billing and self.customer_id is None:
            raise ConfigurationError(
                "Billing(disable_billing=True) means something only for a customer: add "
                'customer_id="…", meter_slug="…", or leave it out: without a customer the merchant pays anyway.'
            )
        if self.provider_key is not None and not callable(self.provider_key):
            reveal(self.provider_key, "provider_key")
        object.__setattr__(self, "provider_key", hidden(self.provider_key))

    def forward_token(self, secret_key: str) -> str:
        """Return the forward token for this identity: what goes into the `Authorization` header.

        Byte for byte what Lava's Node SDK builds from the same fields: compact JSON without the absent ones, in padded
        standard base64.
        """
        fields: dict[str, Any] = {"secret_key": reveal(secret_key, "secret_key")}
        fields |= {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
        if self.provider_key is not None:
            fields["provider_key"] = reveal(self.provider_key, "provider_key")
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        # JavaScript escapes a lone surrogate as \udXXX; Python would refuse to encode it.
        text = re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
        return base64.b64encode(text.encode()).decode("ascii")

    def over(self, token: Billing) -> Billing:
        """Return this identity with what a forward token that is the credential says, under it.

        A customer named here brings a meter and a switch of its own, whatever the token says of another customer.
        """
        if token is MERCHANT:
            return self
        names = ("provider_key",) if self.customer_id is not None else FIELDS
        return replace(self, **{name: getattr(token, name) for name in names if getattr(self, name) is None})

    @property
    def payer(self) -> str:
        """Who pays, in words, for errors."""
        if self.customer_id is not None:
            who = f"customer {self.customer_id!r} on meter {self.meter_slug!r}"
            return f"the merchant's wallet (tracked for {who})" if self.disable_billing else f"the plan of {who}"
        return "the merchant's wallet" + ("" if self.meter_slug is None else f", on meter {self.meter_slug!r}")


MERCHANT = Billing()  # the merchant's own wallet pays


class Limit(Protocol):
    """What a request's cost is reserved from; see `SpendLimit`."""

    def reserve(self, amount: Decimal) -> None: ...
    def end(self, amount: Decimal, cost: Decimal | None, request_id: str | None = None) -> None: ...


@dataclass(frozen=True)
class BillingContext:
    """What one call is sent with: who pays, the metadata stored with it, the limits it draws on, and who is told."""

    billing: Billing = MERCHANT
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    listeners: tuple[Callable[[Any], object], ...] = ()
    run_id: str | None = None  # of the framework


def to_billing(value: Any) -> Billing | None:
    """Return who pays, from a `Billing` or its fields in a dictionary, as a configuration file has them."""
    if value is None or isinstance(value, Billing):
        return value
    if isinstance(value, Mapping):
        for name in map(str, value):
            if name not in FIELDS:
                near = nearest(name, FIELDS)
                hint = f"Did you mean {near!r}?" if near else f"Its fields are {', '.join(FIELDS)}."
                raise ConfigurationError(f"Billing has no {name}. {hint}")
        return Billing(**value)
    raise ConfigurationError(
        f"billing= takes a Billing, or its fields in a dictionary, not {type(value).__name__}: write "
        'Billing(customer_id="…", meter_slug="…").'
    )


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of the metadata, checked by Lava's rules (gateway/forward-proxy in Lava's documentation)."""
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"Lava metadata must be a mapping of text to text, not {type(metadata).__name__}.")
    if len(metadata) > 100:
        raise ConfigurationError(f"Lava stores at most 100 metadata pairs with a request; these are {len(metadata)}.")
    for key, value in metadata.items():
        if not isinstance(key, str) or not _METADATA_KEY.match(key):
            raise ConfigurationError(f"The metadata key {key!r} must be 1 to 255 ASCII letters, digits or underscores.")
        if not isinstance(value, str) or not 1 <= len(value) <= 255:
            given = f"of {len(value)}" if isinstance(value, str) else f"{type(value).__name__}: write str(…)"
            raise ConfigurationError(f"The metadata value of {key!r} must be text of 1 to 255 characters, not {given}.")
    return dict(metadata)


@dataclass(frozen=True)
class Access:
    """A resolved credential: where calls go, and what proves who we are."""

    key: str = field(repr=False)
    base_url: str = PRODUCTION_URL

    @property
    def secret_key(self) -> str:
        """The secret key: the credential itself, or the one in a forward token that can be read."""
        if self.key.startswith("aks_"):
            return self.key
        fields = decode_forward_token(self.key)
        if fields is None:
            raise ConfigurationError(
                "The credential is a forward token that says itself who pays, so billing can't be set beside it. "
                "Give Lava's secret key to bill call by call: as api_key=, or in LAVA_SECRET_KEY with "
                "LAVA_FORWARD_TOKEN unset, which comes first."
            )
        return str(fields["secret_key"])

    def bearer(self, billing: Billing) -> str:
        """Return the value after `Bearer ` for a call billed like this; an opaque token says itself who pays."""
        own = billing_of_token(self.key)
        billing = billing.over(own)
        if billing == own:
            return self.key
        make = Billing.forward_token if callable(billing.provider_key) else _kept_token
        return make(billing, self.secret_key)


_kept_token = lru_cache(maxsize=4096)(Billing.forward_token)


@lru_cache(maxsize=4096)
def billing_of_token(key: str) -> Billing:
    """Return who pays by a readable forward token; `MERCHANT` for a secret key or an opaque token."""
    fields = ({} if key.startswith("aks_") else decode_forward_token(key)) or {}
    try:
        billing = Billing(**{name: fields.get(name) for name in FIELDS})
    except ConfigurationError:
        # Lava knows more forms of tokens than this; it is sent as it is, and says itself who pays.
        return MERCHANT
    return MERCHANT if billing == MERCHANT else billing


def payer_of(credential: str) -> str:
    """Return who pays for a request that was sent with this credential, in words, for errors."""
    billing = billing_of_token(credential)
    if billing is MERCHANT and not credential.startswith("aks_"):
        return "the wallet that the forward token names"
    return billing.payer


def resolve_access(api_key: Secret | None = None, base_url: str | None = None) -> Access:
    """Return the credential and base URL to use now: argument, then environment, then what the key's prefix says."""
    if api_key is None:
        name = "LAVA_FORWARD_TOKEN" if os.environ.get("LAVA_FORWARD_TOKEN") else "LAVA_SECRET_KEY"
        if not (value := os.environ.get(name)):
            raise _no_key()
        key = reveal(value, name)
    else:
        # A framework's model has read the environment itself; what is wrong there can't be mended at the argument.
        key = reveal(api_key, getattr(api_key, "variable", "api_key"))
    if key.startswith("lava_sk_"):
        raise ConfigurationError(
            "This is a spend key (lava_sk_…), for Lava's own chat endpoint; calls go through /forward, which wants a "
            "secret key.",
            advice="Give a secret key (aks_live_… or aks_test_…), as api_key= or in LAVA_SECRET_KEY.",
        )
    if url := base_url or os.environ.get("LAVA_BASE_URL"):
        return Access(key, check_base_url(url))
    secret_key = key if key.startswith("aks_") else str((decode_forward_token(key) or {}).get("secret_key"))
    return Access(key, SANDBOX_URL if secret_key.startswith("aks_test_") else PRODUCTION_URL)


def _no_key() -> ConfigurationError:
    said = "No Lava credential: there is no api_key=, and neither LAVA_SECRET_KEY nor LAVA_FORWARD_TOKEN is set"
    if os.environ.get("LAVA_API_KEY"):
        said += "; LAVA_API_KEY is, but that name is not read"
    if os.environ.get("MISTRAL_API_KEY"):
        said += "; MISTRAL_API_KEY is, but Lava wants a key of its own (Mistral's goes into Billing(provider_key=…))"
    return ConfigurationError(
        f"{said}.",
        advice="Make a key (aks_live_… or aks_test_…) at https://www.lava.so/dashboard, then: export "
        "LAVA_SECRET_KEY=aks_… Without a key, `lava-mistral gateway` simulates Lava and Mistral on this machine and "
        "says what to export.",
    )
