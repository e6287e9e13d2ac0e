"""Sum up usage by model, customer, meter and metadata, of the calls that begin in a block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from lava_mistral._locks import Inbox
from lava_mistral.billing.generators import calling_generator
from lava_mistral.billing.scope import Block, Entry, Scope, entries
from lava_mistral.billing.usage import TRACES, CallRecord, Listener, Tally
from lava_mistral.pricing.amounts import format_cost

if TYPE_CHECKING:
    from rich.table import Table

    from lava_mistral.billing.lava_record_types import RequestRecord

OTHER: Final = "(other)"  # all further values of a metadata key that has very many
_MOST_UNRECONCILED: Final = 100_000
_PLAIN: Final = ("model", "customer", "meter")
_METADATA: Final = "metadata:"
_COLUMNS: Final = ("requests", "input_tokens", "cached_tokens", "output_tokens", "cost")
_MORE_COLUMNS: Final = {
    "uncosted": "cost\nunknown",
    "saved": "saved by\ncache",
}


class UsageTotals:
    """Sums over the calls that it is told of: in all, by model, customer, meter and metadata. Safe in threads.

    It is a listener: `subscribe(UsageTotals())`. What it returns are copies, which don't change any more. It has the
    attributes of its `total` too. The sums of no customer or meter are under `None`.

    Args:
        metadata_keys: the keys to sum by; by default all but those of traces, which differ from call to call.
        most_values: how many values of a key are told apart; further ones are summed as `"(other)"`.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    total_tokens: int
    cost: Decimal
    saved: Decimal
    unknown: int
    unpriced: int

    def __init__(self, *, metadata_keys: Collection[str] | None = None, most_values: int = 10_000) -> None:
        self._metadata_keys = None if metadata_keys is None else frozenset(metadata_keys)
        self._most_values = most_values
        self._total = Tally()
        self._sections: dict[str, dict[Any, Tally]] = {name: {} for name in _PLAIN}
        self._unreconciled: dict[str, CallRecord] = {}
        self._inbox = Inbox(self._apply)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.total, name)

    def add(self, told: CallRecord) -> None:
        """Count a call. Never waits for a lock: a call may end inside the garbage collector."""
        self._inbox.put(told)

    __call__ = add

    def __getstate__(self) -> dict[str, Any]:
        with self._inbox:
            return deepcopy({name: value for name, value in vars(self).items() if name != "_inbox"})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _inbox=Inbox(self._apply))

    def _apply(self, told: CallRecord) -> None:
        for tally in self._tallies(told):
            tally.add(told)
        if told.usage is None and told.request_id is not None:
            if len(self._unreconciled) >= _MOST_UNRECONCILED:
                del self._unreconciled[next(iter(self._unreconciled))]
            self._unreconciled[told.request_id] = told

    def _tallies(self, told: CallRecord) -> Iterator[Tally]:
        yield self._total
        for section, name in zip(_PLAIN, (told.model, told.customer_id, told.meter_slug), strict=True):
            yield self._sections[section].setdefault(name, Tally())
        wanted = self._metadata_keys
        for key, value in told.metadata.items():
            if key in wanted if wanted is not None else key not in TRACES:
                values = self._sections.setdefault(_METADATA + key, {})
                known = value in values or len(values) < self._most_values
                yield values.setdefault(value if known else OTHER, Tally())

    def _section(self, name: str) -> dict[Any, Tally]:
        with self._inbox:
            # Who was not called for has used nothing.
            return defaultdict(Tally, {key: replace(tally) for key, tally in self._sections.get(name, {}).items()})

    @property
    def total(self) -> Tally:
        with self._inbox:
            return replace(self._total)

    @property
    def by_model(self) -> dict[str, Tally]:
        return self._section("model")

    @property
    def by_customer(self) -> dict[str | None, Tally]:
        return self._section("customer")

    @property
    def by_meter(self) -> dict[str | None, Tally]:
        return self._section("meter")

    def by_metadata(self, key: str) -> dict[str, Tally]:
        """Sum by the values of a metadata key, over the calls that have it."""
        return self._section(_METADATA + key)

    @property
    def metadata_keys(self) -> tuple[str, ...]:
        """The metadata keys that were met and are summed by."""
        with self._inbox:
            return tuple(name.removeprefix(_METADATA) for name in self._sections if name.startswith(_METADATA))

    def unreconciled(self) -> tuple[str, ...]:
        """List the ids of requests whose cost is not known here but can be asked for; see `LavaMistral.reconcile`."""
        with self._inbox:
            return tuple(self._unreconciled)

    def reconcile(self, told: RequestRecord) -> None:
        """Put what Lava recorded in the place of what was unknown; without effect for any other request."""
        with self._inbox:
            if (record := self._unreconciled.pop(told.request_id, None)) is not None:
                for tally in self._tallies(record):
                    tally.reconcile(told.usage.input_tokens, told.usage.output_tokens, told.cost)

    def as_dict(self) -> dict[str, Any]:
        """Return everything in JSON's types; amounts as text. The name for no customer is `""`."""

        def sums(section: str) -> dict[str, Any]:
            return {name or "": tally.as_dict() for name, tally in self._section(section).items()}

        metadata = {key: sums(_METADATA + key) for key in self.metadata_keys}
        return {**self.total.as_dict(), **{f"by_{name}": sums(name) for name in _PLAIN}, "by_metadata": metadata}

    def table(self, *by: str) -> Table:
        """Make a table by `"model"`, `"customer"`, `"meter"` or `"metadata:KEY"`; by default by all but meters."""
        for name in by:
            if name not in _PLAIN and not name.partition(_METADATA)[2]:
                raise ValueError(f"a section is 'model', 'customer', 'meter' or 'metadata:KEY', not {name!r}")
        customers = ["customer"] if set(self.by_customer) - {None} else []
        usual = ["model", *customers, *(_METADATA + key for key in self.metadata_keys)]
        from rich.markup import escape
        from rich.table import Table

        total, table = self.total, Table(show_footer=True)
        table.add_column("", footer="total", overflow="fold", min_width=18)
        shown = [*_COLUMNS, *(name for name in _MORE_COLUMNS if getattr(total, name))]
        for name in shown:
            header = _MORE_COLUMNS.get(name, name.removesuffix("_tokens"))
            table.add_column(header, footer=_cell(total, name), justify="right")
        for section in by or usual:
            table.add_section()
            table.add_row(f"[bold]by {section.removeprefix(_METADATA)}[/bold]")
            for label, tally in sorted(self._section(section).items(), key=lambda row: (-row[1].cost, row[0] or "")):
                table.add_row(escape(label or "–"), *(_cell(tally, name) for name in shown))
        return table

    __rich__ = table

    def __repr__(self) -> str:
        total = self.total
        left = f", {total.unknown} unknown" if total.unknown else ""
        requests = f"{total.requests} request{'' if total.requests == 1 else 's'}"
        return f"<UsageTotals: {requests}, {total.total_tokens} tokens, {format_cost(total.cost)}{left}>"


def _shown(name: str) -> Any:
    return property(lambda handler: getattr(handler.totals, name))


class UsageTotalsMixin:
    """Show the totals that a framework's usage handler counts in as its own; see `UsageTotals`."""

    if TYPE_CHECKING:
        totals: UsageTotals

    cost = _shown("cost")
    saved = _shown("saved")
    requests = _shown("requests")
    total_tokens = _shown("total_tokens")
    by_model = _shown("by_model")
    by_customer = _shown("by_customer")
    unreconciled = _shown("unreconciled")
    reconcile = _shown("reconcile")
    as_dict = _shown("as_dict")
    table = __rich__ = _shown("table")


def _cell(tally: Tally, attribute: str) -> str:
    value = getattr(tally, attribute)
    return format_cost(value) if isinstance(value, Decimal) else f"{value:,}"


class track_usage(Block):
    """Sum up the calls that begin in the block, whatever makes them.

        with track_usage() as usage:
            …
        print(usage.cost, usage.by_model)

    It holds for tasks and for the threads that the frameworks start, like `billed_to`. Blocks nest; each sums up its
    own calls and those of the blocks inside: in `usage`, by default a new one. A `listener` is told of each call too.
    """

    def __init__(self, usage: UsageTotals | None = None, *, listener: Listener | None = None) -> None:
        self.usage = UsageTotals() if usage is None else usage
        super().__init__(Scope(listeners=(self.usage,) if listener is None else (self.usage, listener)))

    def __enter__(self) -> UsageTotals:
        self._enter(calling_generator())
        return self.usage


class listen:
    """Tell further listeners of the calls that begin in the block, and the run that they belong to.

    Args:
        run_id: LangChain's run id or LlamaIndex's span id; by default the outer block's.
        inside: what holds for the calls instead of the blocks around this one, from `scope_of_call`.
    """

    def __init__(
        self, listeners: Iterable[Listener] = (), run_id: str | None = None, inside: Scope | None = None
    ) -> None:
        scope = Scope(listeners=tuple(listeners), run_id=run_id)
        if inside is not None:
            scope = replace(inside, listeners=inside.listeners + scope.listeners, run_id=run_id or inside.run_id)
        self._entry = Entry(scope, alone=inside is not None)

    def __enter__(self) -> None:
        entries.set((self._entry, *entries.get()))

    def __exit__(self, *failure: object) -> None:
        present = entries.get()
        # A coroutine that nobody awaits any more may be closed in another context.
        if self._entry in present:
            place = present.index(self._entry)
            entries.set(present[:place] + present[place + 1 :])
