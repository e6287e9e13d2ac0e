"""Sum up usage by model, customer, meter and metadata."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from lava_mistral._locks import Inbox
from lava_mistral.pricing.amounts import format_cost

if TYPE_CHECKING:
    from rich.table import Table

    from lava_mistral.billing.lava_records import RequestRecord

from lava_mistral.billing.listeners import NOBODY, Listening, listening
from lava_mistral.billing.usage import LANGCHAIN_RUN, LLAMA_INDEX_SPAN, CallRecord, Listener, RetryStats, Tally

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

    def __init__(self, *, metadata_keys: Collection[str] | None = None, most_values: int = 10_000) -> None:
        self._metadata_keys = None if metadata_keys is None else frozenset(metadata_keys)
        self._most_values = most_values
        self._total = Tally()
        self._models: dict[str, Tally] = {}
        self._customers: dict[str | None, Tally] = {}
        self._meters: dict[str | None, Tally] = {}
        self._metadata: dict[str, dict[str, Tally]] = {}
        self._unsettled: dict[str, CallRecord] = {}
        self._inbox = Inbox(self._apply)

    def add(self, record: CallRecord) -> None:
        """Count a call. Never waits for a lock: a call may end inside the garbage collector."""
        self._inbox.put(record)

    def add_effort(self, effort: RetryStats) -> None:
        """Count the retries and duplicates of a call."""
        self._inbox.put(effort)

    __call__ = add

    def __getstate__(self) -> dict[str, Any]:
        with self._inbox:
            return deepcopy({name: value for name, value in vars(self).items() if name != "_inbox"})

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _inbox=Inbox(self._apply))

    def _apply(self, told: CallRecord | RetryStats) -> None:
        if isinstance(told, RetryStats):
            for tally in self._tallies(told):
                tally.add_effort(told)
            return
        for tally in self._tallies(told):
            tally.add(told)
        if told.usage is None and told.request_id is not None:
            if len(self._unsettled) >= self._UNSETTLED:
                del self._unsettled[next(iter(self._unsettled))]
            self._unsettled[told.request_id] = told

    def _tallies(self, told: CallRecord | RetryStats) -> Iterator[Tally]:
        yield self._total
        yield self._models.setdefault(told.model, Tally())
        yield self._customers.setdefault(told.customer_id, Tally())
        yield self._meters.setdefault(told.meter_slug, Tally())
        wanted = self._metadata_keys
        for key, value in told.metadata.items():
            if key in wanted if wanted is not None else key not in (LANGCHAIN_RUN, LLAMA_INDEX_SPAN):
                values = self._metadata.setdefault(key, {})
                if value not in values and len(values) >= self._most_values:
                    value = OTHER
                yield values.setdefault(value, Tally())

    def _copies(self, groups: Mapping[Any, Tally]) -> dict[Any, Tally]:
        with self._inbox:
            return _Tallies((name, replace(tally)) for name, tally in groups.items())

    @property
    def total(self) -> Tally:
        """All calls together."""
        with self._inbox:
            return replace(self._total)

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
        with self._inbox:
            values = self._metadata.get(key, {})
        return self._copies(values)

    @property
    def metadata_keys(self) -> tuple[str, ...]:
        """The metadata keys that were met and are summed by."""
        with self._inbox:
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
    def saved(self) -> Decimal:
        """USD that the cached tokens would have cost more without Mistral's cache."""
        return self.total.saved

    @property
    def retries(self) -> int:
        """How many requests repeated a failed one."""
        return self.total.retries

    @property
    def duplicates(self) -> int:
        """How many texts were not sent to be embedded, since an equal one was."""
        return self.total.duplicates

    @property
    def unknown(self) -> int:
        """How many requests may have cost something that is not known here."""
        return self.total.unknown

    def unsettled(self) -> tuple[str, ...]:
        """The ids of requests whose cost is not known here but can be asked for; see `LavaMistral.reconcile`."""
        with self._inbox:
            return tuple(self._unsettled)

    def settle(self, told: RequestRecord) -> None:
        """Put what Lava recorded in the place of what was unknown; without effect for any other request."""
        with self._inbox:
            record = self._unsettled.pop(told.request_id, None)
            if record is not None:
                for tally in self._tallies(record):
                    tally.settle(told.usage.input_tokens, told.usage.output_tokens, told.cost)

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
        return _table({name: self._section(name) for name in by or self._usual_sections()}, self.total)

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


def _shown(name: str) -> Any:
    return property(lambda handler: getattr(handler.totals, name), doc=getattr(UsageTotals, name).__doc__)


class CountsInTotals:
    """Show the totals that a framework's usage handler counts in as its own attributes."""

    if TYPE_CHECKING:
        totals: UsageTotals

    cost = _shown("cost")
    saved = _shown("saved")
    requests = _shown("requests")
    total_tokens = _shown("total_tokens")
    retries = _shown("retries")
    duplicates = _shown("duplicates")
    by_model = _shown("by_model")
    by_customer = _shown("by_customer")

    def unsettled(self) -> tuple[str, ...]:
        """List the ids of requests whose cost is not known here; `LavaMistral.reconcile` asks for it."""
        return self.totals.unsettled()

    def settle(self, told: RequestRecord) -> None:
        """Put what Lava recorded in the place of what was unknown."""
        self.totals.settle(told)

    def as_dict(self) -> dict[str, Any]:
        """Return the sums in JSON's types; see `UsageTotals.as_dict`."""
        return self.totals.as_dict()

    def table(self, *by: str) -> Table:
        """Return the sums as a rich table; see `UsageTotals.table`."""
        return self.totals.table(*by)

    def __rich__(self) -> Table:
        return self.totals.table()


def _dicts(groups: Mapping[Any, Tally]) -> dict[str, dict[str, Any]]:
    return {name or "": tally.as_dict() for name, tally in groups.items()}


def _table(sections: Mapping[str, Mapping[Any, Tally]], total: Tally) -> Table:
    """Sums as a rich table: each section's rows with the dearest first, then the total."""
    from rich.markup import escape
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
    if total.saved:
        table.add_column("saved by\ncache", footer=format_cost(total.saved), justify="right")
    for section, groups in sections.items():
        table.add_section()
        table.add_row(f"[bold]by {section.removeprefix('metadata:')}[/bold]")
        for label, tally in sorted(groups.items(), key=lambda item: (-item[1].cost, item[0] or "")):
            cells = [tally.requests, tally.input_tokens, tally.cached_tokens, tally.output_tokens]
            row = [escape(label or "–"), *(f"{cell:,}" for cell in cells), format_cost(tally.cost)]
            rest = [tally.unknown + tally.unpriced] if doubtful else []
            rest += [tally.retries] if total.retries else []
            rest += [tally.duplicates] if total.duplicates else []
            saved = [format_cost(tally.saved)] if total.saved else []
            table.add_row(*row, *(f"{cell:,}" for cell in rest), *saved)
    return table


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
        outer = listening.get()
        joined = tuple(dict.fromkeys((*outer.listeners, *self._listeners)))
        listening.set(Listening(joined, outer.run_id, outer, self))
        return self.usage

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        present = listening.get()
        # A generator may be closed in another context than it was entered in; there is nothing to leave there.
        if present.owner is self:
            listening.set(present.outer or NOBODY)
