"""Who pays: credentials, forward tokens, billing blocks and metadata."""

from __future__ import annotations

import asyncio
import base64
import contextvars
import gc
import inspect
import json
import pickle
import subprocess
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from langchain_lava_mistral import ChatLavaMistral
from lava_mistral import AsyncLavaMistral, Billing, ConfigurationError, LavaMistral, billed_to, track_usage
from lava_mistral.billing.credentials import (
    PRODUCTION_URL,
    SANDBOX_URL,
    Access,
    check_base_url,
    check_metadata,
    decode_forward_token,
    payer_of,
    resolve_access,
    reveal,
    to_billing,
)
from lava_mistral.billing.scope import entries, resolve_billing
from lava_mistral.billing.usage_totals import listen
from llama_index_lava_mistral import ChatLavaMistral as LlamaChat

KEY = "aks_live_0123456789abcdef"
FORMS: list[dict[str, Any]] = [
    {},
    {"meter_slug": "chat"},
    {"customer_id": "cus_1", "meter_slug": "chat"},
    {"customer_id": "cus_1", "meter_slug": "chat", "disable_billing": True},
    {"customer_id": "cus_1", "meter_slug": "chat", "provider_key": "own-mistral-key"},
    {"provider_key": "own-mistral-key"},
    {"meter_slug": "chat", "provider_key": "own-mistral-key"},
    {"customer_id": "cus_1", "meter_slug": "chat", "disable_billing": False},
    {"customer_id": 'ünï"cødé\\ \u2028 \x01 🌋', "meter_slug": "a/b"},
    {"customer_id": "lone \ud800 surrogate", "meter_slug": "m"},
]


def decoded(token: str) -> dict[str, Any]:
    return json.loads(base64.b64decode(token))


@pytest.mark.parametrize("fields", FORMS, ids=lambda fields: "+".join(fields) or "none")
def test_forward_token_holds_the_given_fields_in_order(fields: dict[str, Any]) -> None:
    token = Billing(**fields).forward_token(KEY)
    assert list(decoded(token).items()) == [("secret_key", KEY), *fields.items()]


text = st.text(min_size=1, max_size=30).filter(str.strip)
identities = st.one_of(
    st.fixed_dictionaries({}, optional={"meter_slug": text}),
    st.fixed_dictionaries({"customer_id": text, "meter_slug": text}, optional={"disable_billing": st.booleans()}),
)
keys = st.text("abcXYZ012+/=-_", min_size=1, max_size=40)


def test_forward_tokens_equal_those_of_the_node_sdk(node_sdk: Path) -> None:
    cases = list(FORMS)

    @given(identities, st.none() | keys)
    def collect(fields: dict[str, Any], provider_key: str | None) -> None:
        case = {name: fields[name] for name in ("customer_id", "meter_slug") if name in fields}
        if provider_key is not None:
            case["provider_key"] = provider_key
        if "disable_billing" in fields:
            case["disable_billing"] = fields["disable_billing"]
        cases.append(case)

    collect()
    program = (
        "const {Lava} = require('@lavapayments/nodejs');"
        "const {key, cases} = JSON.parse(require('fs').readFileSync(0));"
        "const lava = new Lava(key);"
        "console.log(JSON.stringify(cases.map(fields => lava.generateForwardToken(fields))));"
    )
    answer = subprocess.run(
        ["node", "-e", program],
        input=json.dumps({"key": KEY, "cases": cases}),
        capture_output=True,
        text=True,
        cwd=node_sdk,
        check=True,
    )
    assert len(cases) > 50
    assert [Billing(**fields).forward_token(KEY) for fields in cases] == json.loads(answer.stdout)


@pytest.mark.parametrize(
    ("fields", "advice"),
    [
        ({"customer_id": "c"}, "meter_slug="),
        ({"disable_billing": True}, 'customer_id="…"'),
        ({"disable_billing": True, "meter_slug": "m"}, 'customer_id="…"'),
        ({"customer_id": "c", "meter_slug": ""}, "non-empty"),
        ({"customer_id": " ", "meter_slug": "m"}, "non-empty"),
        ({"customer_id": 7, "meter_slug": "m"}, "non-empty text"),
        ({"customer_id": "c", "meter_slug": "m", "disable_billing": "yes"}, "bool"),
        ({"provider_key": "key\n"}, ".strip()"),
        ({"provider_key": ""}, "empty"),
        ({"custmer_id": "c"}, "Did you mean 'customer_id'"),
        ({"wallet": "w"}, "Its fields are customer_id"),
        ({"provider_key": 5}, "text, not int"),
    ],
)
def test_combinations_that_lava_refuses_are_refused_with_what_to_write(fields: dict[str, Any], advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        to_billing(fields)
    assert advice in str(caught.value)


@pytest.mark.parametrize("bad", ["aks_live_x y", "aks_live_x\n", "", "aks_live_é", "\taks_live_x"])
def test_a_key_with_white_space_is_refused_without_being_shown(bad: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve_access(bad)
    assert "api_key" in str(caught.value)
    assert "aks_live_x" not in str(caught.value)


def test_secrets_are_taken_plain_wrapped_and_from_a_function() -> None:
    assert [reveal(form, "key") for form in ("k", SecretStr("k"), lambda: "k", lambda: SecretStr("k"))] == ["k"] * 4


def test_no_secret_is_in_a_repr() -> None:
    billing = Billing(provider_key="hush")
    fields = json.dumps(asdict(billing), default=str)
    shown = f"{billing!r} {vars(billing)} {fields} {Access('hush')!r} {Billing(provider_key=SecretStr('hush'))!r}"
    assert "hush" not in shown
    assert billing == Billing(provider_key="hush") == pickle.loads(pickle.dumps(billing))
    assert {billing: 1}[Billing(provider_key="hush")] == 1


def test_a_rotating_provider_key_is_asked_for_each_token() -> None:
    rotation = iter(["one", "two"])
    billing = Billing(provider_key=lambda: next(rotation))
    access = Access(KEY)
    assert [decoded(access.bearer(billing))["provider_key"] for _ in "ab"] == ["one", "two"]


def test_credentials_come_from_argument_then_forward_token_then_secret_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="LAVA_SECRET_KEY") as caught:
        resolve_access()
    assert "LAVA_FORWARD_TOKEN" in str(caught.value)
    monkeypatch.setenv("LAVA_SECRET_KEY", KEY)
    assert resolve_access().key == KEY
    monkeypatch.setenv("LAVA_FORWARD_TOKEN", "opaque")
    assert resolve_access().key == "opaque"
    assert resolve_access("aks_test_1").key == "aks_test_1"


def test_the_base_url_comes_from_argument_then_environment_then_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox_token = Billing(meter_slug="m").forward_token("aks_test_1")
    assert [resolve_access(key).base_url for key in (KEY, "aks_test_1", "opaque", sandbox_token)] == [
        PRODUCTION_URL,
        SANDBOX_URL,
        PRODUCTION_URL,
        SANDBOX_URL,
    ]
    monkeypatch.setenv("LAVA_BASE_URL", "https://lava.example/v1/")
    assert resolve_access("aks_test_1").base_url == "https://lava.example/v1"
    assert resolve_access("aks_test_1", "http://127.0.0.1:9/v1").base_url == "http://127.0.0.1:9/v1"


@pytest.mark.parametrize("url", ["http://localhost:1/v1", "http://127.8.9.1/v1", "http://[::1]:5/v1", "https://x.y/v1"])
def test_plain_http_is_for_this_machine(url: str) -> None:
    assert check_base_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://api.lava.so/v1",
        "http://127.evil.example/v1",
        "ftp://x/v1",
        "api.lava.so",
        "https://u:p@x/v1",
        "https://[",
        "https://x.y/v1?",
        "https://x.y/v1#",
    ],
)
def test_other_base_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        check_base_url(url)


@pytest.mark.parametrize(
    "url", ["https://api.mistral.ai/v1", "https://Codestral.Mistral.AI", "https://api.openai.com/v1"]
)
@pytest.mark.parametrize("make", [LavaMistral, AsyncLavaMistral, ChatLavaMistral, LlamaChat])
def test_a_providers_address_is_no_base_url(make: Callable[..., Any], url: str) -> None:
    with pytest.raises(ValueError, match=r"calls go to Mistral through Lava, whose own address is base_url="):
        make(api_key=KEY, base_url=url)


def test_an_opaque_token_passes_as_it_is_and_takes_no_billing() -> None:
    access = resolve_access("opaque-token")
    assert access.bearer(Billing()) == "opaque-token"
    with pytest.raises(ConfigurationError, match="forward token"):
        access.bearer(Billing(meter_slug="m"))


def test_a_readable_token_is_billed_anew_with_its_secret_key() -> None:
    token = Billing(meter_slug="old").forward_token(KEY)
    access = resolve_access(token)
    assert access.bearer(Billing()) == token
    assert decoded(access.bearer(Billing(customer_id="c", meter_slug="m"))) == {
        "secret_key": KEY,
        "customer_id": "c",
        "meter_slug": "m",
    }


def test_blocks_nest_and_the_innermost_wins_field_by_field() -> None:
    model = Billing(customer_id="model", meter_slug="m0", provider_key="own")
    assert resolve_billing(model, {"a": "1"}).billing == model
    with billed_to(customer_id="outer", metadata={"a": "2", "b": "2"}):
        assert resolve_billing(model, None).billing == Billing(customer_id="outer", meter_slug="m0", provider_key="own")
        with billed_to(meter_slug="m1", metadata={"b": "3"}) as block:
            inner = resolve_billing(model, {"a": "1", "c": "1"}, call_metadata={"c": "4"})
            assert inner.billing == Billing(customer_id="outer", meter_slug="m1", provider_key="own")
            assert inner.metadata == {"a": "2", "b": "3", "c": "4"}
            with block:
                assert resolve_billing(model, None).billing.meter_slug == "m1"
        assert resolve_billing(model, None).billing.meter_slug == "m0"
    assert resolve_billing(None, None).metadata == {}


def test_the_call_wins_over_blocks_and_model_and_keeps_their_provider_key() -> None:
    call = Billing(customer_id="call", meter_slug="m")
    own = Billing(customer_id="call", meter_slug="m", provider_key="own")
    assert resolve_billing(Billing(meter_slug="x", provider_key="own"), None, call_billing=call).billing == own
    with billed_to(customer_id="block", meter_slug="b", disable_billing=True):
        assert resolve_billing(Billing(provider_key="own"), None, call_billing=call).billing == own
        assert resolve_billing(None, None, call_billing=Billing(provider_key="p")).billing == Billing(provider_key="p")
    with billed_to(provider_key="block's"):
        assert resolve_billing(Billing(provider_key="own"), None, call_billing=call).billing.provider_key == "block's"


def test_a_block_without_a_meter_anywhere_is_refused_when_a_call_is_made() -> None:
    with billed_to(customer_id="c"), pytest.raises(ConfigurationError, match="meter"):
        resolve_billing(None, None)


async def test_blocks_hold_for_tasks_and_copied_contexts_alone() -> None:
    async def seen() -> str | None:
        await asyncio.sleep(0)
        return resolve_billing(None, None).billing.customer_id

    async def customer(name: str) -> str | None:
        with billed_to(customer_id=name, meter_slug="m"):
            return await asyncio.create_task(seen())

    names = [f"c{n}" for n in range(50)]
    assert await asyncio.gather(*map(customer, names)) == names
    assert await seen() is None
    with ThreadPoolExecutor(1) as pool, billed_to(customer_id="c", meter_slug="m"):
        copied = contextvars.copy_context().run
        assert pool.submit(copied, lambda: resolve_billing(None, None).billing.customer_id).result() == "c"


async def test_a_block_decorates_functions_and_coroutine_functions() -> None:
    block = billed_to(customer_id="decorated", meter_slug="m")

    @block
    def plain() -> str | None:
        return resolve_billing(None, None).billing.customer_id

    @block
    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return resolve_billing(None, None).billing.customer_id

    assert plain() == "decorated"
    assert await coroutine() == "decorated"
    assert resolve_billing(None, None).billing.customer_id is None


def present() -> str | None:
    return resolve_billing(None, None).billing.customer_id


def in_new_context(function: Callable[..., Any], *args: Any) -> Any:
    return contextvars.Context().run(function, *args)


def test_a_block_decorates_generators_step_by_step() -> None:
    seen: list[Any] = []

    @billed_to(customer_id="decorated", meter_slug="m")
    def steps(start: int) -> Iterator[Any]:
        try:
            try:
                seen.append((yield start, present()))
            except KeyError:
                yield "thrown", present()
            yield "last", present()
            return "result"
        finally:
            seen.append(present())

    assert inspect.isgeneratorfunction(steps)

    def delegating() -> Iterator[Any]:
        seen.append((yield from steps(1)))

    generator = delegating()
    # Each step in a context of its own, as web servers take them; and between them nothing is billed to the customer.
    assert in_new_context(next, generator) == (1, "decorated")
    assert present() is None
    assert in_new_context(generator.send, "sent") == ("last", "decorated")
    assert in_new_context(next, generator, None) is None
    assert seen == ["sent", "decorated", "result"]
    thrown = steps(2)
    next(thrown)
    assert thrown.throw(KeyError()) == ("thrown", "decorated")
    thrown.close()
    assert seen[3:] == ["decorated"]
    with pytest.raises(ZeroDivisionError):
        in_new_context(list, billed_to(customer_id="decorated", meter_slug="m")(lambda: (1 / 0 for _ in "a"))())
    assert present() is None


async def test_a_block_decorates_async_generators_and_what_plain_functions_return() -> None:
    block = billed_to(customer_id="decorated", meter_slug="m")
    seen: list[Any] = []

    @block
    async def steps() -> AsyncIterator[Any]:
        try:
            try:
                seen.append((yield present()))
            except KeyError:
                await asyncio.sleep(0)
                yield "thrown", present()
            yield "last", present()
        finally:
            await asyncio.sleep(0)
            seen.append(present())

    assert inspect.isasyncgenfunction(steps)
    generator: Any = steps()
    assert await anext(generator) == "decorated"
    assert present() is None
    assert await generator.asend("sent") == ("last", "decorated")
    assert await anext(generator, None) is None
    assert seen == ["sent", "decorated"]
    generator = steps()
    await anext(generator)
    assert await generator.athrow(KeyError()) == ("thrown", "decorated")
    await generator.aclose()
    assert seen[2:] == ["decorated"]

    async def coroutine() -> str | None:
        await asyncio.sleep(0)
        return present()

    def words() -> Iterator[str | None]:
        yield present()

    assert await block(lambda: coroutine())() == "decorated"
    assert list(block(lambda: words())()) == ["decorated"]
    first, _ = [each async for each in block(lambda: steps())()]
    assert first == "decorated"
    assert present() is None


# The tasks ask who pays after a block without a call.
@pytest.mark.filterwarnings("ignore:A call for no customer:UserWarning")
def test_one_block_serves_many_threads_and_tasks_at_once() -> None:
    block = billed_to(customer_id="shared", meter_slug="m", spend_limit="1")
    inside, leave = threading.Barrier(3), threading.Barrier(2)

    def enter(wait_to_leave: bool) -> list[str | None]:
        seen = [present()]
        with block:
            seen.append(present())
            inside.wait(10)
            if wait_to_leave:
                leave.wait(10)
            with block:
                seen.append(present())
            seen.append(present())
        return [*seen, present()]

    with ThreadPoolExecutor(2) as pool:
        late, soon = pool.submit(enter, True), pool.submit(enter, False)
        inside.wait(10)
        assert soon.result(10) == [None, "shared", "shared", "shared", None]
        leave.wait(10)
        assert late.result(10) == [None, "shared", "shared", "shared", None]
        # The pool's threads go on, and bill nobody.
        assert pool.submit(present).result(10) is None

    async def task(order: int, turns: list[asyncio.Event], leave: list[asyncio.Event]) -> str | None:
        with block, track_usage():
            turns[order].set()
            await leave[order].wait()
        if order + 1 < len(leave):
            leave[order + 1].set()
        return present()

    async def tasks() -> list[str | None]:
        turns, leave = [asyncio.Event() for _ in range(3)], [asyncio.Event() for _ in range(3)]
        running = [asyncio.create_task(task(order, turns, leave)) for order in range(3)]
        for turn in turns:
            await turn.wait()
        leave[0].set()
        return await asyncio.gather(*running)

    assert asyncio.run(tasks()) == [None, None, None]


async def read_one(values: AsyncIterator[int]) -> None:
    async for _ in values:
        break


async def rest_of(values: AsyncIterator[int]) -> list[int]:
    return [each async for each in values]


async def test_a_block_left_in_another_context_is_no_error() -> None:
    async def left_early() -> AsyncIterator[int]:
        with billed_to(customer_id="left", meter_slug="m"), track_usage():
            yield 1
            yield 2

    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    with pytest.warns(UserWarning, match="around a `yield`"):
        await read_one(left_early())
    gc.collect()
    # The loop closes the generator in a task of its own.
    for _ in range(10):
        await asyncio.sleep(0)
    assert errors == []


BLOCKS_IN_GENERATORS = pytest.mark.filterwarnings("ignore:A `with billed_to:UserWarning")


@BLOCKS_IN_GENERATORS
class TestBlocksLeftOutOfOrder:
    """Whatever the order, a block that is left takes its own customer away and nobody else's."""

    @staticmethod
    def hold(block: billed_to) -> Iterator[None]:
        with block:
            yield

    def test_two_generators_closed_in_the_order_they_were_opened(self) -> None:
        first, second = self.hold(billed_to("a", "m", {"from": "a"})), self.hold(billed_to("b", "m"))
        next(first)
        next(second)
        first.close()
        identity = resolve_billing(None, None)
        assert (identity.billing.customer_id, identity.metadata) == ("b", {})
        second.close()
        assert present() is None

    def test_an_abandoned_generator_of_a_shared_block_ends_nobody_elses_part(self) -> None:
        block = billed_to("shared", "m")
        context = contextvars.copy_context()
        held = self.hold(block)
        context.run(next, held)
        with block:
            # Closed here, as by the garbage collector: the part that it entered is in the other context.
            held.close()
            assert present() == "shared"
        assert present() is None
        assert context.run(present) is None

    def test_a_generator_that_is_closed_elsewhere_ends_its_own_part_whoever_was_closed_so_before(self) -> None:
        block, contexts = billed_to("shared", "m"), []
        for _ in range(200):
            contexts.append(contextvars.copy_context())
            held = self.hold(block)
            contexts[-1].run(next, held)
            held.close()
            assert contexts[-1].run(present) is None

    async def test_an_abandoned_async_generator_takes_its_customer_and_its_totals_along(self) -> None:
        async def held() -> AsyncIterator[int]:
            with billed_to("left", "m"), track_usage():
                yield 1
                yield 2

        await read_one(held())
        gc.collect()
        # The loop closes it in a task, whose context is a copy of this one.
        for _ in range(10):
            await asyncio.sleep(0)
        context = resolve_billing(None, None)
        assert (context.billing.customer_id, context.listeners) == (None, ())

        async def in_a_task() -> str | None:
            return present()

        assert await asyncio.create_task(in_a_task()) is None

    def test_a_generator_of_a_shared_block_ends_its_own_part_before_the_one_around_it(self) -> None:
        block = billed_to("shared", "m")
        block.__enter__()
        held = self.hold(block)
        next(held)
        block.__exit__(None, None, None)
        assert present() == "shared"
        held.close()
        assert present() is None

    async def test_a_generator_that_another_task_reads_to_its_end_takes_its_customer_along(self) -> None:
        async def events() -> AsyncIterator[int]:
            with billed_to("left", "m"):
                yield 1
                yield 2

        stream = events()
        await anext(stream)
        assert await asyncio.create_task(rest_of(stream)) == [2]
        assert present() is None

    async def test_tasks_that_a_generator_started_in_its_block_stay_with_its_customer_when_it_is_closed(self) -> None:
        later, seen = asyncio.Event(), []

        async def agent() -> None:
            await later.wait()
            seen.append(present())

        async def events() -> AsyncIterator[asyncio.Task[None]]:
            with billed_to("left", "m"):
                yield asyncio.create_task(agent())
                yield asyncio.create_task(agent())

        # As a web server does for a reader who has gone.
        stream = events()
        running = await anext(stream)
        await stream.aclose()
        assert present() is None
        later.set()
        await running
        assert seen == ["left"]

    def test_a_call_that_is_abandoned_leaves_the_blocks_alone_where_it_is_closed(self) -> None:
        async def call() -> None:
            with listen((), "run-1"):
                await asyncio.Event().wait()

        async def abandon() -> Coroutine[Any, Any, None]:
            with billed_to("lost", "m"):
                coroutine = call()
                in_new_context(coroutine.send, None)
                return coroutine

        coroutine = asyncio.run(abandon())
        with billed_to("here", "m"):
            coroutine.close()
            assert present() == "here"
        assert present() is None

    def test_those_that_were_ended_elsewhere_do_not_pile_up(self) -> None:
        context = contextvars.copy_context()
        for _ in range(3):
            held = self.hold(billed_to("a", "m"))
            context.run(next, held)
            held.close()
            with billed_to("b", "m"):
                pass
        context.run(billed_to("b", "m").__enter__)
        assert len(context[entries]) == 1

    def test_totals_that_are_left_out_of_order_count_no_further(self) -> None:
        first, second = track_usage(), track_usage()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert resolve_billing(None, None).listeners == (second.usage,)
        second.__exit__(None, None, None)
        assert resolve_billing(None, None).listeners == ()

    def test_exit_stacks_leave_blocks_in_any_order(self) -> None:
        outer, inner = ExitStack(), ExitStack()
        outer.enter_context(billed_to("outer", "m"))
        inner.enter_context(billed_to("inner", "m"))
        outer.close()
        assert present() == "inner"
        inner.close()
        assert present() is None


def test_a_block_around_a_yield_warns_and_one_between_two_does_not(recwarn: pytest.WarningsRecorder) -> None:
    def around() -> Iterator[str | None]:
        with billed_to("a", "m"):
            yield present()

    def between() -> Iterator[str | None]:
        with billed_to("a", "m"):
            customer = present()
        yield customer

    @contextmanager
    def customer() -> Iterator[None]:
        with billed_to("a", "m"):
            yield

    def on_one_line() -> Iterator[str | None]:
        # fmt: off
        with billed_to("a", "m"): yield present()  # noqa: E701
        # fmt: on

    def in_brackets() -> Iterator[str | None]:
        with (
            nullcontext(),
            billed_to("a", "m"),
        ):
            yield present()

    assert list(between()) == ["a"]
    with customer():
        assert present() == "a"
    assert not recwarn.list
    for generator in (around, on_one_line, in_brackets):
        with pytest.warns(UserWarning, match="decorate the generator"):
            assert list(generator()) == ["a"]


class TestForwardTokenAsCredential:
    """A forward token that can be read says who pays, below everything else that does."""

    SECRET = "aks_test_1"
    TOKEN = Billing(customer_id="t", meter_slug="tm", provider_key="tk").forward_token("aks_test_1")

    def sent(self, billing: Billing | None = None, **call: Any) -> dict[str, Any]:
        identity = resolve_billing(billing, None, api_key=self.TOKEN, **call)
        fields = decode_forward_token(resolve_access(self.TOKEN, "https://lava.example/v1").bearer(identity.billing))
        assert fields is not None
        assert fields.pop("secret_key") == self.SECRET
        return fields

    def test_alone_it_is_sent_as_it_is(self) -> None:
        identity = resolve_billing(None, None, api_key=self.TOKEN)
        assert resolve_access(self.TOKEN).bearer(identity.billing) == self.TOKEN
        assert identity.billing.customer_id == "t"

    def test_what_lies_over_it_keeps_the_rest(self) -> None:
        assert self.sent(Billing(provider_key="own")) == {
            "customer_id": "t",
            "meter_slug": "tm",
            "provider_key": "own",
        }
        with billed_to(customer_id="b"):
            assert self.sent() == {"customer_id": "b", "meter_slug": "tm", "provider_key": "tk"}
        with billed_to(meter_slug="other"):
            assert self.sent() == {"customer_id": "t", "meter_slug": "other", "provider_key": "tk"}

    def test_another_customer_brings_a_meter_and_a_switch_of_its_own(self) -> None:
        token = Billing(customer_id="t", meter_slug="tm", disable_billing=True).forward_token(self.SECRET)
        billing = Billing(customer_id="c", meter_slug="cm")
        for api_key in (token, lambda: token):
            identity = resolve_billing(None, None, call_billing=billing, api_key=api_key)
            bearer = resolve_access(api_key).bearer(identity.billing)
            assert decode_forward_token(bearer) == {
                "secret_key": self.SECRET,
                "customer_id": "c",
                "meter_slug": "cm",
            }

    def test_its_switch_is_its_own_customers(self) -> None:
        token = Billing(customer_id="t", meter_slug="tm", disable_billing=True).forward_token(self.SECRET)
        for api_key in (token, lambda: token):
            with billed_to(customer_id="b", meter_slug="bm"):
                identity = resolve_billing(None, None, api_key=api_key)
            assert identity.billing == Billing(customer_id="b", meter_slug="bm")
            bearer = resolve_access(api_key).bearer(identity.billing)
            assert bearer == identity.billing.forward_token(self.SECRET)

    def test_it_names_the_payer(self) -> None:
        assert payer_of(self.TOKEN) == "the plan of customer 't' on meter 'tm'"
        assert payer_of("aks_live_1") == "the merchant's wallet"
        assert payer_of("opaque") == "the wallet that the forward token names"
        assert Billing(meter_slug="m").payer == "the merchant's wallet, on meter 'm'"

    def test_an_older_form_is_sent_as_it_is(self) -> None:
        token = base64.b64encode(b'{"secret_key":"aks_test_1","customer_id":"c","connection_id":"x"}').decode()
        assert resolve_access(token).bearer(resolve_billing(None, None, api_key=token).billing) == token


@pytest.mark.parametrize("value", ["cus_1", 1, ["c", "m"], {"customer": "c"}, {"customer_id": "c"}])
def test_billing_of_another_kind_is_refused_with_what_to_write(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Billing"):
        to_billing(value)
    with pytest.raises(ConfigurationError, match=r"Billing"):
        LavaMistral(api_key="aks_test_1", billing=value)
    with pytest.raises(ConfigurationError, match=r"Billing"):
        LavaMistral(api_key="aks_test_1").chat([{"role": "user", "content": "x"}], billing=value)


def test_billing_may_be_given_as_its_fields() -> None:
    assert to_billing({"customer_id": "c", "meter_slug": "m"}) == Billing("c", "m")
    assert to_billing(None) is None


@pytest.mark.parametrize(
    ("metadata", "names"),
    [
        ({"user-id": "1"}, "'user-id'"),
        ({"": "1"}, "''"),
        ({"k" * 256: "1"}, "255"),
        ({"ключ": "1"}, "ключ"),
        ({"k": ""}, "'k'"),
        ({"k": "v" * 256}, "256"),
        ({"k": 1}, "str("),
        ({1: "v"}, "1"),
        ({f"k{n}": "v" for n in range(101)}, "101"),
        ([("k", "v")], "mapping"),
    ],
)
def test_metadata_that_lava_refuses_is_refused_by_name(metadata: Any, names: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_metadata(metadata)
    assert names in str(caught.value)
    with pytest.raises(ConfigurationError):
        billed_to(metadata=metadata)


def test_metadata_that_grows_too_large_in_sum_is_refused() -> None:
    many = {f"a{n}": "v" for n in range(60)}
    with billed_to(metadata={f"b{n}": "v" for n in range(60)}), pytest.raises(ConfigurationError, match="120"):
        resolve_billing(None, many)


def test_metadata_at_its_limits_passes() -> None:
    limits = {f"k{n}": "v" * 255 for n in range(99)} | {"k" * 255: "ü"}
    assert check_metadata(limits) == limits
    assert check_metadata(None) == {}


def test_billing_survives_pickling() -> None:
    billing = Billing(customer_id="c", meter_slug="m", provider_key=SecretStr("own"))
    assert pickle.loads(pickle.dumps(billing)) == billing
    assert billing.payer == "the plan of customer 'c' on meter 'm'"
    assert "merchant" in Billing(customer_id="c", meter_slug="m", disable_billing=True).payer


@pytest.mark.parametrize("url", ["https://api.lava.so/v1\n", "https://api.lava.so/v1 ", "https://api lava.so/v1"])
def test_a_base_url_with_white_space_is_refused_by_its_names(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"LAVA_BASE_URL.*white space"):
        check_base_url(url)


def test_a_key_in_quotation_marks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="LAVA_SECRET_KEY begins with a quotation mark"):
        reveal('"aks_test_1"', "LAVA_SECRET_KEY")


def test_a_key_of_the_documentation_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="api_key holds a … as documentation writes it"):
        reveal("aks_live_…", "api_key")


def test_a_base_url_with_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="is not one"):
        check_base_url("https://lava.example:abc/v1")


@pytest.mark.parametrize("name", ["MISTRAL_API_KEY", "LAVA_API_KEY"])
def test_without_a_key_the_error_names_the_gateway_and_a_key_under_another_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigurationError, match="lava-mistral gateway") as caught:
        resolve_access()
    assert name not in str(caught.value)
    monkeypatch.setenv(name, "abcdefgh")
    with pytest.raises(ConfigurationError, match=f"{name} is, but") as caught:
        resolve_access()
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["https", "http", "ftp"])
@pytest.mark.parametrize("rest", ["@api.lava.so/v1", "@api.lava.so /v1", "@127.0.0.1:9/v1?x=1"])
def test_no_error_shows_the_password_of_a_base_url(scheme: str, rest: str) -> None:
    with pytest.raises(ConfigurationError, match="plain scheme, host and path") as caught:
        resolve_access("aks_live_a", f"{scheme}://ada:enchantress{rest}")
    assert "enchantress" not in str(caught.value)


def test_what_a_function_with_a_block_holds_is_free_when_it_returns() -> None:
    class Document:
        pass

    def read() -> weakref.ref[Document]:
        document = Document()
        with billed_to("customer", "meter"):
            return weakref.ref(document)

    def pages() -> Iterator[weakref.ref[Document]]:
        document = Document()
        with billed_to("customer", "meter"):
            reference = weakref.ref(document)
        yield reference

    gc.disable()
    try:
        assert [reference() for reference in (read(), *pages())] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((42, "chat"), "customer_id .*billed_to must be non-empty text, not 42"),
        (("cus", 5), "meter_slug .*billed_to must be non-empty text, not 5"),
        ((" ", "chat"), "customer_id .*billed_to must be non-empty text, not ' '"),
        ({"disable_billing": "no"}, "disable_billing must be a bool, not 'no'"),
        ({"provider_key": ""}, "provider_key is empty"),
    ],
)
def test_a_block_refuses_what_is_no_name_of_a_payer_at_once(given: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        billed_to(**given) if isinstance(given, dict) else billed_to(*given)


def test_a_block_without_a_meter_is_named_where_no_other_has_one() -> None:
    with (
        billed_to("cus_2"),
        pytest.raises(ConfigurationError, match=r"needs the meter.*billed_to\('cus_2', \"your-meter\"\)"),
    ):
        resolve_billing(None, None)
    with billed_to(meter_slug="chat"), billed_to("cus_2", disable_billing=True):
        assert resolve_billing(None, None).billing == Billing("cus_2", "chat", disable_billing=True)
