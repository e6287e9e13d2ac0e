"""The simulated model: extractive answers, tools, schemas; and never anything made up."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lava_mistral.gateway.model import text as pieces
from lava_mistral.gateway.model.fill import Evidence, fill
from lava_mistral.gateway.model.prompt import NOTHING
from lava_mistral.gateway.model.reply import reply_to as answer
from lava_mistral.pricing.token_counting import count_tokens

MANUAL = """
# Returns

Customers may return a product within 30 days. Refunds go to the original
payment method and take up to five working days. Opened software can't be returned.

# Shipping

- Standard delivery takes three days and is free above 50 EUR.
- Express delivery takes one day and costs 9 EUR.

Our office is in Lyon, at 12 rue de la République.
"""


def ask(*messages: Any, **parameters: Any) -> str:
    turns = [
        {"role": role, "content": content}
        for role, content in (message if isinstance(message, tuple) else ("user", message) for message in messages)
    ]
    return answer({"messages": turns, **parameters}).text


def tool(
    name: str, description: str = "", required: tuple[str, ...] | None = None, **properties: Any
) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
WEATHER = tool("get_weather", "Get the current weather for a city.", city=TEXT)
ADD = tool("add", "Add two numbers.", a=WHOLE, b=WHOLE)
SEARCH = tool("search_docs", "Search the documentation.", query=TEXT)


def calls(request: str, *tools: dict[str, Any], **parameters: Any) -> list[tuple[str, dict[str, Any]]]:
    body = {"messages": [{"role": "user", "content": request}], "tools": list(tools), **parameters}
    return [tuple(call) for call in answer(body).calls]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How long do refunds take?", "Refunds go to the original payment method and take up to five working days."),
        ("How much does express delivery cost?", "- Express delivery takes one day and costs 9 EUR."),
        ("Where is the office?", "Our office is in Lyon, at 12 rue de la République."),
        ("Can opened software be returned?", "Opened software can't be returned."),
    ],
)
@pytest.mark.parametrize(
    "prompt",
    [
        "Answer the question based only on the following context:\n\n{context}\n\nQuestion: {question}",
        "Context information is below.\n-----\n{context}\n-----\nGiven the context information and not prior "
        "knowledge, answer the query.\nQuery: {question}\nAnswer: ",
        "{context}\n\n{question}",
    ],
)
def test_it_answers_from_the_context(prompt, question, expected):
    assert ask(prompt.format(context=MANUAL, question=question)) == expected


def test_the_context_may_be_anywhere():
    assert "one day" in ask(("system", f"You are helpful.\n{MANUAL}"), "How fast is express delivery?")
    assert "one day" in ask(MANUAL, ("assistant", "Thank you."), "How fast is express delivery?")


def test_it_says_when_it_found_nothing():
    assert ask(("system", MANUAL), "Who won the world cup in 1998?") == NOTHING
    assert ask("Tell me a joke", ("assistant", NOTHING), "Tell me about what I found in the text") == NOTHING


def test_it_says_what_it_is_where_it_was_given_nothing_to_read():
    said = ask("Tell me a joke about penguins")
    assert "simulated model" in said
    assert said.endswith("Tell me a joke about penguins")


@pytest.mark.parametrize("greeting", ["Hello", "hi there!", "Good morning.", "Bonjour", "Hello, world!"])
def test_it_greets_back(greeting):
    assert ask(greeting).startswith("Hello")


def test_it_remembers_what_it_was_told():
    told = ask("My name is Anna and I live in Oslo.")
    assert told == "Noted: My name is Anna and I live in Oslo."
    turns = ["My name is Anna.", ("assistant", told), "What is my name?"]
    assert ask(*turns) == "My name is Anna."


def test_it_says_what_it_is_told_to_say():
    assert ask('Say "good evening".') == "good evening"
    assert ask("Reply with 'pong' and nothing else") == "pong"


def test_it_summarizes_by_central_sentences():
    said = ask(f"Summarize the following text.\n\n{MANUAL}")
    assert "delivery takes" in said
    assert set(pieces.sentences(said)) <= set(pieces.sentences(MANUAL))


def test_it_does_not_pretend_to_see():
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": "u"}]
    assert "an image" in ask(("user", parts))
    assert "a document" in ask(("user", [{"type": "document_url", "document_url": "u"}]))


def test_auto_calls_a_tool_only_when_the_request_is_about_it():
    assert calls("What's the weather in Paris?", WEATHER, ADD, SEARCH) == [("get_weather", {"city": "Paris"})]
    assert calls("Hello", WEATHER, ADD, SEARCH) == []
    assert calls("What is the capital of France?", WEATHER, ADD) == []
    assert calls("Add 3 and 4", WEATHER, ADD, SEARCH) == [("add", {"a": 3, "b": 4})]
    assert calls("What's the weather in Paris?", WEATHER, tool_choice="none") == []


def test_several_tools_are_called_at_once():
    both = calls("What is the weather in Paris, and add 3 and 4.", WEATHER, ADD)
    assert both == [("get_weather", {"city": "Paris"}), ("add", {"a": 3, "b": 4})]
    assert len(calls("What is the weather in Paris, and add 3 and 4.", WEATHER, ADD, parallel_tool_calls=False)) == 1
    assert calls("What's the weather in Paris, Rome and San Francisco, CA?", WEATHER) == [
        ("get_weather", {"city": city}) for city in ("Paris", "Rome", "San Francisco, CA")
    ]
    # What one part of a request names, its other parts are about too.
    time = tool("get_time", "The time in a city.", city=TEXT)
    assert calls("What is the weather and the time in Oslo?", WEATHER, time) == [
        ("get_weather", {"city": "Oslo"}),
        ("get_time", {"city": "Oslo"}),
    ]
    assert calls("What is the weather and the time in Oslo, Rome and Paris?", WEATHER, time) == [
        (name, {"city": city}) for name in ("get_weather", "get_time") for city in ("Oslo", "Rome", "Paris")
    ]
    # A word that two tools share calls the one that fits best.
    web = tool("search_web", "Search the web.", query=TEXT)
    assert [name for name, _ in calls("search the docs for rate limits", web, SEARCH)] == ["search_docs"]


def test_a_chosen_tool_is_called_whatever_is_said():
    chosen = {"type": "function", "function": {"name": "add"}}
    assert calls("Hello", WEATHER, ADD, tool_choice=chosen)[0][0] == "add"
    for choice in ("any", "required"):
        assert len(calls("Hello", WEATHER, ADD, tool_choice=choice)) == 1
        assert calls("What's the weather in Oslo?", ADD, WEATHER, tool_choice=choice) == [
            ("get_weather", {"city": "Oslo"})
        ]


def history(*called: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What's the weather in Oslo?"}]
    for at, name in enumerate(called):
        call = {"id": f"abcdefgh{at}", "function": {"name": name, "arguments": '{"city": "Oslo"}'}}
        messages += [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": '{"sky": "clear", "degrees": -3}', "tool_call_id": f"abcdefgh{at}"},
        ]
    return messages


def test_after_a_result_it_answers_from_it():
    reply = answer({"messages": history("get_weather"), "tools": [WEATHER, ADD]})
    assert (reply.calls, reply.text) == ([], "sky: clear, degrees: -3")


def test_under_any_an_agent_comes_to_an_end():
    final = tool("final_result", "The final response.", summary=TEXT)
    body = {"messages": history("get_weather"), "tools": [WEATHER, final], "tool_choice": "any"}
    [call] = answer(body).calls
    assert (call.name, call.arguments) == ("final_result", {"summary": '{"sky": "clear", "degrees": -3}'})


def test_of_long_results_it_says_what_was_asked():
    messages = history("get_weather")
    messages[-1]["content"] = (
        "It rains in Bergen. The weather in Oslo is sunny today. " + "Nothing else happened. " * 100
    )
    assert answer({"messages": messages}).text == "The weather in Oslo is sunny today."
    messages[-1]["content"] = ""
    assert answer({"messages": messages}).text == "The tool returned nothing."


def test_what_tools_returned_goes_into_the_fields_of_the_same_name():
    results = [
        {"city": "Oslo", "degrees": -3, "sky": "overcast"},
        {"city": "Rome", "degrees": 15, "sky": "clear"},
    ]
    messages = [
        {"role": "user", "content": "How is the weather?"},
        *({"role": "tool", "content": json.dumps(result)} for result in results),
    ]
    place = {
        "type": "object",
        "properties": {"city": TEXT, "sky": {"enum": ["clear", "overcast"]}, "degrees": {"type": ["integer", "null"]}},
        "required": ["city", "sky", "degrees"],
    }
    several = {"type": "object", "properties": {"places": {"type": "array", "items": place}}, "required": ["places"]}
    oslo, rome = (
        {"city": city, "sky": sky, "degrees": degrees}
        for city, sky, degrees in (("Oslo", "overcast", -3), ("Rome", "clear", 15))
    )
    for schema, expected in ((several, {"places": [oslo, rome]}), (place, oslo)):
        wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
        assert json.loads(answer({"messages": messages, "response_format": wanted}).text) == expected
    # A value that does not fit is not taken.
    number = {"type": "object", "properties": {"sky": WHOLE}, "required": ["sky"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "weather", "schema": number}}
    assert isinstance(json.loads(answer({"messages": messages, "response_format": wanted}).text)["sky"], int)


PERSON = {
    "type": "object",
    "properties": {"name": TEXT, "age": WHOLE, "email": {"type": "string", "format": "email"}},
    "required": ["name", "age", "email"],
}


def filled(schema: dict[str, Any], prompt: str) -> Any:
    value = fill(schema, Evidence(prompt))
    jsonschema.validate(value, schema)
    return value


def test_a_schema_is_filled_from_the_prompt():
    prompt = "Anna Berg is 41 years old; write to anna@example.com."
    assert filled(PERSON, prompt) == {"name": "Anna Berg", "age": 41, "email": "anna@example.com"}


@pytest.mark.parametrize(
    ("schema", "prompt", "expected"),
    [
        (WHOLE, "between 3 and 7", 3),
        ({"type": "integer", "minimum": 5}, "between 3 and 7", 7),
        ({"type": "integer", "minimum": 50}, "nothing", 50),
        ({"type": "integer", "exclusiveMaximum": 0}, "nothing", -1),
        ({"type": "integer", "multipleOf": 4, "minimum": 10}, "7", 12),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "5", 0.5),
        ({"type": "number"}, "it is 2.5 or 1e3", 2.5),
        ({"type": "boolean"}, "It is on.", True),
        ({"type": "boolean"}, "It is not on.", False),
        ({"type": "null"}, "x", None),
        ({"const": 7}, "x", 7),
        ({"enum": ["red", "dark_green"]}, "Make it dark green", "dark_green"),
        ({"enum": [None, "red"]}, "x", "red"),
        ({"anyOf": [{"type": "null"}, TEXT]}, 'call it "Max"', "Max"),
        ({"anyOf": [TEXT, WHOLE]}, "take 7", 7),
        ({"type": ["null", "integer"]}, "take 7", 7),
        ({"type": "array", "items": WHOLE}, "1, 2 and 3", [1, 2, 3]),
        ({"type": "array", "items": TEXT}, "the tags 'a' and 'b'", ["a", "b"]),
        ({"type": "array", "items": WHOLE, "maxItems": 2}, "1, 2 and 3", [1, 2]),
        ({"type": "array", "items": TEXT, "minItems": 2}, "Oslo or Rome", ["Rome", "Oslo or Rome"]),
        ({"type": "array", "items": {"enum": ["x", "y", "z"]}}, "z and x", ["z", "x"]),
        ({"type": "array", "items": {"type": "string", "enum": ["x", "y", "z"]}}, "z and x", ["z", "x"]),
        ({"type": "string", "format": "date"}, "on 2026-02-03", "2026-02-03"),
        ({"type": "string", "format": "uri"}, "see https://example.com/a.", "https://example.com/a"),
        ({"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}, "order AB123 please", "AB123"),
        ({"type": "string", "pattern": "^[a-z]+$", "minLength": 3}, "me too", "too"),
        ({"type": "string", "pattern": r"^[A-Z]{3}-\d{4}$"}, "nothing", "AAA-0000"),
        ({"type": "string", "pattern": "^(yes|no)$"}, "maybe", "yes"),
        ({"type": "string", "pattern": r"^\+?[0-9]{7,15}$"}, "call", "0000000"),
        ({"type": "string", "pattern": r"^v\d+(?:\.\d+){2}\b"}, "newest", "v0.0.0"),
        ({"type": "string", "pattern": "^[^@\\s]+@[^@]+\\.(com|org)$"}, "write", "a@a.com"),
        ({"type": "string", "pattern": "^(a|b)*$", "minLength": 4, "maxLength": 5}, "x", "aaaa"),
        ({"type": "string", "format": "duration"}, "it takes PT5M or so", "PT5M"),
        ({"type": "string", "format": "duration"}, "Paris", "P1D"),
        ({"type": "string", "format": "ipv4"}, "Paris", "127.0.0.1"),
        ({"type": "string", "maxLength": 3}, "abcdef", "abc"),
        ({"type": "string", "minLength": 5}, "abc", "abc.."),
        (
            {"allOf": [{"properties": {"a": WHOLE}, "required": ["a"]}, {"properties": {"b": TEXT}}]},
            '7 "x"',
            {"a": 7, "b": "x"},
        ),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "integer"}}}, "7", 7),
        ({"type": "object", "additionalProperties": WHOLE}, 'put 5 under "k"', {"k": 5}),
        (
            {"type": "object", "additionalProperties": WHOLE, "propertyNames": {"enum": ["red", "blue"]}},
            "3 and 4",
            {"red": 3, "blue": 4},
        ),
        ({"type": "object", "properties": {"a": WHOLE, "b": TEXT}}, "x", {}),
    ],
)  # fmt: skip
def test_each_kind_of_schema(schema, prompt, expected):
    assert filled(schema, prompt) == expected


@pytest.mark.parametrize("wanted", ["response_format", "tools"])
@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("How long do refunds take?", {"satisfied": True, "answer": "Refunds take `five` days."}),
        ("Can gifts be returned?", {"satisfied": True, "answer": "Gifts can not be returned."}),
        ("Who won the race?", {"satisfied": False}),
    ],
)
def test_a_schema_asks_whether_the_context_has_the_answer(question, expected, wanted):
    schema = {
        "type": "object",
        "properties": {"satisfied": {"type": "boolean"}, "answer": TEXT},
        "required": ["satisfied", "answer"],
    }
    prompt = (
        "Context information is below.\n-----\nRefunds take `five` days. Gifts can not be returned.\n-----\n"
        f"Given the context information and not prior knowledge, answer the query.\nQuery: {question}\nAnswer: "
    )
    body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}]}
    if wanted == "tools":
        reply = answer({**body, "tools": [tool("Reply", **schema["properties"])], "tool_choice": "any"})
        filled_in = reply.calls[0].arguments
    else:
        form = {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}
        filled_in = json.loads(answer({**body, "response_format": form}).text)
    assert expected.items() <= filled_in.items()


def test_a_boolean_is_filled_from_what_is_told_not_from_the_instructions():
    lit = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}
    prompt = "Use this context. If you don't know, do not make anything up.\nContext: {}\nQuestion: Is it lit?"
    assert ask(prompt.format("The lighthouse is lit at night."), response_format=lit) == "true"
    assert ask(prompt.format("The lighthouse is not lit at night."), response_format=lit) == "false"
    assert ask("Turn it on, don't wait.", response_format=lit) == "false"


def test_a_schema_that_contains_itself_ends():
    node = {
        "type": "object",
        "properties": {"value": WHOLE, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["value", "next"],
    }
    depth, value = 0, filled(node, "1 2 3")
    while value is not None:
        depth, value = depth + 1, value["next"]
    assert depth < 20
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
    }
    filled(tree, "x")


def test_json_modes():
    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    told = ask("Anna Berg is 41 years old, anna@example.com.", response_format=schema)
    assert json.loads(told) == {"name": "Anna Berg", "age": 41, "email": "anna@example.com"}
    free = ask('Return JSON with the keys "city" and "country" for Lyon', response_format={"type": "json_object"})
    assert json.loads(free).keys() == {"city", "country"}
    plain = ask(f"{MANUAL}\n\nIn JSON: where is the office?", response_format={"type": "json_object"})
    assert json.loads(plain) == {"answer": "Our office is in Lyon, at 12 rue de la République."}


SCHEMAS = st.recursive(
    st.sampled_from(
        [TEXT, WHOLE, {"type": "boolean"}, {"type": "null"}, {"enum": ["a", 1, None]}, {"type": "number", "minimum": 3}]
    ),
    lambda inner: st.one_of(
        st.builds(lambda items, least: {"type": "array", "items": items, "minItems": least}, inner, st.integers(0, 3)),
        st.builds(lambda members: {"anyOf": members}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(
            lambda fields, all_: {"type": "object", "properties": fields, "required": list(fields) if all_ else [],
                                  "additionalProperties": False},
            st.dictionaries(st.sampled_from(["name", "answer", "count", "query"]), inner, max_size=4), st.booleans(),
        ),
    ),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(SCHEMAS, st.text(max_size=60))
def test_whatever_the_schema_and_prompt_it_is_filled_right(schema, prompt):
    jsonschema.validate(fill(schema, Evidence(prompt)), schema)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_tokens_are_the_text_again_and_as_many_as_counted(text):
    split = pieces.split(text)
    assert "".join(split) == text
    assert len([piece for piece in split if piece.strip()]) == pieces.count(text)


EAST_ASIAN = [
    "你好世界" * 30,
    "人工智能是计算机科学的一个分支，它企图了解智能的实质，并生产出一种新的能以人类智能相似的方式做出反应的智能机器。",
    "我昨天去超市买了一些苹果和香蕉，然后回家做饭。",
    "台灣位於東亞，北臨東海，南接南海，首都為臺北市。",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
    "コンピューターのソフトウェアをインストールして、ネットワークに接続してください。",
    "대한민국은 동아시아의 한반도 남부에 있는 나라이다. 수도는 서울특별시이며, 인구는 약 오천만 명이다.",
    "안녕하세요. 저는 오늘 점심으로 김치찌개를 먹었습니다.",
]


@pytest.mark.parametrize("model", ["mistral-small-2603", "mistral-embed"])
@pytest.mark.parametrize("text", EAST_ASIAN)
def test_east_asian_text_is_not_counted_beyond_the_exact_count(text, model):
    exact = count_tokens(text, model=model)
    assert exact.exact
    assert 0.3 * exact.tokens <= pieces.count(text) <= exact.tokens


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("a1 .!。、\u3000你好世カナ한국\n-"), max_size=40))
def test_east_asian_and_latin_letters_are_counted_as_they_are_split(text):
    assert len([piece for piece in pieces.split(text) if piece.strip()]) == pieces.count(text)


SLOW = 100_000


@pytest.mark.parametrize(
    "text",
    [
        f"Hi{' ' * SLOW}",
        f"Hi{' ' * SLOW}x",
        f"Hi{chr(9) * SLOW}x",
        "a." * (SLOW // 2),
        f"1{' ' * SLOW}x",
        f"{' ' * SLOW}\n" * 2,
        f"«{' ' * SLOW}",
        "«" * SLOW,
    ],
    ids=["spaces", "spaces, word", "tabs, word", "dots", "number", "lines", "quoted spaces", "quotes"],
)
def test_a_long_row_of_anything_is_read_in_one_go(text):
    """Reading it takes a fraction of a second; tried from each place anew it would be minutes."""
    mail = {"type": "object", "properties": {"to": {"type": "string", "format": "email"}}, "required": ["to"]}
    begun = time.process_time()
    assert ask(text)
    assert ask(("system", text), "What is the address?")
    wanted = {"type": "json_schema", "json_schema": {"name": "mail", "schema": mail}}
    assert ask(text, response_format=wanted) == '{"to":"someone@example.com"}'
    assert time.process_time() - begun < 8


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.text(min_size=1, max_size=80)), max_size=4),
    st.text(max_size=80),
)
def test_it_always_says_something_that_was_said(turns, last):
    said = ask(*turns, last)
    assert isinstance(said, str)
    assert said.strip()
