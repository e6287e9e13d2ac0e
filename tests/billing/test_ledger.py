"""What is told to listeners and what the gateway's ledger holds agree to the last digit, whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from llama_index_instrumentation import get_dispatcher

from langchain_lava_mistral import LavaUsageCallbackHandler
from lava_mistral import Billing, CallRecord, LavaError, LavaMistral, billed_to, track_usage
from lava_mistral.billing.usage import subscribe, unsubscribe
from lava_mistral.gateway import LocalGateway
from lava_mistral.gateway.faults import Garbage, Interrupted, Reset, Slow, Status
from llama_index_lava_mistral import LavaUsageHandler
from tests.billing.conftest import Framework, frameworks, run_now
from tests.fakes.waiting import eventually

CALLS = 400
WORDS = (
    "river",
    "sea",
    "mountain",
    "forest",
    "cloud",
    "stone",
    "bread",
    "letter",
    "winter",
    "garden",
    "window",
    "silver",
)
KINDS = {"chat": 6, "stream": 4, "left": 2, "cancelled": 2, "embed": 3, "broke": 1, "refused": 1}
CUSTOMERS = {f"c_{number}": "10" for number in range(20)} | {"c_broke": "0"}
FAULTS = [
    (0.02, Status(503)),
    (0.02, Status(429, retry_after=0.01)),
    (0.01, Status(500)),
    (0.01, Reset()),
    (0.01, Slow(0.5)),
    (0.01, Garbage()),
    (0.01, Interrupted(how="closed")),
    (0.01, Interrupted(how="stalled")),
    (0.01, Interrupted(how="error event")),
    (0.01, Interrupted(how="finish error")),
    (0.01, Interrupted(after=0, how="reset")),
]


@dataclass
class Books:
    """Everyone who keeps count."""

    told: list[CallRecord] = field(default_factory=list)
    langchain: LavaUsageCallbackHandler = field(default_factory=LavaUsageCallbackHandler)
    llama_index: LavaUsageHandler = field(default_factory=LavaUsageHandler)
    failures: Counter[str] = field(default_factory=Counter)


@pytest.fixture
def books() -> Iterator[Books]:
    kept = Books()
    subscribe(kept.told.append)
    get_dispatcher().add_event_handler(kept.llama_index)
    yield kept
    get_dispatcher().event_handlers.remove(kept.llama_index)
    unsubscribe(kept.told.append)


class Customer:
    """One framework's share of the calls, drawn at random."""

    def __init__(self, framework: Framework, gateway: LocalGateway, books: Books) -> None:
        settings: dict[str, Any] = {"max_retries": 2, "timeout": 0.25}
        self.framework = framework
        self.books = books
        self.llm = framework.llm(gateway, stream_chunk_timeout=0.25, **settings)
        self.embeddings = framework.embeddings(gateway, **settings)

    async def call(self, number: int, draw: random.Random) -> None:
        """One call; that it may fail is part of the picture."""
        kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
        customer = "c_broke" if kind == "broke" else draw.choice([None, *(f"c_{n}" for n in range(20))])
        metadata = {"call": str(number), "framework": self.framework.name, "team": draw.choice(["red", "blue"])}
        text = " ".join(draw.choices(WORDS, k=draw.randint(3, 300)))
        options: dict[str, Any] = {"lava_metadata": metadata}
        if customer is not None:
            options["billing"] = Billing(
                customer_id=customer,
                meter_slug=draw.choice(["chat", "search"]),
                disable_billing=draw.random() < 0.1 or None,
                provider_key="own-key" if draw.random() < 0.1 else None,
            )
        try:
            if draw.random() < 0.5:
                await self._do(kind, text, draw, options)
            else:
                billing = options.pop("billing", None)
                fields = {} if billing is None else dict(vars(billing))
                with billed_to(metadata=options.pop("lava_metadata"), **fields):
                    await self._do(kind, text, draw, options)
        except LavaError as error:
            self.books.failures[type(error).__name__] += 1
        except (TimeoutError, asyncio.CancelledError):
            self.books.failures["cancelled"] += 1

    async def _do(self, kind: str, text: str, draw: random.Random, options: dict[str, Any]) -> None:
        framework = self.framework
        if kind == "embed":
            texts = [f"{text} {n}" for n in range(draw.randint(1, 40))]
            await self._embed(texts, options)
            return
        options = {"max_tokens": draw.choice([5, 50, 500]), **options}
        options["model"] = draw.choice(["mistral-small-2603", "mistral-large-latest", "magistral-medium-latest"])
        if draw.random() < 0.3:
            # What was asked before is read from the cache, at a tenth of the price.
            options["prompt_cache_key"] = "a"
            text = "the same long question " * 50
        if framework.name == "langchain":
            options["config"] = {"callbacks": [self.books.langchain]}
        match kind:
            case "stream":
                await framework.stream(self.llm, text, **options)
            case "left":
                await framework.stream(self.llm, text, take=draw.randint(1, 3), **options)
            case "cancelled" if framework.asynchronous:
                await asyncio.wait_for(framework.chat(self.llm, text, **options), draw.choice([0.001, 0.01, 0.02]))
            case "refused":
                await framework.chat(self.llm, text, **{**options, "temperature": 99})
            case _:
                await framework.chat(self.llm, text, **options)

    async def _embed(self, texts: list[str], options: dict[str, Any]) -> None:
        if self.framework.name != "langchain":
            await self.framework.embed(self.embeddings, texts, **options)
            return

        # Embeddings have no callbacks in LangChain; they are counted for the run that they are part of.
        async def aembed(part: list[str]) -> Any:
            return await self.embeddings.aembed_documents(part, **options)

        def embed(part: list[str]) -> Any:
            return self.embeddings.embed_documents(part, **options)

        step = RunnableLambda(embed, aembed)
        config: Any = {"callbacks": [self.books.langchain]}
        await step.ainvoke(texts, config) if self.framework.asynchronous else step.invoke(texts, config)


def work(framework: Framework, gateway: LocalGateway, books: Books, numbers: range) -> None:
    """Make a framework's calls, many at a time."""
    customer = Customer(framework, gateway, books)
    if not framework.asynchronous:
        with ThreadPoolExecutor(24) as pool:
            jobs = []
            for number in numbers:
                context = contextvars.copy_context()
                jobs.append(pool.submit(context.run, run_now, customer.call(number, random.Random(number))))
            for job in jobs:
                job.result()
        return

    async def all_calls() -> None:
        seats = asyncio.Semaphore(24)

        async def one(number: int) -> None:
            async with seats:
                await customer.call(number, random.Random(number))

        await asyncio.gather(*map(one, numbers))

    asyncio.run(all_calls())


def test_ledger_and_listeners_agree_over_a_random_mix_of_calls(books: Books) -> None:
    options: dict[str, Any] = {"customers": CUSTOMERS, "faults": FAULTS, "seed": 7, "latency": 0.005, "pace": 0.001}
    with LocalGateway(**options) as gateway, track_usage() as usage:
        each = CALLS // 4
        for place, framework in enumerate(frameworks()):
            work(framework, gateway, books, range(place * each, (place + 1) * each))
        lava = LavaMistral(api_key=gateway.secret_key, base_url=gateway.base_url)
        # The server needs a moment to see that the last clients have gone.
        eventually(lambda: not gateway.in_flight)
        before = usage.total
        unsettled = usage.unreconciled()
        for account in (usage, books.langchain.totals, books.llama_index.totals):
            assert lava.reconcile(account, wait=10) == 0
        ledger = {request.request_id: request for request in gateway.requests}
        wallets, merchant = gateway.wallet.customers, gateway.wallet.merchant

    # Every told request is in the ledger, once, with the same digits.
    known = [record for record in books.told if record.request_id is not None]
    assert len({record.request_id for record in known}) == len(known)
    for record in known:
        assert record.request_id is not None
        entry = ledger[record.request_id]
        assert (record.customer_id, record.meter_slug) == (entry.customer_id, entry.meter_slug)
        assert (record.metadata, record.model) == (entry.metadata, entry.model)
        if record.usage is not None:
            assert record.cost == entry.cost
            assert (record.input_tokens, record.output_tokens) == (
                entry.usage["prompt_tokens"],
                entry.usage["completion_tokens"],
            )
            assert entry.cost > 0

    # Every charge in the ledger was told; without its id only where no answer ever came.
    nameless = Counter(record.metadata["call"] for record in books.told if record.request_id is None)
    told = {record.request_id for record in known}
    untold = [entry for entry in ledger.values() if entry.cost > 0 and entry.request_id not in told]
    lost = Counter(entry.metadata["call"] for entry in untold)
    assert lost - nameless == Counter()

    # What was unknown is known now, but for those without an id; so all sums agree with the ledger.
    assert before.unknown == len(unsettled) + nameless.total()
    assert usage.unknown == nameless.total()
    charged = [entry for entry in ledger.values() if entry.request_id in told]
    check(usage, charged)
    check(books.langchain.totals, [entry for entry in charged if entry.metadata["framework"] == "langchain"])
    check(books.llama_index.totals, [entry for entry in charged if entry.metadata["framework"] == "llama_index"])
    total = sum((entry.cost for entry in ledger.values()), Decimal(0))
    assert usage.cost == total - sum(entry.cost for entry in untold)

    # And the wallets with the ledger.
    for customer, balance in CUSTOMERS.items():
        paid = [r for r in ledger.values() if r.customer_id == customer and not r.credential.get("disable_billing")]
        assert wallets[customer] == Decimal(balance) - sum(entry.cost for entry in paid)
    free = [r for r in ledger.values() if r.customer_id is None or r.credential.get("disable_billing")]
    assert merchant == 1000 - sum(entry.cost for entry in free if not entry.credential.get("provider_key"))

    # The mix was one.
    assert len(ledger) > CALLS
    assert len(books.told) > CALLS / 2
    assert unsettled
    assert {"InsufficientBalanceError", "InvalidRequestError", "StreamInterruptedError", "cancelled"} <= {
        *books.failures
    }
    assert any(record.cached_tokens for record in known)
    assert {(record.kind, record.streamed) for record in known} == {
        ("chat", False),
        ("chat", True),
        ("embedding", False),
    }


def check(totals: Any, entries: list[Any]) -> None:
    """Sums equal those of the ledger's entries, in all and in each group."""
    assert totals.cost == sum((entry.cost for entry in entries), Decimal(0))
    groups: dict[str, dict[Any, Decimal]] = {name: defaultdict(Decimal) for name in ("customer", "model", "team")}
    for entry in entries:
        groups["customer"][entry.customer_id] += entry.cost
        groups["model"][entry.model] += entry.cost
        groups["team"][entry.metadata["team"]] += entry.cost
    for name, tallies in (
        ("customer", totals.by_customer),
        ("model", totals.by_model),
        ("team", totals.by_metadata("team")),
    ):
        costs = {group: tally.cost for group, tally in tallies.items() if tally.cost}
        assert costs == {group: cost for group, cost in groups[name].items() if cost}
