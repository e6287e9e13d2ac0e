"""`lava-mistral doctor`: what keeps a call from working, and what to do about it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.markup import escape

from lava_mistral.billing.credentials import (
    FIELDS,
    PRODUCTION_URL,
    check_base_url,
    decode_forward_token,
    is_loopback,
    resolve_access,
)
from lava_mistral.billing.scope import requires_customer
from lava_mistral.calls.error_mapping import redact
from lava_mistral.cli.output import JsonOption, counted, print_json
from lava_mistral.client.clients import LavaMistral
from lava_mistral.client.price_list import fetch_price_list
from lava_mistral.defaults import DEFAULT_CHAT_MODEL
from lava_mistral.errors import TOP_UP, ConfigurationError, InsufficientBalanceError, LavaError
from lava_mistral.pricing.amounts import format_cost
from lava_mistral.pricing.catalog import get_model, nearest_model
from lava_mistral.transport.environment import proxy_for, ssl_context
from lava_mistral.transport.request import parse_url

Outcome = Literal["failed", "note", "skipped", "ok"]
Found: TypeAlias = Iterator[tuple[Outcome, str, str]]
"""What a check finds: an outcome, what is so (nothing secret), and what to do about it."""

_STYLES: Final[dict[Outcome, str]] = {"failed": "bold red", "note": "yellow", "skipped": "dim", "ok": "green"}
_KINDS: Final = {"aks_live_": "production", "aks_test_": "sandbox"}
_HOST: Final = re.compile(r"(sandbox-)?api\.(lava\.so|lavapayments\.com)")
_FOR_CALLS: Final = {"key", "base URL", "network", "credential", "wallet"}
_PATIENCE: Final = 15.0  # seconds for a question to the network
_LONGEST: Final = 240  # characters of a message
_OWN_NAME: Final = re.compile(r"; `lava-mistral doctor` tests [^.]*")  # said to those who have not run it yet


def doctor(
    model: Annotated[str, typer.Option("--model", "-m", help="The model you want to use.")] = DEFAULT_CHAT_MODEL,
    json: JsonOption = False,
) -> None:
    """Check that key, network and model are right, and say what to do if not. It costs nothing."""
    order = list(_STYLES)
    findings = sorted(_examine(model), key=lambda finding: order.index(finding[1]))
    failed = findings[0][1] == "failed"
    if json:
        names = ("check", "outcome", "detail", "advice")
        print_json({"ok": not failed, "findings": [dict(zip(names, finding, strict=True)) for finding in findings]})
    else:
        console = Console(soft_wrap=True, highlight=False)
        for check, outcome, detail, advice in findings:
            said = f"{detail} → {advice}" if advice else detail
            console.print(f"[{_STYLES[outcome]}]{outcome:<8}[/] [bold]{check}[/bold]: {escape(said)}")
    raise typer.Exit(1 if failed else 0)


def _examine(model: str) -> Iterator[tuple[str, Outcome, str, str]]:
    """Make one check after the other; those that call Lava are skipped where what they need has failed."""
    offered: set[str] = set()
    checks: dict[str, Callable[[], Found]] = {
        "customer": _customer,
        "key": _key,
        "base URL": _base_url,
        "proxy": _proxy,
        "certificates": _certificates,
        "network": _network,
        "credential": lambda: _credential(offered),
        "wallet": _wallet,
        "model": lambda: _model(model, offered),
    }
    failed: set[str] = set()
    found: list[tuple[Outcome, str, str]]
    for name, check in checks.items():
        try:
            missing = sorted(failed & _FOR_CALLS) if name in ("credential", "wallet") else ()
            needs = f"needs {' and '.join(missing)} to be right"
            found = [("skipped", needs, "")] if missing else list(check())
        except LavaError as error:
            found = [("failed", error.message, error.advice)]
        except Exception as error:  # noqa: BLE001  # the user asked what is wrong, and a traceback is no answer
            found = [("failed", f"{type(error).__name__}: {error}", "")]
        for outcome, detail, advice in found:
            if outcome == "failed":
                failed.add(name)
            yield name, outcome, _clean(detail), _clean(advice)


def _clean(text: str) -> str:
    """Return a text on one line, without credentials; a web server that is no Lava answers with a whole page."""
    text = _OWN_NAME.sub("", redact(" ".join(text.split())))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _customer() -> Found:
    if requires_customer():
        del os.environ["LAVA_REQUIRE_CUSTOMER"]  # the checks name no customer
        said = "LAVA_REQUIRE_CUSTOMER is on: calls that name no customer are refused; the checks are made without it"
        yield "ok", said, ""


def _key() -> Found:
    """Say what kind of credential is set, without any part of it that is secret."""
    value = resolve_access(base_url=PRODUCTION_URL).key
    names = [name for name in ("LAVA_FORWARD_TOKEN", "LAVA_SECRET_KEY") if os.environ.get(name)]
    name, length = names[0], counted(len(value), "character")
    also = f"; {names[1]} is set too and not used" if len(names) > 1 else ""
    fields = decode_forward_token(value)
    if fields is not None and fields.get("customer_id") and not fields.get("meter_slug"):
        advice = "Make it again with both: Billing(customer_id=…, meter_slug=…).forward_token(secret_key)."
        yield "failed", f"{name} holds a token with a customer_id and no meter_slug, which Lava refuses", advice
    elif name == "LAVA_FORWARD_TOKEN" and fields is None:
        yield "ok", f"{name}: an opaque forward token ({length}), passed on as it is{also}", ""
    elif name == "LAVA_FORWARD_TOKEN":
        held = ", ".join(field for field in FIELDS if fields and fields.get(field))
        yield "ok", f"{name}: a forward token {f'with {held}' if held else 'of the merchant'}{also}", ""
    elif kind := _KINDS.get(value[:9]):
        yield "ok", f"{name}: {value[:9]}… ({length}), a {kind} key", ""
    elif fields is not None:
        yield "note", f"{name} holds a forward token", "It works; its own name is LAVA_FORWARD_TOKEN."
    else:
        advice = "A secret key starts with aks_live_ or aks_test_; a forward token belongs into LAVA_FORWARD_TOKEN."
        yield "note", f"{name} does not look like a secret key ({length})", advice


def _address() -> str:
    """Return the base URL of calls; without a usable key, that of the environment or production."""
    try:
        return resolve_access().base_url
    except ConfigurationError:
        return check_base_url(os.environ.get("LAVA_BASE_URL") or PRODUCTION_URL)


def _base_url() -> Found:
    address, given = _address(), bool(os.environ.get("LAVA_BASE_URL"))
    key = os.environ.get("LAVA_FORWARD_TOKEN") or os.environ.get("LAVA_SECRET_KEY") or ""
    kind = _KINDS.get(str((decode_forward_token(key) or {}).get("secret_key", key))[:9])
    host = urlsplit(address).hostname or ""
    lava = _HOST.fullmatch(host)
    place = "sandbox" if lava and lava[1] else "production"
    if kind and lava and kind != place:
        what = f"LAVA_BASE_URL names {place} ({address}), and the key is one of {kind}"
        yield "failed", what, f"Unset LAVA_BASE_URL, or take a key of {place}."
    elif not address.endswith("/v1"):
        yield "note", f"{address} does not end in /v1", f"Lava's own is {PRODUCTION_URL}."
    else:
        said = f"{address} ({'from LAVA_BASE_URL' if given else 'by the kind of the key'})"
        if is_loopback(host):
            said += "; it is on this machine, so that it may be a simulated gateway, whose answers are not Mistral's"
        yield "ok", said, ""


def _proxy() -> Found:
    proxy = proxy_for(*parse_url(_address())[:2])
    if proxy is not None:
        said = f"calls go through {proxy.host}:{proxy.port}, by HTTPS_PROXY, ALL_PROXY or the system's settings"
        yield "ok", said, ""


def _certificates() -> Found:
    given = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    if _address().startswith("https://"):
        ssl_context()
        yield "ok", f"those of {' and '.join(given) or 'certifi'} can be read", ""
    if os.environ.get("REQUESTS_CA_BUNDLE") and not given:
        yield "note", "REQUESTS_CA_BUNDLE is set and not read", "Give the same file as SSL_CERT_FILE."


def _network() -> Found:
    """Ask for the public price list, the way that calls take; no credential is sent."""
    address = _address()
    parts, began = urlsplit(address), time.monotonic()
    try:
        fetch_price_list(address, _PATIENCE)
    except LavaError as error:
        if error.status_code is None:
            advice = "Check the connection, a firewall, a proxy in HTTPS_PROXY, and LAVA_BASE_URL if you set it."
            if is_loopback(parts.hostname or ""):
                advice = f"Is a gateway running there? Start one: lava-mistral gateway --port {parts.port or 80}"
            yield "failed", f"{address} can't be reached: {error.message}", advice
            return
    yield "ok", f"{parts.hostname} answers ({(time.monotonic() - began) * 1000:.0f} ms)", ""


def _credential(offered: set[str]) -> Found:
    """Ask for the models that are offered, which costs nothing and shows whether the credential is accepted."""
    try:
        offered |= {card["id"] for card in LavaMistral(timeout=_PATIENCE, max_retries=1).models()}
        yield "ok", f"accepted; Mistral lists {counted(len(offered), 'model')} through it", ""
    except InsufficientBalanceError:
        yield "ok", "accepted, but who is to pay has no credit", ""
    except LavaError as error:
        yield "failed", error.message, error.advice or "Look it up in Lava's dashboard."


def _wallet() -> Found:
    try:
        balance = LavaMistral(timeout=_PATIENCE, max_retries=1).wallet().balance
    except LavaError as error:
        yield "skipped", f"its balance can't be asked for: {error.message}", ""
        return
    advice = "" if balance > 0 else f"Calls that no customer pays for are refused: top up at {TOP_UP}."
    yield "failed" if advice else "ok", f"{format_cost(balance)} left", advice


def _model(id: str, offered: set[str]) -> Found:
    """Say what is known of a model; nothing is `offered` where the account could not be asked."""
    model = get_model(id)
    advice = "" if model.known else "`lava-mistral models` lists those that Lava bills."
    if near := None if model.known else nearest_model(id):
        advice = f"Did you mean {near}? {advice}"
    if offered and id not in offered:
        yield "failed", model.notice or f"{id} is not offered", advice
    elif model.notice:
        yield "note", model.notice, ""
    elif offered:
        unpriced = "Its prices are not in the catalogue; give them with add_model(…) to see costs."
        yield "ok" if model.known else "note", f"{id} is offered", "" if model.known else unpriced
    else:
        said = f"{id} is {'' if model.known else 'not '}on Lava's price list (the account was not asked)"
        yield "ok" if model.known else "note", said, advice
