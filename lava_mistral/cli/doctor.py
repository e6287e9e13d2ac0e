"""`lava-mistral doctor`: what keeps a call from working, and what to do about it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape

from lava_mistral.billing.identity import (
    PRODUCTION_URL,
    check_base_url,
    decode_forward_token,
    is_loopback,
    missing_key,
    resolve_access,
)
from lava_mistral.billing.scope import requires_customer
from lava_mistral.calls.defaults import DEFAULT_EMBEDDING_MODEL
from lava_mistral.calls.error_mapping import redact
from lava_mistral.cli.output import JsonOption, counted, print_json
from lava_mistral.errors import TOP_UP, ConfigurationError, InsufficientBalanceError, LavaError
from lava_mistral.pricing.amounts import format_cost
from lava_mistral.pricing.catalog import get_model, models
from lava_mistral.pricing.cost import cost_of
from lava_mistral.transport.environment import proxy_for, ssl_context
from lava_mistral.transport.request import parse_url

if TYPE_CHECKING:
    from lava_mistral.client.clients import LavaMistral

Outcome = Literal["failed", "note", "skipped", "ok"]
_STYLES: Final[dict[Outcome, str]] = {"failed": "bold red", "note": "yellow", "skipped": "dim", "ok": "green"}

EXTRAS: Final = {
    "langchain": ("langchain-core", "langchain-text-splitters"),
    "llama-index": ("llama-index-core",),
    "gateway": ("uvicorn", "pydantic"),
    "tokenizer": ("mistral-common", "sentencepiece"),
    "documents": ("pypdf", "mammoth", "markdownify"),
    "otel": ("opentelemetry-api",),
    "job": ("pyarrow",),
    "ray": ("ray",),
    "plot": ("matplotlib",),
}
_KINDS: Final = {"aks_live_": "production", "aks_test_": "sandbox"}
_HOSTS: Final = {
    "api.lava.so": "production",
    "api.lavapayments.com": "production",
    "sandbox-api.lava.so": "sandbox",
    "sandbox-api.lavapayments.com": "sandbox",
}
_PATIENCE: Final = 15.0  # seconds for a question to the network
_LONGEST: Final = 240  # characters of a message
_OWN_NAME: Final = re.compile(r"; `lava-mistral doctor` tests [^.]*")  # said to those who have not run it yet


@dataclass(frozen=True)
class Finding:
    """What a check found, nothing secret, and what to do about it; `"skipped"` where another failure is in the way."""

    check: str
    outcome: Outcome
    detail: str
    advice: str = ""


def doctor(
    model: Annotated[str, typer.Option("--model", "-m", help="The model you want to use.")] = "mistral-small-2603",
    spend: Annotated[
        bool, typer.Option("--spend", help="Also make one tiny embedding: the only check that costs something.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Check that key, network and model are right, and say what to do if not. It costs nothing without --spend."""
    order = list(_STYLES)
    findings = sorted(examine(model, spend=spend), key=lambda finding: order.index(finding.outcome))
    failed = findings[0].outcome == "failed"
    if json:
        print_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        console = Console(soft_wrap=True, highlight=False)
        for finding in findings:
            mark = f"[{_STYLES[finding.outcome]}]{finding.outcome:<8}[/]"
            advice = f" → {finding.advice}" if finding.advice else ""
            console.print(f"{mark} [bold]{finding.check}[/bold]: {escape(finding.detail + advice)}")
    raise typer.Exit(1 if failed else 0)


def examine(model: str, *, spend: bool = False) -> Iterator[Finding]:
    """Check one thing after the other; with `spend` also by one tiny embedding, which costs something."""
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("extras", _extras),
        ("key", _key),
        ("base URL", _base_url),
        ("proxy", _proxy),
        ("certificates", _certificates),
        ("network", _network),
        ("credential", lambda: _account(model)),
    ]
    if spend:
        checks.append(("embedding", _embedding))
    yield Finding("Python", "ok", ".".join(map(str, sys.version_info[:3])))
    if requires_customer():
        del os.environ["LAVA_REQUIRE_CUSTOMER"]  # the checks name no customer
        said = (
            "LAVA_REQUIRE_CUSTOMER is on: calls that name no customer are refused; the checks here are made without it"
        )
        yield Finding("customer", "ok", said)
    failed: set[str] = set()
    for name, check in checks:
        if name in ("credential", "embedding") and failed & {"key", "base URL", "network", "credential", "wallet"}:
            yield Finding(name, "skipped", f"needs {' and '.join(sorted(failed))} to be right")
            if name == "credential":
                yield from _model(model, None)
            continue
        for finding in _carefully(name, check):
            if finding.outcome == "failed":
                failed.add(finding.check)
            yield finding


def _carefully(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what a check finds, without anything secret in it; an error that nobody foresaw is a finding too."""
    try:
        for finding in check():
            yield Finding(finding.check, finding.outcome, _clean(finding.detail), _clean(finding.advice))
    except LavaError as error:
        yield Finding(name, "failed", _clean(error.message), _clean(error.advice))
    except Exception as error:  # noqa: BLE001  # the user asked what is wrong, and a traceback is no answer
        yield Finding(name, "failed", _clean(f"{type(error).__name__}: {error}"))


def _clean(text: str) -> str:
    """Return a text on one line, without credentials; a web server that is no Lava answers with a whole page."""
    text = _OWN_NAME.sub("", redact(" ".join(text.split())))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _extras() -> Iterator[Finding]:
    there, missing = [], []
    for extra, packages in EXTRAS.items():
        try:
            versions = [f"{package} {metadata.version(package)}" for package in packages]
            there.append(f"[{extra}] {versions[0]}")
        except metadata.PackageNotFoundError:
            missing.append(extra)
    yield Finding("extras", "ok", ", ".join(there) or "none is installed")
    if missing:
        advice = f'If you want them: pip install "lava-mistral[{",".join(missing)}]"'
        yield Finding("extras", "note", f"not installed: {', '.join(missing)}", advice)


def _key() -> Iterator[Finding]:
    """Say what kind of credential is set, without any part of it that is secret."""
    names = [name for name in ("LAVA_FORWARD_TOKEN", "LAVA_SECRET_KEY") if os.environ.get(name)]
    if not names:
        said, advice = missing_key()
        yield Finding("key", "failed", said, advice)
        return
    name, value = names[0], os.environ[names[0]]
    also = f"; {names[1]} is set too and not used" if len(names) > 1 else ""
    fields = decode_forward_token(value)
    if value != value.strip() or not value.isprintable() or " " in value:
        again = f'Set it again without: export {name}="$(printf %s "${name}" | tr -d "[:space:]")"'
        yield Finding("key", "failed", f"{name} holds white space or a line break", again)
    elif value.startswith("lava_sk_"):
        what = f"{name} holds a spend key (lava_sk_…), which Lava does not document for its forward proxy"
        yield Finding("key", "failed", what, "Use a secret key: it starts with aks_live_ or aks_test_.")
    elif fields is not None and fields.get("customer_id") and not fields.get("meter_slug"):
        what = f"{name} holds a forward token with a customer_id and no meter_slug, which Lava refuses"
        advice = "Make it again with both: Billing(customer_id=…, meter_slug=…).forward_token(secret_key)."
        yield Finding("key", "failed", what, advice)
    elif name == "LAVA_FORWARD_TOKEN":
        fields_of_note = ("customer_id", "meter_slug", "provider_key", "disable_billing")
        held = [field for field in fields_of_note if fields and fields.get(field)]
        what = f"a forward token with {', '.join(held)}" if held else "a forward token of the merchant"
        if fields is None:
            what = f"an opaque forward token ({counted(len(value), 'character')}), passed on as it is"
        yield Finding("key", "ok", f"{name}: {what}{also}")
    elif kind := _KINDS.get(value[:9]):
        yield Finding("key", "ok", f"{name}: {value[:9]}… ({counted(len(value), 'character')}), a {kind} key{also}")
    elif fields is not None:
        yield Finding("key", "note", f"{name} holds a forward token", "It works; its own name is LAVA_FORWARD_TOKEN.")
    else:
        what = f"{name} does not look like a secret key ({counted(len(value), 'character')}){also}"
        advice = "A secret key starts with aks_live_ or aks_test_; a forward token belongs into LAVA_FORWARD_TOKEN."
        yield Finding("key", "note", what, advice)


def _address() -> str:
    """Return the base URL of calls; without a usable key, that of the environment or production."""
    try:
        return resolve_access().base_url
    except ConfigurationError:
        return check_base_url(os.environ.get("LAVA_BASE_URL") or PRODUCTION_URL)


def _base_url() -> Iterator[Finding]:
    address, given = _address(), bool(os.environ.get("LAVA_BASE_URL"))
    key = os.environ.get("LAVA_FORWARD_TOKEN") or os.environ.get("LAVA_SECRET_KEY") or ""
    kind = _KINDS.get(str((decode_forward_token(key) or {}).get("secret_key", key))[:9])
    place = _HOSTS.get(urlsplit(address).hostname or "")
    if kind and place and kind != place:
        what = f"LAVA_BASE_URL names {place} ({address}), and the key is one of {kind}"
        yield Finding("base URL", "failed", what, f"Unset LAVA_BASE_URL, or take a key of {place}.")
    elif not address.endswith("/v1"):
        yield Finding("base URL", "note", f"{address} does not end in /v1", f"Lava's own is {PRODUCTION_URL}.")
    else:
        said = f"{address} ({'from LAVA_BASE_URL' if given else 'by the kind of the key'})"
        if is_loopback(urlsplit(address).hostname or ""):
            said += "; it is on this machine, so that it may be a simulated gateway, whose answers are not Mistral's"
        yield Finding("base URL", "ok", said)


def _proxy() -> Iterator[Finding]:
    proxy = proxy_for(*parse_url(_address())[:2])
    if proxy is not None:
        said = f"calls go through {proxy.host}:{proxy.port}, by HTTPS_PROXY, ALL_PROXY or the system's settings"
        yield Finding("proxy", "ok", said)


def _certificates() -> Iterator[Finding]:
    given = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    if _address().startswith("https://"):
        ssl_context()
        yield Finding("certificates", "ok", f"those of {' and '.join(given) or 'certifi'} can be read")
    if os.environ.get("REQUESTS_CA_BUNDLE") and not given:
        advice = "Give the same file as SSL_CERT_FILE."
        yield Finding("certificates", "note", "REQUESTS_CA_BUNDLE is set and not read", advice)


def _network() -> Iterator[Finding]:
    """Ask for the public price list, the way that calls take; no credential is sent."""
    from lava_mistral.client.price_list import fetch_price_list

    address = _address()
    began = time.monotonic()
    try:
        fetch_price_list(address, _PATIENCE)
    except LavaError as error:
        if error.status_code is None:
            parts = urlsplit(address)
            advice = "Check the connection, a firewall, a proxy in HTTPS_PROXY, and LAVA_BASE_URL if you set it."
            if is_loopback(parts.hostname or ""):
                advice = f"Is a gateway running there? Start one: lava-mistral gateway --port {parts.port or 80}"
            yield Finding("network", "failed", f"{address} can't be reached: {error.message}", advice)
            return
    yield Finding("network", "ok", f"{urlsplit(address).hostname} answers ({(time.monotonic() - began) * 1000:.0f} ms)")


def _account(model: str) -> Iterator[Finding]:
    """Ask for the models, which costs nothing and shows whether the credential is accepted."""
    from lava_mistral.client.clients import LavaMistral

    client = LavaMistral(timeout=_PATIENCE, max_retries=1)
    offered: set[str] = set()
    said = "accepted, but who is to pay has no credit"
    try:
        offered = {card["id"] for card in client.models()}
        said = f"accepted; Mistral lists {counted(len(offered), 'model')} through it"
    except InsufficientBalanceError:
        pass
    except LavaError as error:
        yield Finding("credential", "failed", error.message, error.advice or "Look it up in Lava's dashboard.")
        yield from _model(model, None)
        return
    yield Finding("credential", "ok", said)
    yield from _carefully("wallet", lambda: _wallet(client))
    yield from _model(model, offered or None)


def _wallet(client: LavaMistral) -> Iterator[Finding]:
    try:
        balance = client.wallet().balance
    except LavaError as error:
        yield Finding("wallet", "skipped", f"its balance can't be asked for: {error.message}")
        return
    advice = "" if balance > 0 else f"Calls that no customer pays for are refused: top up at {TOP_UP}."
    yield Finding("wallet", "failed" if advice else "ok", f"{format_cost(balance)} left", advice)


def _model(id: str, offered: set[str] | None) -> Iterator[Finding]:
    """Say what is known of a model; `offered` are the names that Mistral lists, if it was asked."""
    model = get_model(id)
    advice = "" if model.known else "`lava-mistral models` lists those that Lava bills."
    if near := [] if model.known else get_close_matches(id, [each.id for each in models()], n=1):
        advice = f"Did you mean {near[0]}? {advice}"
    if offered is not None and id not in offered:
        yield Finding("model", "failed", model.notice or f"{id} is not offered", advice)
    elif model.notice:
        yield Finding("model", "note", model.notice)
    elif offered is None:
        listed = "is" if model.known else "is not"
        said = f"{id} {listed} on Lava's price list (the account was not asked)"
        yield Finding("model", "ok" if model.known else "note", said, advice)
    elif model.known:
        yield Finding("model", "ok", f"{id} is offered")
    else:
        unpriced = "Its prices are not in the catalogue; give them with add_model(…) to see costs."
        yield Finding("model", "note", f"{id} is offered", unpriced)


def _embedding() -> Iterator[Finding]:
    from lava_mistral.client.clients import LavaMistral

    answer = LavaMistral(timeout=_PATIENCE).embedding_request(["hello"])
    usage: Any = answer.response["usage"]
    cost = format_cost(cost_of(usage, DEFAULT_EMBEDDING_MODEL))
    said = f"{counted(usage['prompt_tokens'], 'token')} for {cost}, Lava request id {answer.request_id}"
    yield Finding("embedding", "ok", said)
