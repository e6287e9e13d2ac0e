from __future__ import annotations

import pickle
import re
import threading
from datetime import date
from decimal import Decimal

import pytest

from lava_mistral.pricing import catalog
from lava_mistral.pricing.catalog import CAPABILITIES, Model, add_model, get_model, models, warn_if_deprecated
from tests.conftest import SHARED

PRICE_LIST = SHARED / "facts" / "lava-mistral-provider.txt"


def test_all_models_and_both_prices_are_those_of_lavas_list() -> None:
    if not PRICE_LIST.is_file():
        pytest.skip("Lava's price list (../shared/facts) is not beside the project")
    listed = {
        row[1]: (Decimal(row[2]), Decimal(row[3] or 0))
        for line in PRICE_LIST.read_text().splitlines()
        if (row := re.fullmatch(r"([a-z0-9.-]+)\$([0-9.]+)(?:\$([0-9.]+)|Free)", line.strip()))
    }
    assert len(listed) == 34
    assert {model.id: (model.input_price, model.output_price) for model in models()} == listed


def test_every_figure_has_a_source() -> None:
    for model in models():
        figures = {"prices", "context_window", "capabilities", "status"}
        assert set(model.sources) == figures | ({"release"} if model.release_date else set()), model.id
        assert all(re.search(r"\(https://\S+\)", source) for source in model.sources.values()), model.id


def test_every_model_is_complete() -> None:
    for model in models():
        assert model.known
        assert isinstance(model.input_price, Decimal)
        assert 8_192 <= model.context_window <= 262_144
        assert model.capabilities <= CAPABILITIES
        assert model.can("chat") != model.can("embeddings")


@pytest.mark.parametrize(
    ("id", "capability", "expected"),
    [
        ("mistral-small-2603", "vision", True),
        ("mistral-small-2603", "reasoning", True),
        ("mistral-large-latest", "reasoning", False),
        ("magistral-medium-latest", "reasoning", True),
        ("pixtral-12b-2409", "vision", True),
        ("open-mistral-nemo", "vision", False),
        ("codestral-latest", "tools", True),
        ("mistral-embed", "tools", False),
    ],
)
def test_capabilities(id: str, capability: catalog.Capability, expected: bool) -> None:
    assert get_model(id).can(capability) is expected


def test_retired_models_name_their_day_and_what_takes_their_place() -> None:
    nemo = get_model("open-mistral-nemo")
    assert (nemo.status, nemo.retired_on, nemo.replacement) == ("retired", date(2026, 7, 31), "ministral-8b-2512")
    assert nemo.notice == "open-mistral-nemo is retired since 2026-07-31: use ministral-8b-2512."
    assert get_model("mistral-small-2603").notice == ""
    assert {model.status for model in models()} == {"active", "deprecated", "retired"}


def test_a_retired_model_is_warned_of_at_its_first_use_alone(caplog: pytest.LogCaptureFixture) -> None:
    add_model(Model("old-one", status="retired", replacement="new-one"))
    for name in ("old-one", "old-one", "mistral-small-2603", "unknown-one"):
        warn_if_deprecated(name)
    assert [record.getMessage() for record in caplog.records] == ["old-one is retired: use new-one."]


@pytest.mark.parametrize("id", ["mistral-tiny", "mistral-next-9000", "", "💥", "ft:", "ft"])
def test_an_unknown_model_works_with_cautious_defaults(id: str) -> None:
    model = get_model(id)
    assert not model.known
    assert (model.input_price, model.output_price) == (None, None)
    assert model.context_window == 32_768
    assert model.can("chat")
    assert model.can("tools")
    assert not model.can("vision")


def test_an_unknown_embedding_model_is_told_by_its_name() -> None:
    model = get_model("mistral-embed-2606")
    assert model.capabilities == {"embeddings"}
    assert model.context_window == 8_192


def test_a_fine_tuned_model_reads_as_much_as_its_base_but_has_no_price() -> None:
    model = get_model("ft:mistral-large-latest:acme:20260101:abc")
    assert model.context_window == get_model("mistral-large-latest").context_window
    assert model.capabilities == get_model("mistral-large-latest").capabilities
    assert model.id == "ft:mistral-large-latest:acme:20260101:abc"
    assert (model.input_price, model.known) == (None, False)


def test_models_can_be_added_and_replaced() -> None:
    add_model(Model("acme-1", input_price=Decimal("0.20"), output_price=Decimal(0), context_window=1_000))
    assert get_model("acme-1").output_price == 0
    assert models()[-1].id == "acme-1"
    cheaper = Model("mistral-embed", Decimal("0.05"), Decimal(0), 8_192, frozenset(("embeddings",)), known=False)
    add_model(cheaper)
    assert get_model("mistral-embed").input_price == Decimal("0.05")
    assert get_model("mistral-embed").known
    assert len(models()) == 35


def test_adding_from_many_threads_loses_nothing() -> None:
    barrier = threading.Barrier(8)

    def add(thread: int) -> None:
        barrier.wait()
        for number in range(50):
            add_model(Model(f"acme-{thread}-{number}"))

    threads = [threading.Thread(target=add, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models()) == 34 + 400


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": ""}, "needs an id"),
        ({"input_price": Decimal(1)}, "both prices or neither"),
        ({"input_price": Decimal(-1), "output_price": Decimal(0)}, "zero or more"),
        ({"input_price": Decimal("NaN"), "output_price": Decimal(0)}, "zero or more"),
        ({"context_window": 0}, "at least 1"),
        ({"capabilities": {"chat", "telepathy"}}, "telepathy"),
    ],
)
def test_a_senseless_model_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Model(**{"id": "acme-1", **fields})  # type: ignore[arg-type]


def test_a_price_must_be_a_decimal() -> None:
    with pytest.raises(TypeError, match="Decimal"):
        Model("acme-1", input_price=0.1, output_price=Decimal(0))  # type: ignore[arg-type]


def test_a_model_is_hashable_and_picklable() -> None:
    model = get_model("mistral-small-2603")
    assert {model: 1}[pickle.loads(pickle.dumps(model))] == 1
    assert pickle.loads(pickle.dumps(model)).sources == model.sources
