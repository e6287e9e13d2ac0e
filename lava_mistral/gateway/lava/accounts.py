"""Lava's side of the money: credentials, wallets, customers, plans and meters."""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, TypeAlias

import orjson

from lava_mistral.gateway.records import RequestRecord
from lava_mistral.pricing.cost import cost_of

Amount: TypeAlias = Decimal | int | str
"""USD; never a float, which could not be exact."""


class Refusal(Exception):
    """Lava itself refuses the request.

    Args:
        status: the HTTP status.
        message: what the body says.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True)
class Customer:
    """One of the merchant's customers.

    Args:
        balance: USD on the customer's plan.
        meters: the meters that the plan holds; `None` for all of them.
    """

    balance: Amount = Decimal(100)
    meters: Collection[str] | None = None

    def __post_init__(self) -> None:
        to_amount(self.balance)
        check_texts("a customer's meters", self.meters)


class Wallet:
    """The merchant's balance and each customer's, in USD; safe to use from threads.

    `wallet["customer id"]` reads and sets a customer's balance, `wallet.merchant` or `wallet["merchant"]` the
    merchant's; a customer whose id is `"merchant"` is only among `wallet.customers`.
    """

    def __init__(self, merchant: Amount, customers: Mapping[str, Decimal]) -> None:
        self._lock = threading.Lock()
        self._merchant = to_amount(merchant)
        self._customers = dict(customers)

    def __repr__(self) -> str:
        return f"Wallet(merchant={self._merchant}, customers={self._customers})"

    @property
    def merchant(self) -> Decimal:
        """The merchant's balance."""
        return self._merchant

    @merchant.setter
    def merchant(self, balance: Amount) -> None:
        with self._lock:
            self._merchant = to_amount(balance)

    @property
    def customers(self) -> dict[str, Decimal]:
        """A copy of the customers' balances by id."""
        with self._lock:
            return dict(self._customers)

    def __getitem__(self, payer: str) -> Decimal:
        return self._merchant if payer == "merchant" else self._customers[payer]

    def __setitem__(self, payer: str, balance: Amount) -> None:
        if payer == "merchant":
            self.merchant = balance
        else:
            with self._lock:
                self._customers[payer] = to_amount(balance)

    def __contains__(self, payer: object) -> bool:
        return payer == "merchant" or payer in self._customers

    def of(self, customer_id: str) -> Decimal | None:
        """A customer's balance, whatever the id; `None` where there is no such customer."""
        return self._customers.get(customer_id)

    def charge(self, amount: Decimal, customer_id: str | None = None) -> None:
        """Take an amount from the customer's balance, or the merchant's; it may fall below zero."""
        with self._lock:
            if customer_id is None:
                self._merchant -= amount
            else:
                self._customers[customer_id] -= amount

    def open(self, customer_id: str, balance: Decimal) -> None:
        """Give a customer who is not known yet a balance."""
        with self._lock:
            self._customers.setdefault(customer_id, balance)


class Accounts:
    """Who may call and who pays.

    What no public source says is decided so: an unknown customer or meter is forbidden (403), like a meter that
    is not on the customer's plan; a balance of zero or less refuses the next request (402), and one request may
    take it below zero. With an own provider key the tokens are paid to Mistral: the merchant's wallet is neither
    asked nor charged; a customer's plan is, because it pays by the meter and not by the key.

    Args:
        secret_keys: those that are accepted.
        forward_tokens: opaque tokens and the credential that each stands for.
        balance: the merchant's, in USD.
        customers: those that exist, with a balance or a `Customer`; `None` lets any customer in.
        customer_balance: what a customer begins with who is let in by that.
        meters: those that exist; `None` for any.
    """

    def __init__(
        self,
        *,
        secret_keys: Iterable[str],
        forward_tokens: Mapping[str, Mapping[str, Any]],
        balance: Amount,
        customers: Mapping[str, Customer | Amount] | None,
        customer_balance: Amount,
        meters: Collection[str] | None,
    ) -> None:
        self._secret_keys = frozenset(secret_keys)
        self._opaque = {token: dict(credential) for token, credential in forward_tokens.items()}
        self._open = customers is None
        self._customers = {
            name: value if isinstance(value, Customer) else Customer(balance=value)
            for name, value in (customers or {}).items()
        }
        self._customer_balance = to_amount(customer_balance)
        self._meters = meters
        self.wallet = Wallet(balance, {name: to_amount(customer.balance) for name, customer in self._customers.items()})

    def authenticate(self, authorization: str | None) -> dict[str, Any]:
        """The credential that a request carries: the forward token's fields, or `{"secret_key": …}`.

        Raises:
            Refusal: 401 where it is missing or not accepted, 400 for a customer without a meter.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refusal(401, "Missing credential: send Authorization: Bearer with a secret key or a forward token")
        token = token.strip()
        if token in self._secret_keys:
            return {"secret_key": token}
        credential = self._opaque.get(token) or _decode(token)
        key = None if credential is None else credential.get("secret_key")
        if credential is None or not isinstance(key, str) or key not in self._secret_keys:
            raise Refusal(401, "Invalid credential: the secret key or forward token is not known")
        _check_fields(credential)
        return credential

    def admit(self, credential: Mapping[str, Any]) -> None:
        """Check that the plan allows the request and that the payer has credit.

        Raises:
            Refusal: 403 or 402.
        """
        customer_id, meter = credential.get("customer_id"), credential.get("meter_slug")
        if meter is not None and self._meters is not None and meter not in self._meters:
            raise Refusal(403, f"Meter {meter!r} does not exist")
        if customer_id is not None:
            if self.wallet.of(customer_id) is None:
                if not self._open:
                    raise Refusal(403, f"Customer {customer_id!r} does not exist or has no active plan")
                self.wallet.open(customer_id, self._customer_balance)
            plan = self._customers.get(customer_id)
            if plan is not None and plan.meters is not None and meter not in plan.meters:
                raise Refusal(403, f"Meter {meter!r} is not on the plan of customer {customer_id!r}")
            if not credential.get("disable_billing"):
                if (self.wallet.of(customer_id) or 0) <= 0:
                    raise Refusal(402, f"Insufficient balance: the plan of customer {customer_id!r} has no credit")
                return
        if credential.get("provider_key") is None and self.wallet.merchant <= 0:
            raise Refusal(402, "Insufficient balance: the merchant's wallet has no credit")

    def settle(self, record: RequestRecord) -> None:
        """Work out what the record's usage cost and take it from whoever pays."""
        if record.usage is None:
            return
        # A model without a known price is free here; its tokens are recorded all the same.
        record.cost = cost_of(record.usage, record.model) or Decimal(0)
        credential = record.credential
        customer_id = credential.get("customer_id")
        if customer_id is not None and not credential.get("disable_billing"):
            record.payer, record.charge = "customer", record.cost
            self.wallet.charge(record.charge, customer_id)
        elif credential.get("provider_key") is None:
            record.payer, record.charge = "merchant", record.cost
            self.wallet.charge(record.charge)


def _decode(token: str) -> dict[str, Any] | None:
    """A forward token is base64, standard alphabet and padded, of a JSON object."""
    try:
        value = orjson.loads(base64.b64decode(token, validate=True))
    except (binascii.Error, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _check_fields(credential: Mapping[str, Any]) -> None:
    for name in ("customer_id", "meter_slug", "provider_key"):
        value = credential.get(name)
        if value is not None and (not isinstance(value, str) or not value):
            raise Refusal(400, f"Forward token: {name} must be a non-empty string")
    if not isinstance(credential.get("disable_billing", False), bool | None):
        raise Refusal(400, "Forward token: disable_billing must be true or false")
    if credential.get("customer_id") is not None and credential.get("meter_slug") is None:
        raise Refusal(400, "Forward token: customer_id requires meter_slug")


def to_amount(value: Amount) -> Decimal:
    """USD as an exact number.

    Raises:
        TypeError: it is a float, or nothing that holds a number.
        ValueError: it is a text that holds none.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int | str):
        raise TypeError(
            f'a balance is a Decimal, an int or a str such as "12.50", not the {type(value).__name__} {value!r}'
        )
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite():
        raise ValueError(f'a balance is an amount such as "12.50", not {str(value)!r}')
    return amount


def check_texts(what: str, given: Collection[str] | None) -> None:
    """Check that a collection holds texts and is none itself, of which every letter would be a member.

    Raises:
        TypeError: it is something else.
    """
    if given is None:
        return
    if isinstance(given, str | bytes) or not isinstance(given, Collection):
        raise TypeError(f"{what} are a list of texts, not {given!r}")
    for member in given:
        if not isinstance(member, str) or not member:
            raise TypeError(f"{what} are texts that are not empty, not {member!r}")


def countable(usage: Mapping[str, Any]) -> bool:
    """Whether every count in a usage is a whole number, or left out."""
    details = [usage.get(name) for name in ("prompt_tokens_details", "prompt_token_details")]
    if not all(detail is None or isinstance(detail, Mapping) for detail in details):
        return False
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens", "num_cached_tokens")]
    counts += [detail.get("cached_tokens") for detail in details if detail is not None]
    return all(count is None or (type(count) is int and count >= 0) for count in counts)
