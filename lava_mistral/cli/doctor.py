"""Finds out what keeps a call from working: interpreter, extras, key, base URL, network, model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Final, Literal

import httpx

from lava_mistral.billing.credentials import PRODUCTION_URL, decode_forward_token
from lava_mistral.billing.identity import Access, resolve_access
from lava_mistral.client._base import DEFAULT_EMBEDDING_MODEL
from lava_mistral.client.sync_client import LavaMistral
from lava_mistral.errors import LavaError
from lava_mistral.pricing.catalog import get_model
from lava_mistral.pricing.cost import cost_of, format_cost

Outcome = Literal["ok", "note", "failed", "skipped"]

EXTRAS: Final = {
    "langchain": ("langchain-core", "langchain-text-splitters"),
    "llama-index": ("llama-index-core",),
    "gateway": ("pydantic", "uvicorn"),
    "tokenizer": ("mistral-common", "sentencepiece"),
    "ray": ("ray", "pyarrow"),
    "plot": ("matplotlib",),
}
_OLDEST_PYTHON: Final = (3, 11)
_PATIENCE: Final = 15.0  # seconds for a question to the network
_LONGEST: Final = 240  # characters of a message


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        check: what was looked at.
        outcome: `"ok"`, `"note"` (works, but worth knowing), `"failed"`, or `"skipped"` (another failure is in the
            way).
        detail: what was found; nothing secret.
        advice: what to do about it.
    """

    check: str
    outcome: Outcome
    detail: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as plain text fields."""
        return asdict(self)


def examine(model: str, *, spend: bool = False) -> Iterator[Finding]:
    """Check one thing after the other; each finding comes as soon as it is there.

    Args:
        model: the model that is to be used.
        spend: whether to make one tiny embedding, the only check that costs something.
    """
    yield _python()
    yield from _extras()
    key = _key()
    yield key
    access: Access | None = None
    if key.outcome != "failed":
        try:
            access = resolve_access()
        except LavaError as error:
            yield Finding("base URL", "failed", error.message, error.advice)
        else:
            yield Finding("base URL", "ok", f"{access.base_url} ({_origin_of_url()})")
    yield (network := _network(access.base_url if access else os.environ.get("LAVA_BASE_URL") or PRODUCTION_URL))
    if access is None or network.outcome == "failed":
        why = "needs a key that can be used" if access is None else "needs the network"
        yield Finding("credential", "skipped", why)
        yield _catalogue_only(model)
        return
    yield from _account(model)
    if spend:
        yield _embedding()


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= _OLDEST_PYTHON:
        return Finding("Python", "ok", version)
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    return Finding("Python", "failed", f"{version} is too old", f"Use Python {oldest} or newer.")


def _extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        versions, missing = [], []
        for package in packages:
            try:
                versions.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                missing.append(package)
        if missing:
            advice = f'If you want it: pip install "lava-mistral[{extra}]".'
            yield Finding(f"extra [{extra}]", "note", f"not installed: {', '.join(missing)}", advice)
        else:
            yield Finding(f"extra [{extra}]", "ok", ", ".join(versions))


def _key() -> Finding:
    """What kind of credential is set, told without any part of it that is secret."""
    names = [name for name in ("LAVA_FORWARD_TOKEN", "LAVA_SECRET_KEY") if os.environ.get(name)]
    if not names:
        return Finding(
            "key",
            "failed",
            "neither LAVA_SECRET_KEY nor LAVA_FORWARD_TOKEN is set",
            "Make a key at https://www.lava.so/dashboard, then: export LAVA_SECRET_KEY=aks_live_… "
            "Without a key, `lava-mistral demo` and `lava-mistral gateway` work on this machine with "
            'pip install "lava-mistral[langchain,gateway]".',
        )
    name, value = names[0], os.environ[names[0]]
    also = f"; {names[1]} is set too and not used" if len(names) > 1 else ""
    if value != value.strip() or not value.isprintable() or " " in value:
        return Finding(
            "key",
            "failed",
            f"{name} holds white space or a line break",
            f'Set it again without: export {name}="$(printf %s "${name}" | tr -d "[:space:]")"',
        )
    if value.startswith("lava_sk_"):
        return Finding(
            "key",
            "failed",
            f"{name} holds a spend key (lava_sk_…), which Lava does not document for its forward proxy",
            "Use a secret key: it starts with aks_live_ or aks_test_.",
        )
    fields = decode_forward_token(value)
    if fields is not None and fields.get("customer_id") and not fields.get("meter_slug"):
        return Finding(
            "key",
            "failed",
            f"{name} holds a forward token with a customer_id and no meter_slug, which Lava refuses",
            "Make it again with both: Billing(customer_id=…, meter_slug=…).forward_token(secret_key).",
        )
    if name == "LAVA_FORWARD_TOKEN":
        return Finding("key", "ok", f"{name}: {_describe_token(value)}{also}")
    if value.startswith(("aks_live_", "aks_test_")):
        kind = "production" if value.startswith("aks_live_") else "sandbox"
        return Finding("key", "ok", f"{name}: {value[:9]}… ({len(value)} characters), a {kind} key{also}")
    if fields is not None:
        return Finding("key", "note", f"{name} holds a forward token", "It works; its own name is LAVA_FORWARD_TOKEN.")
    return Finding(
        "key",
        "note",
        f"{name} does not look like a secret key ({len(value)} characters){also}",
        "A secret key starts with aks_live_ or aks_test_; a forward token belongs into LAVA_FORWARD_TOKEN.",
    )


def _describe_token(token: str) -> str:
    fields = decode_forward_token(token)
    if fields is None:
        return f"an opaque forward token ({len(token)} characters), passed on as it is"
    held = [name for name in ("customer_id", "meter_slug", "provider_key", "disable_billing") if fields.get(name)]
    return f"a forward token with {', '.join(held)}" if held else "a forward token of the merchant"


def _origin_of_url() -> str:
    return "from LAVA_BASE_URL" if os.environ.get("LAVA_BASE_URL") else "by the kind of the key"


def _network(base_url: str) -> Finding:
    """Whether anything answers there; no credential is sent."""
    try:
        with httpx.Client(timeout=_PATIENCE) as client:
            response = client.get(base_url)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return Finding(
            "network",
            "failed",
            f"{base_url} can't be reached: {str(error) or type(error).__name__}",
            "Check the connection, a firewall, and a proxy in HTTPS_PROXY; LAVA_BASE_URL if you set it.",
        )
    return Finding("network", "ok", f"{response.url.host} answers ({response.elapsed.total_seconds() * 1000:.0f} ms)")


def _account(model: str) -> Iterator[Finding]:
    """Whether the credential is accepted and the model is there; listing models costs nothing."""
    try:
        offered = {card["id"] for card in LavaMistral(timeout=_PATIENCE, max_retries=1).models()}
    except LavaError as error:
        advice = error.advice or "Look the request up in Lava's dashboard."
        yield Finding("credential", "failed", _short(error.message), advice)
        yield _catalogue_only(model)
        return
    yield Finding("credential", "ok", f"accepted; Mistral lists {len(offered)} models through it")
    if model in offered or not offered:
        priced = get_model(model).known
        advice = "" if priced else "Its prices are not in the catalogue; give them with add_model(…) to see costs."
        yield Finding("model", "ok" if priced else "note", f"{model} is offered", advice)
    else:
        yield Finding(
            "model", "failed", f"{model} is not offered", "`lava-mistral models` lists those that Lava bills."
        )


def _short(message: str) -> str:
    """A message on one line; a web server that is no Lava answers with a whole page."""
    text = " ".join(message.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _catalogue_only(model: str) -> Finding:
    if get_model(model).known:
        return Finding("model", "ok", f"{model} is on Lava's price list (the account was not asked)")
    return Finding(
        "model", "note", f"{model} is not on Lava's price list", "`lava-mistral models` lists those that are."
    )


def _embedding() -> Finding:
    try:
        answer = LavaMistral(timeout=_PATIENCE).embedding_request(["hello"])
    except LavaError as error:
        return Finding("embedding", "failed", _short(error.message), error.advice)
    usage: Any = answer.response["usage"]
    cost = format_cost(cost_of(usage, DEFAULT_EMBEDDING_MODEL))
    tokens = usage["prompt_tokens"]
    return Finding(
        "embedding", "ok", f"{tokens} token{'' if tokens == 1 else 's'} for {cost}, Lava request id {answer.request_id}"
    )
