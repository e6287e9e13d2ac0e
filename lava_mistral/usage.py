"""What paid calls used and cost, told to whoever listens.

    with track_usage() as usage:
        chain.invoke(…)
    usage.cost, usage.by_customer["c_1"].total_tokens

A call is told of once, when it is over, by every way: chat, streams and each request of the embedding engine, in both
frameworks and without one. The listeners are those of the context in which the call began, so a stream that is read
elsewhere still counts where it was asked for.

What is told is each request that Lava may have charged: every answer with status 200, and every request whose answer
the caller never saw. A refusal (4xx, 5xx) costs nothing and is not told. The provider says how many tokens it counted
at the very end of an answer; for a stream that was left before, a connection that broke, or a request that timed out
or was cancelled, nobody here knows: such a record has `usage` and `cost` `None`, the totals count it as `unknown`, and
`LavaMistral.reconcile` asks Lava for what it was. What other libraries send through a `LavaTransport` is not told.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, cast

from lava_mistral.cost import EXACT, format_cost
from lava_mistral.locks import new_lock
from lava_mistral.scopes import Scope, astepped, in_scope, present_scope, stepped
from lava_mistral.wire import Usage, cached_tokens

if TYPE_CHECKING:
    from rich.table import Table

    from lava_mistral.records import RequestRecord

_T = TypeVar("_T")

_log = logging.getLogger("lava_mistral")

Kind: TypeAlias = Literal["chat", "embedding"]

LANGCHAIN_RUN: Final = "langchain_run_id"
LLAMA_INDEX_SPAN: Final = "llama_index_span_id"
"""Metadata keys of the trace that a call belongs to; every call has a value of its own."""


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One request that Lava may have charged.

    Attributes:
        kind: `"chat"` or `"embedding"`.
        model: the model that was asked for; prices go by it.
        request_id: Lava's id of the request; `None` where no answer came.
        usage: tokens as Mistral counted them; `None` where the answer was not seen to its end.
        cost: USD by the catalogue's prices, exact; `None` where `usage` or the prices are not known.
        customer_id: the customer that the call was made for.
        meter_slug: the meter that it counts on.
        metadata: what Lava stored with it.
        run_id: LangChain's run id or LlamaIndex's span id of the call.
        streamed: whether it was a stream.
        complete: whether the answer came to its end.
    """

    kind: Kind
    model: str
    request_id: str | None = None
    usage: Usage | None = None
    cost: Decimal | None = None
    customer_id: str | None = None
    meter_slug: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None
    streamed: bool = False
    complete: bool = True

    @property
    def input_tokens(self) -> int | None:
        """Tokens of the prompt, cached ones included."""
        return None if self.usage is None else self.usage.get("prompt_tokens") or 0

    @property
    def output_tokens(self) -> int | None:
        """Tokens of the answer, thinking included."""
        return None if self.usage is None else self.usage.get("completion_tokens") or 0

    @property
    def cached_tokens(self) -> int | None:
        """Tokens of the prompt that came from Mistral's cache."""
        return None if self.usage is None else cached_tokens(self.usage)

    def as_dict(self) -> dict[str, Any]:
        """The record in JSON's types; the cost as text, so that no digit is lost."""
        return {
            "kind": self.kind,
            "model": self.model,
            "request_id": self.request_id,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "cost": None if self.cost is None else f"{self.cost:f}",
            "customer_id": self.customer_id,
            "meter_slug": self.meter_slug,
            "metadata": dict(self.metadata),
            "run_id": self.run_id,
            "streamed": self.streamed,
            "complete": self.complete,
        }


@dataclass(frozen=True, slots=True)
class CallEffort:
    """What a call did beside the requests that are told of: of a chat at each retry, of an embedding when it is over.

    Attributes:
        model: the model that was asked for.
        retries: requests that repeated a failed one.
        duplicates: texts that were not sent, since an equal one was.
        customer_id: the customer that the call was made for; like the next two unknown where no answer came.
        meter_slug: the meter that it counts on.
        metadata: what Lava stored with it.
    """

    model: str
    retries: int = 0
    duplicates: int = 0
    customer_id: str | None = None
    meter_slug: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


Listener: TypeAlias = Callable[[CallRecord], object]
"""Told of each call when it is over, in the thread that ended it; it should be quick and must not block.

One that has a method `add_effort` is told of each `CallEffort` by it."""


@dataclass(slots=True)
class Tally:
    """Sums over some calls.

    Attributes:
        requests: how many requests were paid, or may have been.
        input_tokens: tokens of the prompts, cached ones included.
        output_tokens: tokens of the answers.
        cached_tokens: the prompts' tokens that came from Mistral's cache.
        cost: USD, exact, of the calls whose cost is known.
        unknown: requests whose tokens are not known here; nothing of them is in the sums.
        unpriced: requests with known tokens of a model without a known price; their cost is not in `cost`.
        retries: requests that repeated a failed one, whether or not they were paid.
        duplicates: texts that were not embedded, since an equal one of the same call was.
    """

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cost: Decimal = Decimal(0)
    unknown: int = 0
    unpriced: int = 0
    retries: int = 0
    duplicates: int = 0

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and answers."""
        return self.input_tokens + self.output_tokens

    def _add(self, record: CallRecord) -> None:
        self.requests += 1
        if record.usage is None:
            self.unknown += 1
            return
        self.input_tokens += record.input_tokens or 0
        self.output_tokens += record.output_tokens or 0
        self.cached_tokens += record.cached_tokens or 0
        if record.cost is None:
            self.unpriced += 1
        else:
            self.cost = EXACT.add(self.cost, record.cost)

    def _add_effort(self, effort: CallEffort) -> None:
        self.retries += effort.retries
        self.duplicates += effort.duplicates

    def _settle(self, told: RequestRecord) -> None:
        self.unknown -= 1
        self.input_tokens += told.usage.input_tokens
        self.output_tokens += told.usage.output_tokens
        self.cost = EXACT.add(self.cost, told.cost)

    def _copy(self) -> Tally:
        return Tally(
            self.requests,
            self.input_tokens,
            self.output_tokens,
            self.cached_tokens,
            self.cost,
            self.unknown,
            self.unpriced,
            self.retries,
            self.duplicates,
        )

    def as_dict(self) -> dict[str, Any]:
        """The sums in JSON's types; the cost as text, so that no digit is lost."""
        return {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cached_tokens": self.cached_tokens,
            "total_tokens": self.total_tokens,
            "cost": f"{self.cost:f}",
            "unknown": self.unknown,
            "unpriced": self.unpriced,
            "retries": self.retries,
            "duplicates": self.duplicates,
        }


OTHER: Final = "(other)"
"""Stands for all further values of a metadata key that has very many."""


class _Tallies(dict[Any, Tally]):
    """Sums by name; who was not called for has used nothing."""

    def __missing__(self, name: Any) -> Tally:
        return Tally()


class UsageTotals:
    """Sums over the calls that it is told of: in all, by model, customer, meter and metadata. Safe in threads.

    It is a listener: `subscribe(UsageTotals())`. What it returns are copies, which don't change any more.

    Args:
        metadata_keys: the keys to sum by; by default all but those of traces, which differ from call to call.
        most_values: how many values of one key are told apart; further ones are summed as `"(other)"`.
    """

    _UNSETTLED = 100_000
    _AT_ONCE = 64

    def __init__(self, *, metadata_keys: Collection[str] | None = None, most_values: int = 10_000) -> None:
        self._metadata_keys = None if metadata_keys is None else frozenset(metadata_keys)
        self._most_values = most_values
        # A call may end inside the garbage collector, on top of any frame of any thread: `add` takes no lock that it
        # would have to wait for.
        self._arrived: deque[CallRecord | CallEffort] = deque()
        self._lock = new_lock()
        self._total = Tally()
        self._models: dict[str, Tally] = {}
        self._customers: dict[str | None, Tally] = {}
        self._meters: dict[str | None, Tally] = {}
        self._metadata: dict[str, dict[str, Tally]] = {}
        self._unsettled: dict[str, CallRecord] = {}

    def add(self, record: CallRecord) -> None:
        """Count a call."""
        self._arrive(record)

    def add_effort(self, effort: CallEffort) -> None:
        """Count what a call did beside its requests."""
        self._arrive(effort)

    def _arrive(self, told: CallRecord | CallEffort) -> None:
        self._arrived.append(told)
        if len(self._arrived) >= self._AT_ONCE and self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    __call__ = add

    def __getstate__(self) -> dict[str, Any]:
        with self._lock:
            self._fold()
            # Its own, since calls go on ending while it is written.
            groups = {
                name: {key: tally._copy() for key, tally in getattr(self, name).items()}
                for name in ("_models", "_customers", "_meters")
            }
            metadata = {
                key: {value: tally._copy() for value, tally in values.items()} for key, values in self._metadata.items()
            }
            return (
                vars(self)
                | groups
                | {
                    "_lock": None,
                    "_arrived": deque(),
                    "_total": self._total._copy(),
                    "_metadata": metadata,
                    "_unsettled": dict(self._unsettled),
                }
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=new_lock())

    def _fold(self) -> None:
        while self._arrived:
            record = self._arrived.popleft()
            if isinstance(record, CallEffort):
                for tally in self._tallies(record):
                    tally._add_effort(record)
                continue
            for tally in self._tallies(record):
                tally._add(record)
            if record.usage is None and record.request_id is not None:
                if len(self._unsettled) >= self._UNSETTLED:
                    del self._unsettled[next(iter(self._unsettled))]
                self._unsettled[record.request_id] = record

    def _tallies(self, record: CallRecord | CallEffort) -> Iterator[Tally]:
        yield self._total
        yield self._models.setdefault(record.model, Tally())
        yield self._customers.setdefault(record.customer_id, Tally())
        yield self._meters.setdefault(record.meter_slug, Tally())
        wanted = self._metadata_keys
        for key, value in record.metadata.items():
            if key in wanted if wanted is not None else key not in (LANGCHAIN_RUN, LLAMA_INDEX_SPAN):
                values = self._metadata.setdefault(key, {})
                if value not in values and len(values) >= self._most_values:
                    value = OTHER
                yield values.setdefault(value, Tally())

    def _count_arrived(self) -> None:
        with self._lock:
            self._fold()

    def _copies(self, groups: Mapping[Any, Tally]) -> dict[Any, Tally]:
        with self._lock:
            self._fold()
            return _Tallies((name, tally._copy()) for name, tally in groups.items())

    @property
    def total(self) -> Tally:
        """All calls together."""
        with self._lock:
            self._fold()
            return self._total._copy()

    @property
    def by_model(self) -> dict[str, Tally]:
        """Sums by model."""
        return self._copies(self._models)

    @property
    def by_customer(self) -> dict[str | None, Tally]:
        """Sums by customer; `None` for calls made for none."""
        return self._copies(self._customers)

    @property
    def by_meter(self) -> dict[str | None, Tally]:
        """Sums by meter; `None` for calls on none."""
        return self._copies(self._meters)

    def by_metadata(self, key: str) -> dict[str, Tally]:
        """Sums by the values of a metadata key, over the calls that have it."""
        self._count_arrived()
        return self._copies(self._metadata.get(key, {}))

    @property
    def metadata_keys(self) -> tuple[str, ...]:
        """The metadata keys that were met and are summed by."""
        with self._lock:
            self._fold()
            return tuple(self._metadata)

    @property
    def requests(self) -> int:
        """How many requests were paid, or may have been."""
        return self.total.requests

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and answers, where they are known."""
        return self.total.total_tokens

    @property
    def cost(self) -> Decimal:
        """USD, exact, of the calls whose cost is known; see `unknown`."""
        return self.total.cost

    @property
    def unknown(self) -> int:
        """How many requests may have cost something that is not known here."""
        return self.total.unknown

    def unsettled(self) -> tuple[str, ...]:
        """The ids of requests whose cost is not known here but can be asked for; see `LavaMistral.reconcile`."""
        with self._lock:
            self._fold()
            return tuple(self._unsettled)

    def settle(self, told: RequestRecord) -> None:
        """Put what Lava recorded in the place of what was unknown; without effect for any other request."""
        with self._lock:
            self._fold()
            record = self._unsettled.pop(told.request_id, None)
            if record is not None:
                for tally in self._tallies(record):
                    tally._settle(told)

    def as_dict(self) -> dict[str, Any]:
        """Everything in JSON's types; costs as text, so that no digit is lost. The name for no customer is `""`."""
        keys = self.metadata_keys
        return {
            **self.total.as_dict(),
            "by_model": _dicts(self.by_model),
            "by_customer": _dicts(self.by_customer),
            "by_meter": _dicts(self.by_meter),
            "by_metadata": {key: _dicts(self.by_metadata(key)) for key in keys},
        }

    def table(self, *by: str) -> Table:
        """A table for a terminal or a notebook.

        Args:
            *by: its sections: `"model"`, `"customer"`, `"meter"` or `"metadata:KEY"`; by default models, and
                customers and metadata where there are any.

        Raises:
            ValueError: there is no such section.
        """
        return usage_table({name: self._section(name) for name in by or self._usual_sections()}, self.total)

    def _usual_sections(self) -> Sequence[str]:
        named = set(self.by_customer) - {None}
        return ["model", *(["customer"] if named else []), *(f"metadata:{key}" for key in self.metadata_keys)]

    def _section(self, name: str) -> Mapping[Any, Tally]:
        kind, _, key = name.partition(":")
        match kind:
            case "model":
                return self.by_model
            case "customer":
                return self.by_customer
            case "meter":
                return self.by_meter
            case "metadata" if key:
                return self.by_metadata(key)
        raise ValueError(f"a section is 'model', 'customer', 'meter' or 'metadata:KEY', not {name!r}")

    def __rich__(self) -> Table:
        return self.table()

    def __repr__(self) -> str:
        total = self.total
        left = f", {total.unknown} unknown" if total.unknown else ""
        requests = f"{total.requests} request{'' if total.requests == 1 else 's'}"
        return f"<UsageTotals: {requests}, {total.total_tokens} tokens, {format_cost(total.cost)}{left}>"


class CountsInTotals:
    """What a framework's usage handler shows of the totals that it counts in."""

    if TYPE_CHECKING:
        totals: UsageTotals

    @property
    def cost(self) -> Decimal:
        """USD, exact, of the calls whose cost is known."""
        return self.totals.cost

    @property
    def requests(self) -> int:
        """How many requests were paid, or may have been."""
        return self.totals.requests

    @property
    def total_tokens(self) -> int:
        """Tokens of prompts and answers, where they are known."""
        return self.totals.total_tokens

    @property
    def retries(self) -> int:
        """How many requests repeated a failed one."""
        return self.totals.total.retries

    @property
    def duplicates(self) -> int:
        """How many texts were not sent to be embedded, since an equal one was."""
        return self.totals.total.duplicates

    @property
    def by_model(self) -> dict[str, Tally]:
        """Sums by model."""
        return self.totals.by_model

    @property
    def by_customer(self) -> dict[str | None, Tally]:
        """Sums by customer; `None` for calls made for none."""
        return self.totals.by_customer

    def unsettled(self) -> tuple[str, ...]:
        """The ids of requests whose cost is not known here; `LavaMistral.reconcile` asks for it."""
        return self.totals.unsettled()

    def settle(self, told: RequestRecord) -> None:
        """Put what Lava recorded in the place of what was unknown."""
        self.totals.settle(told)

    def as_dict(self) -> dict[str, Any]:
        """The sums in JSON's types; see `UsageTotals.as_dict`."""
        return self.totals.as_dict()

    def table(self, *by: str) -> Table:
        """The sums as a rich table; see `UsageTotals.table`."""
        return self.totals.table(*by)

    def __rich__(self) -> Table:
        return self.totals.table()


def _dicts(groups: Mapping[Any, Tally]) -> dict[str, dict[str, Any]]:
    return {name or "": tally.as_dict() for name, tally in groups.items()}


def usage_table(sections: Mapping[str, Mapping[Any, Tally]], total: Tally) -> Table:
    """Sums as a rich table: each section's rows with the dearest first, then the total."""
    from rich.table import Table

    table = Table(title=None, show_footer=True)
    doubtful = total.unknown or total.unpriced
    columns = [("requests", total.requests), ("input", total.input_tokens), ("cached", total.cached_tokens)]
    columns.append(("output", total.output_tokens))
    table.add_column("", footer="total", overflow="fold", min_width=18)
    for name, value in columns:
        table.add_column(name, footer=f"{value:,}", justify="right")
    table.add_column("cost", footer=format_cost(total.cost), justify="right")
    if doubtful:
        table.add_column("cost\nunknown", footer=f"{total.unknown + total.unpriced:,}", justify="right")
    for name, value in (("retries", total.retries), ("duplicates", total.duplicates)):
        if value:
            table.add_column(name, footer=f"{value:,}", justify="right")
    for section, groups in sections.items():
        table.add_section()
        table.add_row(f"[bold]by {section.removeprefix('metadata:')}[/bold]")
        for label, tally in sorted(groups.items(), key=lambda item: (-item[1].cost, item[0] or "")):
            cells = [tally.requests, tally.input_tokens, tally.cached_tokens, tally.output_tokens]
            row = [_escaped(label or "–"), *(f"{cell:,}" for cell in cells), format_cost(tally.cost)]
            rest = [tally.unknown + tally.unpriced] if doubtful else []
            rest += [tally.retries] if total.retries else []
            rest += [tally.duplicates] if total.duplicates else []
            table.add_row(*row, *(f"{cell:,}" for cell in rest))
    return table


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told of the calls that begin now, and the framework's run that they belong to."""

    listeners: tuple[Listener, ...] = ()
    run_id: str | None = None
    outer: Watch | None = field(default=None, repr=False)
    owner: object = field(default=None, repr=False)


_NOBODY: Final = Watch()
_watch: ContextVar[Watch] = ContextVar("lava_mistral_usage", default=_NOBODY)
_subscribing = new_lock()
_subscribed: tuple[Listener, ...] = ()


def present_watch() -> Watch:
    """Who is told of a call that begins now: the context's listeners and the process's, each once."""
    watch = _watch.get()
    if not _subscribed:
        return watch
    return Watch(tuple(dict.fromkeys((*watch.listeners, *_subscribed))), watch.run_id)


@contextmanager
def watching(listeners: Sequence[Listener] = (), run_id: str | None = None) -> Iterator[None]:
    """Tell further listeners of the calls that begin in the block, and of the framework's run they belong to.

    Args:
        listeners: each is told once of a call, also where it listens by another way.
        run_id: LangChain's run id or LlamaIndex's span id; the outer block's by default.
    """
    outer = _watch.get()
    joined = tuple(dict.fromkeys((*outer.listeners, *listeners))) if listeners else outer.listeners
    with _watched(Watch(joined, outer.run_id if run_id is None else run_id)):
        yield


@contextmanager
def _watched(watch: Watch) -> Iterator[None]:
    outer = _watch.get()
    _watch.set(watch)
    try:
        yield
    finally:
        _watch.set(outer)


class Surroundings(NamedTuple):
    """The `billed_to` and `track_usage` blocks around a point, to begin a call later as if there."""

    scope: Scope | None
    watch: Watch

    @classmethod
    def here(cls) -> Surroundings:
        """Those around this point."""
        return cls(present_scope(), _watch.get())

    @contextmanager
    def again(self) -> Iterator[None]:
        """A block inside them, whatever is around it."""
        with in_scope(self.scope), _watched(self.watch):
            yield

    def steps(self, generator: Generator[_T, Any, Any]) -> Generator[_T, Any, Any]:
        """The generator, each of whose steps is taken inside them, wherever it is read."""
        return cast("Generator[_T, Any, Any]", stepped(self.again, lambda: generator)())

    def asteps(self, generator: AsyncGenerator[_T, Any]) -> AsyncGenerator[_T, Any]:
        """The async generator, each of whose steps is taken inside them, wherever it is read."""
        return cast("AsyncGenerator[_T, Any]", astepped(self.again, lambda: generator)())


class track_usage:
    """Sum up the calls that begin in the block, whatever makes them.

        with track_usage() as usage:
            …
        print(usage.cost, usage.by_model)

    The block holds for tasks and for the threads that the frameworks start, like `billed_to`. Blocks nest; each sums
    up its own calls and those of the blocks inside.

    Args:
        usage: what to sum up in; by default a new `UsageTotals`.
        listener: told of each call too.
    """

    def __init__(self, usage: UsageTotals | None = None, *, listener: Listener | None = None) -> None:
        self.usage = UsageTotals() if usage is None else usage
        self._listeners = (self.usage,) if listener is None else (self.usage, listener)

    def __enter__(self) -> UsageTotals:
        outer = _watch.get()
        joined = tuple(dict.fromkeys((*outer.listeners, *self._listeners)))
        _watch.set(Watch(joined, outer.run_id, outer, self))
        return self.usage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        present = _watch.get()
        # A generator may be closed in another context than it was entered in; there is nothing to leave there.
        if present.owner is self:
            _watch.set(present.outer or _NOBODY)


def subscribe(listener: Listener) -> None:
    """Tell a listener of every call of this process that begins from now on; `unsubscribe` ends it.

    Subscribing twice has no further effect.
    """
    global _subscribed
    with _subscribing:
        _subscribed = tuple(dict.fromkeys((*_subscribed, listener)))


def unsubscribe(listener: Listener) -> None:
    """Tell a listener of no further calls; those that have begun are still told of."""
    global _subscribed
    with _subscribing:
        _subscribed = tuple(known for known in _subscribed if known != listener)


def tell(listeners: Sequence[Listener], record: CallRecord) -> None:
    """Tell listeners of a call. One that fails is logged: the call itself did not."""
    for listener in listeners:
        try:
            listener(record)
        except Exception:  # noqa: BLE001 - what a listener does is not the call's fault
            _log.exception("A listener to usage failed: %r", listener)


def tell_effort(listeners: Sequence[Listener], effort: CallEffort) -> None:
    """Tell those listeners of it that have a method for it. One that fails is logged: the call itself did not."""
    if not effort.retries and not effort.duplicates:
        return
    for listener in listeners:
        add_effort = getattr(listener, "add_effort", None)
        if add_effort is None:
            continue
        try:
            add_effort(effort)
        except Exception:  # noqa: BLE001 - what a listener does is not the call's fault
            _log.exception("A listener to usage failed: %r", listener)
