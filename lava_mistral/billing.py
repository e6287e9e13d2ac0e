"""Who pays for a call: the credential, the billing identity, and the metadata that Lava stores with it."""

from __future__ import annotations

import base64
import gc
import inspect
import json
import os
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial, wraps
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Protocol, TypeAlias, TypeVar, cast, runtime_checkable
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from typing_extensions import Self

from lava_mistral.errors import ConfigurationError
from lava_mistral.processes import feeds_processes, runs_alone, works_for_a_pool
from lava_mistral.spend import Amount, SpendLimit, to_limit

_F = TypeVar("_F", bound=Callable[..., Any])

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
    # Plain text first: asking a protocol costs more than all the rest.
    if not isinstance(value, str) and isinstance(value, SecretValue):
        value = value.get_secret_value()
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


@dataclass(frozen=True)
class Billing:
    """Whom Lava charges for a call, and whose Mistral key it uses.

    Without any field the merchant's own wallet pays. The combinations are those of Lava's forward token:

    - `meter_slug`: usage is tracked on the meter, the merchant pays;
    - `customer_id` and `meter_slug`: the customer's plan pays;
    - these two and `disable_billing=True`: tracked for the customer, whose plan is still enforced; the merchant pays;
    - `provider_key` beside any of them: the call runs on your own Mistral key, Lava still meters it.

    Args:
        customer_id: Lava's id of the customer.
        meter_slug: the meter that the usage counts on.
        provider_key: your own Mistral key: text, a `SecretStr`, or a function returning it, called for every request,
            for keys that rotate. Nothing that prints or walks this object shows it.
        disable_billing: track the customer without charging them.

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
                raise ConfigurationError(f"Billing({name}=…) must be non-empty text, not {value!r}.")
        if self.customer_id is not None and self.meter_slug is None:
            raise ConfigurationError(
                "Billing(customer_id=…) needs the meter that the usage counts on: "
                f'write Billing(customer_id={self.customer_id!r}, meter_slug="your-meter").'
            )
        if self.disable_billing is not None and not isinstance(self.disable_billing, bool):
            raise ConfigurationError(f"Billing(disable_billing=…) must be a bool, not {self.disable_billing!r}.")
        if self.disable_billing and self.customer_id is None:
            raise ConfigurationError(
                "Billing(disable_billing=True) means something only for a customer: write "
                'Billing(customer_id="…", meter_slug="…", disable_billing=True), or leave it out: '
                "without a customer the merchant pays anyway."
            )
        if self.provider_key is not None and not callable(self.provider_key):
            reveal(self.provider_key, "provider_key")
        object.__setattr__(self, "provider_key", hidden(self.provider_key))

    def forward_token(self, secret_key: str) -> str:
        """The forward token for this identity: what goes into the `Authorization` header.

        Byte for byte what Lava's Node SDK builds from the same fields: compact JSON in the order secret_key,
        customer_id, meter_slug, provider_key, disable_billing without the absent ones, in padded standard base64.

        Args:
            secret_key: Lava's secret key (`aks_live_…` or `aks_test_…`).
        """
        fields: dict[str, Any] = {
            "secret_key": reveal(secret_key, "secret_key"),
            "customer_id": self.customer_id,
            "meter_slug": self.meter_slug,
            "provider_key": None if self.provider_key is None else reveal(self.provider_key, "provider_key"),
            "disable_billing": self.disable_billing,
        }
        present = {name: value for name, value in fields.items() if value is not None}
        text = json.dumps(present, ensure_ascii=False, separators=(",", ":"))
        # JavaScript escapes a lone surrogate as \udXXX; Python would refuse to encode it.
        text = re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)
        return base64.b64encode(text.encode()).decode("ascii")

    def over(self, token: Billing) -> Billing:
        """This identity with what the credential says, where that is a forward token, under it.

        A customer named here brings a meter and a switch of its own, whatever the token says of another customer.
        """
        if token is MERCHANT:
            return self
        names = ("provider_key",) if self.customer_id is not None else _FIELDS
        left = {name: getattr(token, name) for name in names if getattr(self, name) is None}
        return replace(self, **left)

    @property
    def payer(self) -> str:
        """Who pays, in words, for errors."""
        if self.customer_id is not None:
            who = f"customer {self.customer_id!r} on meter {self.meter_slug!r}"
            return f"the merchant's wallet (tracked for {who})" if self.disable_billing else f"the plan of {who}"
        return (
            "the merchant's wallet"
            if self.meter_slug is None
            else f"the merchant's wallet, on meter {self.meter_slug!r}"
        )


MERCHANT = Billing()
"""The merchant's own wallet pays."""

_FIELDS = ("customer_id", "meter_slug", "provider_key", "disable_billing")


def to_billing(value: Any) -> Billing | None:
    """Who pays, from what a setting says: a `Billing`, or its fields in a dictionary, as a configuration file has them.

    Raises:
        ConfigurationError: it is neither, or a combination that Lava refuses.
    """
    if value is None or isinstance(value, Billing):
        return value
    if isinstance(value, Mapping):
        if unknown := sorted(set(map(str, value)) - set(_FIELDS)):
            raise ConfigurationError(f"Billing has no {', '.join(unknown)}; its fields are {', '.join(_FIELDS)}.")
        return Billing(**value)
    raise ConfigurationError(
        f"billing= takes a Billing, or its fields in a dictionary, not {type(value).__name__}: write "
        'Billing(customer_id="…", meter_slug="…").'
    )


@dataclass(frozen=True)
class Scope:
    """What the enclosing `billed_to` blocks add up to.

    Attributes:
        outer: what they added up to before the innermost of them was entered.
        owner: the innermost of them.
    """

    customer_id: str | None = None
    meter_slug: str | None = None
    provider_key: Secret | None = field(default=None, repr=False)
    disable_billing: bool | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[SpendLimit, ...] = ()
    outer: Scope | None = field(default=None, repr=False)
    owner: object = field(default=None, repr=False)

    def over(self, billing: Billing) -> Billing:
        """`billing` with the fields that this scope names put over its own."""
        given = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        return replace(billing, **given) if given else billing

    def within(self, outer: Scope | None, owner: object) -> Scope:
        """This scope with what an outer one says beside it."""
        if outer is None:
            return replace(self, owner=owner)
        given = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        metadata = {**outer.metadata, **self.metadata}
        return replace(
            outer, **given, metadata=metadata, limits=(*self.limits, *outer.limits), outer=outer, owner=owner
        )


_scope: ContextVar[Scope | None] = ContextVar("lava_mistral_billed_to", default=None)
# Every scope that some thread, task or copied context of this process is in.
_entered: WeakValueDictionary[int, Scope] = WeakValueDictionary()
# Those that the main thread is in, outside of event loops: it does nothing else until it has left them.
_in_charge: list[Scope] = []
# The scope in which this process was forked.
_inherited: Scope | None = None


def _after_fork() -> None:
    global _inherited
    _inherited = present_scope()
    _scope.set(_inherited)
    _entered.clear()
    if _inherited is not None:
        _entered[id(_inherited)] = _inherited
    if not _in_charge or _in_charge[-1] is not _inherited:
        _in_charge.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def present_scope() -> Scope | None:
    """What the blocks around this point add up to.

    A forked process is still in the blocks that it was started in. One of a pool is in none: it outlives them, and its
    tasks come from anywhere.
    """
    scope = _scope.get()
    return None if scope is None or _is_left(scope) else scope


def _is_left(scope: Scope) -> bool:
    return scope is _inherited and works_for_a_pool()


@contextmanager
def in_scope(scope: Scope | None) -> Iterator[None]:
    """A block in which calls are made as where the scope was taken, whatever is around it."""
    outer = _scope.get()
    _scope.set(scope)
    try:
        yield
    finally:
        _scope.set(outer)


class billed_to:
    """Bill every call made inside the block to a customer, whatever makes the call.

    The block holds for chains, agents, tools, retrievers and workflows of both frameworks, for tasks, and for the
    threads that the frameworks start. A thread pool of your own copies it with
    `pool.submit(contextvars.copy_context().run, function)`. A model that is sent to a pool of processes, as
    `num_workers=` of LlamaIndex's pipelines does, takes the block along where the main thread is in it; wait for the
    results inside the block, since a pool may send a task long after it was given it. Where a block is open in an event
    loop or in another thread, nobody can see from which one the model was sent: an error then asks for `billing=` on
    the model.

    Blocks nest: an inner one wins, field by field. `billing=` given to a single call wins over all blocks; a block wins
    over `billing=` on the model, which is also where LangChain's `configurable_fields` put it. A stream of a model is
    billed to where it was asked for; one of a LangChain chain, or of a LlamaIndex query engine with `streaming=True`,
    to where it is read, since only then they ask the model.

    It decorates functions, coroutine functions and generators too. A generator is the one place where it must: a `with`
    block around a `yield` would hold for whoever takes the values, and be lost where each is taken in a context of its
    own, as web servers do. Decorated, it holds for the generator's own steps alone.

    Args:
        customer_id: Lava's id of the customer who pays; needs a meter here, in an outer block or on the model.
        meter_slug: the meter that the usage counts on.
        metadata: stored by Lava with each request; merged over the outer blocks' metadata.
        provider_key: your own Mistral key for these calls.
        disable_billing: track the customer without charging them.
        spend_limit: USD that all calls in the block may cost together, or a `SpendLimit` to share; the limits of the
            outer blocks and of the models hold too. A call that could pass one is refused before it is sent.

    Attributes:
        spend_limit: the block's limit, which says what is spent and left; `None` without one. Entering the same block
            again, also in several threads or tasks at once, goes on with it.

    Raises:
        ConfigurationError: on construction, for metadata that Lava refuses; on the first call, for an identity that
            is incomplete.
    """

    def __init__(
        self,
        customer_id: str | None = None,
        meter_slug: str | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        provider_key: Secret | None = None,
        disable_billing: bool | None = None,
        spend_limit: Amount | SpendLimit | None = None,
    ) -> None:
        self.spend_limit = to_limit(spend_limit)
        self._inner = Scope(
            customer_id=customer_id,
            meter_slug=meter_slug,
            provider_key=hidden(provider_key),
            disable_billing=disable_billing,
            metadata=check_metadata(metadata),
            limits=() if self.spend_limit is None else (self.spend_limit,),
        )

    def __enter__(self) -> Self:
        scope = self._inner.within(present_scope(), self)
        _entered[id(scope)] = scope
        if runs_alone():
            _in_charge.append(scope)
        _scope.set(scope)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for scope in reversed(tuple(_in_charge)):
            if scope.owner is self:
                with suppress(ValueError):
                    _in_charge.remove(scope)
                break
        present = _scope.get()
        # A generator may be closed in another context than it was entered in; there is nothing to leave there.
        if present is not None and present.owner is self:
            _scope.set(present.outer)

    def __call__(self, function: _F) -> _F:
        """Bill every call made inside the function: a plain one, a coroutine function or a generator of either kind.

        What a plain function returns is part of it where it is a coroutine or a generator.
        """
        made: Any
        if inspect.iscoroutinefunction(function):

            async def made(*args: Any, **kwargs: Any) -> Any:
                return await _awaited(self, function(*args, **kwargs))

        elif inspect.isgeneratorfunction(function):
            made = stepped(lambda: self, function)
        elif inspect.isasyncgenfunction(function):
            made = astepped(lambda: self, function)
        else:

            def made(*args: Any, **kwargs: Any) -> Any:
                with self:
                    result = function(*args, **kwargs)
                if inspect.iscoroutine(result):
                    return _awaited(self, result)
                if inspect.isgenerator(result):
                    return stepped(lambda: self, lambda: result)()
                return astepped(lambda: self, lambda: result)() if inspect.isasyncgen(result) else result

        return cast("_F", wraps(function)(made))


async def _awaited(block: billed_to, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with block:
        return await coroutine


def stepped(
    block: Callable[[], AbstractContextManager[Any]], function: Callable[..., Generator[Any, Any, Any]]
) -> Callable[..., Any]:
    """The generator function, each of whose steps is taken inside a block, and none of its consumer's (PEP 380)."""

    def made(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Any] = partial(next, generator)
        try:
            while True:
                try:
                    with block():
                        value = step()
                except StopIteration as end:
                    return end.value
                try:
                    step = partial(generator.send, (yield value))
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                    step = partial(generator.throw, error)
        finally:
            with block():
                generator.close()

    return made


def astepped(
    block: Callable[[], AbstractContextManager[Any]], function: Callable[..., AsyncGenerator[Any, Any]]
) -> Callable[..., Any]:
    """The async generator function, each of whose steps is taken inside a block; see `stepped`."""

    async def made(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = function(*args, **kwargs)
        step: Callable[[], Awaitable[Any]] = partial(anext, generator)
        try:
            while True:
                try:
                    with block():
                        value = await step()
                except StopAsyncIteration:
                    return
                try:
                    step = partial(generator.asend, (yield value))
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001 - it is the generator's to handle
                    step = partial(generator.athrow, error)
        finally:
            with block():
                await generator.aclose()

    return made


@dataclass(frozen=True)
class Identity:
    """What one call is sent with: who pays, the metadata stored with it, and the limits that it draws on."""

    billing: Billing = MERCHANT
    metadata: Mapping[str, str] = field(default_factory=dict)
    limits: tuple[SpendLimit, ...] = ()


def identify(
    billing: Billing | None,
    metadata: Mapping[str, str] | None,
    *,
    call_billing: Billing | None = None,
    call_metadata: Mapping[str, str] | None = None,
    limit: SpendLimit | None = None,
    api_key: Secret | None = None,
) -> Identity:
    """The identity of a call made now: the model's settings, under the enclosing blocks, under the call's own.

    Below all of them lies what a forward token says that is itself the credential. `call_billing` replaces the
    customer, meter and switch as one; the provider key falls through where it names none. All limits hold, the
    innermost first: those of the blocks, then `limit`, the model's.
    """
    scope = present_scope()
    base = credential_billing(api_key)
    if billing is not None:
        base = billing.over(base)
    if call_billing is not None:
        provider_key = (scope.provider_key if scope is not None else None) or base.provider_key
        base = call_billing
        if base.provider_key is None and provider_key is not None:
            base = replace(base, provider_key=provider_key)
    elif scope is not None:
        base = scope.over(base)
    merged = dict(metadata) if metadata else {}
    if scope is not None:
        merged.update(scope.metadata)
    if call_metadata:
        merged.update(check_metadata(call_metadata))
    if len(merged) > 100:
        check_metadata(merged)
    limits = () if scope is None else scope.limits
    if limit is not None:
        limits = (*limits, limit)
    return Identity(base, merged, tuple(dict.fromkeys(limits)) if len(limits) > 1 else limits)


def carried(
    billing: Billing | None, metadata: Mapping[str, str] | None, limit: SpendLimit | None = None
) -> tuple[Billing | None, Mapping[str, str] | None]:
    """Who pays for what a copy does in another process, and its metadata: those of the blocks around its pickling.

    Blocks don't reach another process, and the copy's calls must not go to another wallet than they would here.

    Args:
        billing: the model's own.
        metadata: the model's own.
        limit: the model's own.

    Raises:
        ConfigurationError: a block sets a spend limit, which processes can't share; or a pool pickles the model in a
            thread of its own, where it can't be seen from which block it was sent.
    """
    scope = _sender(billing, metadata, limit) if feeds_processes() else present_scope()
    if scope is None:
        return billing, metadata
    if scope.limits:
        raise ConfigurationError(
            "A spend limit of a billed_to block can't be kept in another process, where this model is about to be "
            "sent (it is being pickled). Give spend_limit= to the model itself, which each process then counts on its "
            "own, or use threads or tasks."
        )
    with in_scope(scope):
        identity = identify(billing, metadata)
    return identity.billing, identity.metadata


def _sender(billing: Billing | None, metadata: Mapping[str, str] | None, limit: SpendLimit | None) -> Scope | None:
    """The scope from which a pool was sent the model that it pickles here, in a thread of its own.

    It is certain where one scope alone is open and the main thread is in it, outside of an event loop. It does not
    matter where the model itself says who pays.

    Raises:
        ConfigurationError: it matters and nobody knows.
    """
    scopes = _innermost()
    if _unsaid(scopes, billing, metadata, limit) is not None or len(scopes) > 1:
        # What was left behind by a failed call may still hold a scope that is over.
        del scopes
        gc.collect()
        scopes = _innermost()
    if len(scopes) == 1 and _in_charge and scopes[0] is _in_charge[-1]:
        return scopes[0]
    if (why := _unsaid(scopes, billing, metadata, limit)) is not None:
        raise ConfigurationError(why)
    return None


def _innermost() -> list[Scope]:
    """The scopes of this process that no other scope lies in."""
    scopes = [scope for reference in _entered.valuerefs() if (scope := reference()) is not None]
    outer = {id(scope.outer) for scope in scopes}
    return [scope for scope in scopes if id(scope) not in outer and not _is_left(scope)]


def _unsaid(
    scopes: Iterable[Scope], billing: Billing | None, metadata: Mapping[str, str] | None, limit: SpendLimit | None
) -> str | None:
    """Why it matters from which of the scopes, or from none, a model was sent.

    A model that names a customer, or the merchant by a plain `Billing()`, says itself who pays.
    """
    said = billing is not None and (billing.customer_id is not None or billing == MERCHANT)
    own = (billing or MERCHANT, metadata or {})
    for scope in scopes:
        if scope.limits and limit is None:
            return (
                "A billed_to block with a spend limit is open, and can't be kept in a pool of processes, where this "
                "model is about to be sent. Give spend_limit= to the model itself, which each process then counts on "
                "its own, or use threads or tasks."
            )
        if not said and (scope.over(own[0]), {**own[1], **scope.metadata}) != own:
            return (
                "A pool of processes pickles this model in a thread of its own, from where it can't be seen whether "
                "it was sent from a billed_to block, and so who shall pay. Say it on the model itself: "
                "billing=Billing(customer_id=…, meter_slug=…), or billing=Billing() for your own wallet, and "
                "lava_metadata=; or let it work in this process."
            )
    return None


def carried_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A model's fields for pickling; see `carried`.

    Args:
        fields: `billing`, `lava_metadata` and `spend_limit` among them.
    """
    billing, metadata = carried(fields.get("billing"), fields.get("lava_metadata"), fields.get("spend_limit"))
    return {**fields, "billing": billing, "lava_metadata": metadata}


_METADATA_KEY = re.compile(r"[A-Za-z0-9_]{1,255}\Z")


def check_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """A copy of the metadata, checked by Lava's rules (gateway/forward-proxy in Lava's documentation).

    Args:
        metadata: at most 100 pairs; keys of ASCII letters, digits and underscores; keys and values text of 1 to 255
            characters.

    Raises:
        ConfigurationError: it breaks a rule; the message names the key.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise ConfigurationError(f"Lava metadata must be a mapping of text to text, not {type(metadata).__name__}.")
    if len(metadata) > 100:
        raise ConfigurationError(f"Lava stores at most 100 metadata pairs with a request; these are {len(metadata)}.")
    for key, value in metadata.items():
        if not isinstance(key, str) or not _METADATA_KEY.match(key):
            raise ConfigurationError(f"The metadata key {key!r} must be 1 to 255 ASCII letters, digits or underscores.")
        if not isinstance(value, str):
            raise ConfigurationError(
                f"The metadata value of {key!r} must be text, not {type(value).__name__}: write str(…)."
            )
        if not 1 <= len(value) <= 255:
            raise ConfigurationError(
                f"The metadata value of {key!r} must have 1 to 255 characters; it has {len(value)}."
            )
    return dict(metadata)


@dataclass(frozen=True)
class Access:
    """A resolved credential: where calls go, and what proves who we are."""

    key: str = field(repr=False)
    base_url: str = PRODUCTION_URL

    @property
    def secret_key(self) -> str:
        """The secret key: the credential itself, or the one in a forward token.

        Raises:
            ConfigurationError: the credential is an opaque forward token.
        """
        return _secret_key_of(self.key)

    def bearer(self, billing: Billing) -> str:
        """The value after `Bearer ` for a call billed like this.

        Raises:
            ConfigurationError: the credential is an opaque forward token, which says itself who pays, and `billing`
                says something else.
        """
        own = billing_of_token(self.key)
        billing = billing.over(own)
        if billing == own:
            return self.key
        if callable(billing.provider_key):
            return billing.forward_token(_secret_key_of(self.key))
        return _token(self.key, billing)


@lru_cache(maxsize=4096)
def _token(key: str, billing: Billing) -> str:
    return billing.forward_token(_secret_key_of(key))


@lru_cache(maxsize=64)
def _secret_key_of(key: str) -> str:
    if key.startswith("aks_"):
        return key
    fields = decode_forward_token(key)
    if fields is None:
        raise ConfigurationError(
            "The credential is a forward token that says itself who pays, so billing can't be set beside it. "
            "Give Lava's secret key to bill call by call: as api_key=, or in LAVA_SECRET_KEY with LAVA_FORWARD_TOKEN "
            "unset, which comes first."
        )
    return str(fields["secret_key"])


@lru_cache(maxsize=4096)
def billing_of_token(key: str) -> Billing:
    """Who pays by a credential: what a readable forward token says; `MERCHANT` for a secret key or an opaque token."""
    if key.startswith("aks_"):
        return MERCHANT
    fields = decode_forward_token(key) or {}
    try:
        billing = Billing(**{name: fields.get(name) for name in _FIELDS})
    except ConfigurationError:
        # Lava knows more forms of tokens than this; it is sent as it is, and says itself who pays.
        return MERCHANT
    return MERCHANT if billing == MERCHANT else billing


def credential_billing(api_key: Secret | None) -> Billing:
    """Who pays by the credential itself: what a readable forward token says, else the merchant.

    Args:
        api_key: the credential as `resolve_access` takes it. A function is not asked: it is called for each request.
    """
    key: Any = os.environ.get("LAVA_FORWARD_TOKEN") if api_key is None else api_key
    wrapped = getattr(key, "get_secret_value", None)
    if wrapped is not None:
        key = wrapped()
    return billing_of_token(key) if isinstance(key, str) else MERCHANT


def payer_of(credential: str) -> str:
    """Who pays for a request that was sent with this credential, in words, for errors."""
    billing = billing_of_token(credential)
    if billing is MERCHANT and not credential.startswith("aks_"):
        return "the wallet that the forward token names"
    return billing.payer


def decode_forward_token(token: str) -> dict[str, Any] | None:
    """The fields of a forward token, or `None` for an opaque one."""
    try:
        fields = json.loads(base64.b64decode(token, validate=True))
    except ValueError:
        return None
    return fields if isinstance(fields, dict) and isinstance(fields.get("secret_key"), str) else None


def resolve_access(api_key: Secret | None = None, base_url: str | None = None) -> Access:
    """The credential and base URL to use now: argument, then environment, then what the key's prefix says.

    Args:
        api_key: secret key or forward token; else `LAVA_FORWARD_TOKEN`, then `LAVA_SECRET_KEY`.
        base_url: ends in `/v1`; else `LAVA_BASE_URL`, else the sandbox for `aks_test_` keys and production otherwise.

    Raises:
        ConfigurationError: there is no key, or the URL is not https (plain http only to this machine).
    """
    if api_key is None:
        name = "LAVA_FORWARD_TOKEN" if os.environ.get("LAVA_FORWARD_TOKEN") else "LAVA_SECRET_KEY"
        value = os.environ.get(name)
        if not value:
            raise ConfigurationError(
                "No Lava credential: give api_key=, or set LAVA_SECRET_KEY (aks_live_… or aks_test_…) or "
                "LAVA_FORWARD_TOKEN. Keys are made at https://www.lava.so/dashboard."
            )
        key = reveal(value, name)
    else:
        # A framework's model has read the environment itself; what is wrong there can't be mended at the argument.
        key = reveal(api_key, getattr(api_key, "variable", "api_key"))
    url = base_url or os.environ.get("LAVA_BASE_URL")
    return Access(key, check_base_url(url) if url else _home_of(key))


@lru_cache(maxsize=64)
def _home_of(key: str) -> str:
    secret_key = key if key.startswith("aks_") else str((decode_forward_token(key) or {}).get("secret_key", ""))
    return SANDBOX_URL if secret_key.startswith("aks_test_") else PRODUCTION_URL


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
    if not url.isprintable() or " " in url or "%20" in url:
        raise ConfigurationError(
            f"The base URL {url!r} (base_url= or LAVA_BASE_URL) holds white space, often a line break at its end: set "
            "it again without."
        )
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ConfigurationError(f"The base URL {url!r} is not one: write it like {PRODUCTION_URL}.")
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigurationError(
            f"The base URL {url!r} would send the key unencrypted: write https:// (http:// is for this machine only)."
        )
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigurationError(f"The base URL must be plain scheme, host and path, like {PRODUCTION_URL}.")
    return url.rstrip("/")
