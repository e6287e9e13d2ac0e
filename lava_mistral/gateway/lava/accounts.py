"""Lava's side of the money: credentials, wallets, customers, plans and meters."""

import base64
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import orjson

from lava_mistral.gateway.options import Amount, Options, to_amount
from lava_mistral.gateway.request_log import RequestRecord
from lava_mistral.pricing.cost import cost_of

_CODES = {
    400: "invalid_request", 401: "unauthorized", 402: "insufficient_balance", 403: "forbidden", 404: "not_found",
    405: "method_not_allowed", 408: "request_timeout", 429: "rate_limit_exceeded",
}  # fmt: skip


class Refusal(Exception):
    """Lava itself refuses the request, with an HTTP status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        error = {"message": message, "code": _CODES.get(status, "internal_error"), "status": status}
        self.body = orjson.dumps({"error": error})


class Wallet:
    """The merchant's balance, `wallet.merchant`, and each customer's, `wallet["id"]`, in USD; both can be set."""

    def __init__(self, merchant: Amount, customers: Mapping[str, Amount]) -> None:
        self.merchant, self._customers = merchant, {name: to_amount(amount) for name, amount in customers.items()}

    @property
    def merchant(self) -> Decimal:
        return self._merchant

    @merchant.setter
    def merchant(self, balance: Amount) -> None:
        self._merchant = to_amount(balance)

    @property
    def customers(self) -> dict[str, Decimal]:
        """A copy of the customers' balances by id."""
        return dict(self._customers)

    def __getitem__(self, customer_id: str) -> Decimal:
        return self._customers[customer_id]

    def __setitem__(self, customer_id: str, balance: Amount) -> None:
        self._customers[customer_id] = to_amount(balance)


class Accounts:
    """Who may call and who pays.

    What no public source says is decided so: what does not exist, or is not on the customer's plan, is forbidden (403);
    a balance of zero or less refuses the next request (402), and one request may take it below zero. With an own
    provider key the merchant's wallet is neither asked nor charged; a customer's plan is, since it pays by the meter.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._secret_keys = (options.secret_key, *options.secret_keys)
        self._plans = options.customers or {}
        self.wallet = Wallet(options.balance, {name: plan.balance for name, plan in self._plans.items()})

    def authenticate(self, authorization: str | None) -> dict[str, Any]:
        """Return the credential that a request carries: the forward token's fields, or `{"secret_key": …}`."""
        scheme, _, token = (authorization or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Refusal(401, "Missing credential: send Authorization: Bearer with a secret key or a forward token")
        if token in self._secret_keys:
            return {"secret_key": token}
        held: Any = self._options.forward_tokens.get(token)
        if held is None:
            # A forward token is base64, standard alphabet and padded, of a JSON object.
            with suppress(ValueError):
                held = orjson.loads(base64.b64decode(token, validate=True))
        credential: dict[str, Any] = dict(held) if isinstance(held, Mapping) else {}
        if credential.get("secret_key") not in self._secret_keys:
            raise Refusal(401, "Invalid credential: the secret key or forward token is not known")
        for name in ("customer_id", "meter_slug", "provider_key"):
            if not isinstance(credential.get(name), str | None) or credential.get(name) == "":
                raise Refusal(400, f"Forward token: {name} must be a non-empty string")
        if not isinstance(credential.get("disable_billing"), bool | None):
            raise Refusal(400, "Forward token: disable_billing must be true or false")
        if credential.get("customer_id") is not None and credential.get("meter_slug") is None:
            raise Refusal(400, "Forward token: customer_id requires meter_slug")
        return credential

    def admit(self, credential: Mapping[str, Any]) -> None:
        """Check that the plan allows the request and that the payer has credit."""
        customer_id, meter, meters = credential.get("customer_id"), credential.get("meter_slug"), self._options.meters
        if meter is not None and meters is not None and meter not in meters:
            raise Refusal(403, f"Meter {meter!r} does not exist")
        if customer_id is not None:
            balance, plan = self.wallet.customers.get(customer_id), self._plans.get(customer_id)
            if balance is None and self._options.customers is None:
                balance = self.wallet[customer_id] = to_amount(self._options.customer_balance)
            if balance is None:
                raise Refusal(403, f"Customer {customer_id!r} does not exist or has no active plan")
            if plan is not None and plan.meters is not None and meter not in plan.meters:
                raise Refusal(403, f"Meter {meter!r} is not on the plan of customer {customer_id!r}")
            if credential.get("disable_billing"):
                customer_id = None
            elif balance <= 0:
                raise Refusal(402, f"Insufficient balance: the plan of customer {customer_id!r} has no credit")
        if customer_id is None and credential.get("provider_key") is None and self.wallet.merchant <= 0:
            raise Refusal(402, "Insufficient balance: the merchant's wallet has no credit")

    def settle(self, record: RequestRecord) -> None:
        if record.usage is None:
            return
        # A model without a known price is free here; its tokens are recorded all the same.
        record.cost = cost_of(record.usage, record.model) or Decimal(0)
        credential = record.credential
        customer_id = None if credential.get("disable_billing") else credential.get("customer_id")
        if customer_id is not None or credential.get("provider_key") is None:
            record.payer, record.charge = "merchant" if customer_id is None else "customer", record.cost
            if customer_id is None:
                self.wallet.merchant -= record.charge
            else:
                self.wallet[customer_id] -= record.charge

    def subscription(self, customer_id: str) -> dict[str, Any] | None:
        """Return a customer's plan and credits as Lava shows them; `None` for a customer who has none."""
        balance, plan = self.wallet.customers.get(customer_id), self._plans.get(customer_id)
        if balance is None:
            return None
        included = self._options.customer_balance if plan is None else plan.balance
        shown = {"name": "Local plan", "period_amount": "0", "billing_interval": "month", "included_credit": included}
        credits = {"total_remaining": balance, "cycle_remaining": balance, "bundle_remaining": "0"}
        named = {"subscription_id": f"sub_{customer_id}", "plan_id": "plan_local", "status": "active"}
        return {**named, "plan": shown, "credits": credits, "pending_change": None}
