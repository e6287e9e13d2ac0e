"""What Mistral refuses, and in which words."""

from __future__ import annotations

from typing import Any

import pytest

from lava_mistral.gateway import LocalGateway

USER = {"role": "user", "content": "Hello"}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "abcdefgh1", "function": {"name": "look", "arguments": "{}"}}
OTHER = {"id": "abcdefgh2", "function": {"name": "look", "arguments": {}}}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "seen", "tool_call_id": "abcdefgh1"}
OTHER_RESULT = {"role": "tool", "content": "seen", "tool_call_id": "abcdefgh2"}
SAID = {"role": "assistant", "content": "I see."}
PICTURE = {"type": "image_url", "image_url": "https://example.com/a.png"}
VOICE = {"type": "input_audio", "input_audio": "UklGRg=="}

VALID: list[dict[str, Any]] = [
    # Mistral's SDK sends null for all of these; pydantic-ai makes it do so.
    {"top_p": None, "presence_penalty": None, "frequency_penalty": None, "stop": None},
    {"temperature": None, "top_p": 1, "max_tokens": None, "random_seed": 0, "n": 2, "stream": False},
    {"temperature": 1.5, "presence_penalty": -2, "frequency_penalty": 2.0, "stop": "x", "safe_prompt": True},
    {"stop": ["a", "b"], "tools": None, "parallel_tool_calls": False, "metadata": {"a": 1}, "prompt_cache_key": "k"},
    {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "look"}}},
    {"tools": [], "response_format": {"type": "text"}, "prediction": {"type": "content", "content": "x"}},
    {"top_k": 5, "min_tokens": 1, "repetition_penalty": 1.1, "service_tier": "standard_only", "random_seed": None},
    {"logprobs": True, "top_logprobs": 2, "prompt_logprobs": False, "top_prompt_logprobs": None},
    {"tools": [{"type": "web_search"}, {"type": "code_interpreter", "tool_configuration": None}, TOOL]},
    {"tools": [{"type": "image_generation"}, {"type": "document_library", "library_ids": ["a"]}]},
    {"tools": [{"type": "connector", "connector_id": "drive", "tool_configuration": {"include": ["read"]}}]},
    *({"reasoning_effort": effort} for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max")),
    {"reasoning_effort": "none", "prompt_mode": "reasoning", "guardrails": [{"block_on_error": True}]},
    {"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]}, USER, SAID, USER]},
    {"messages": [USER, {"role": "system", "content": "x"}]},
    {"messages": [{"role": "system", "content": "x"}]},
    {"messages": [USER, CALLING, RESULT]},
    {"messages": [USER, {**CALLING, "tool_calls": [CALL, OTHER]}, OTHER_RESULT, RESULT, SAID, USER]},
    {"messages": [USER, {**CALLING, "content": None}, {**RESULT, "tool_call_id": None, "name": "look"}]},
    {"messages": [USER, {"role": "assistant", "content": "I", "prefix": True}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, PICTURE]}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://u", "detail": "low"}}]}
        ]
    },
    {"messages": [{"role": "user", "content": [{"type": "document_url", "document_url": "u", "document_name": None}]}]},
    {"model": "voxtral-small-latest", "messages": [{"role": "user", "content": [VOICE]}]},
    {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "thinking",
                        "thinking": [{"type": "text", "text": "Hm."}],
                        "closed": True,
                        "signature": None,
                    },
                    {"type": "text", "text": "Yes."},
                    {"type": "reference", "reference_ids": [1, "b"]},
                ],
            },
            USER,
        ]
    },
]


@pytest.mark.parametrize("parameters", VALID, ids=lambda one: "-".join(map(str, [*one, *one.values()]))[:80])
def test_everything_in_the_schema_is_accepted(forward, parameters):
    response = forward("/v1/chat/completions", {"model": "mistral-small-2603", "messages": [USER], **parameters})
    assert response.status_code == 200, response.text


WRONG: list[tuple[dict[str, Any], list[Any], str]] = [
    ({"stream_options": {}}, ["body", "stream_options"], "extra_forbidden"),
    ({"seed": 1}, ["body", "seed"], "extra_forbidden"),
    ({"model": 7}, ["body", "model"], "string_type"),
    ({"messages": "Hello"}, ["body", "messages"], "list_type"),
    ({"messages": ["Hello"]}, ["body", "messages", 0], "model_attributes_type"),
    ({"messages": [{"content": "x"}]}, ["body", "messages", 0], "union_tag_not_found"),
    ({"messages": [{"role": "developer", "content": "x"}]}, ["body", "messages", 0], "union_tag_invalid"),
    ({"messages": [{"role": "system"}]}, ["body", "messages", 0, "system", "content"], "missing"),
    (
        {"messages": [{"role": "system", "content": None}]},
        ["body", "messages", 0, "system", "content", "str"],
        "string_type",
    ),
    ({"messages": [{**USER, "name": "Anna"}]}, ["body", "messages", 0, "user", "name"], "extra_forbidden"),
    (
        {"messages": [{"role": "user", "content": [{"type": "file_url", "url": "u"}]}]},
        ["body", "messages", 0, "user", "content", "list", 0],
        "union_tag_invalid",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {}}]}]},
        ["body", "messages", 0, "user", "content", "list", 0, "text", "cache_control"],
        "extra_forbidden",
    ),
    (
        {"messages": [USER, {**CALLING, "tool_calls": [{"id": "abcdefgh1"}]}]},
        ["body", "messages", 1, "assistant", "tool_calls", 0, "function"],
        "missing",
    ),
    ({"temperature": 1.6}, ["body", "temperature"], "less_than_equal"),
    ({"temperature": -0.1}, ["body", "temperature"], "greater_than_equal"),
    ({"temperature": "hot"}, ["body", "temperature"], "float_type"),
    ({"safe_prompt": None}, ["body", "safe_prompt"], "bool_type"),
    ({"max_tokens": 1.5}, ["body", "max_tokens"], "int_type"),
    ({"max_tokens": True}, ["body", "max_tokens"], "int_type"),
    ({"n": 0}, ["body", "n"], "greater_than_equal"),
    ({"n": 10**9}, ["body", "n"], "less_than_equal"),
    ({"stop": 3}, ["body", "stop", "list"], "list_type"),
    ({"stop": ["a", 3]}, ["body", "stop", "list", 1], "string_type"),
    ({"stream": 1}, ["body", "stream"], "bool_type"),
    ({"tool_choice": "always"}, ["body", "tool_choice", "NamedToolChoice"], "dict_type"),
    ({"tools": [{"function": {"name": "a"}}]}, ["body", "tools", 0, "function", "function", "parameters"], "missing"),
    ({"tools": [{**TOOL, "type": "web"}]}, ["body", "tools", 0], "union_tag_invalid"),
    ({"tools": [{"type": "document_library"}]}, ["body", "tools", 0, "document_library", "library_ids"], "missing"),
    (
        {"tools": [{"type": "web_search", "engine": "x"}]},
        ["body", "tools", 0, "web_search", "engine"],
        "extra_forbidden",
    ),
    ({"response_format": {"type": "xml"}}, ["body", "response_format", "type"], "enum"),
    ({"reasoning_effort": "utmost"}, ["body", "reasoning_effort"], "enum"),
    ({"top_k": -1}, ["body", "top_k"], "greater_than_equal"),
    ({"repetition_penalty": 0}, ["body", "repetition_penalty"], "greater_than"),
    ({"service_tier": "priority"}, ["body", "service_tier"], "enum"),
    ({"logprobs": 5}, ["body", "logprobs"], "bool_type"),
    ({"messages": [{"role": "user", "content": [{**PICTURE, "image_url": "reports://1"}]}]}, ["body"], "value_error"),
    ({"guardrails": {}}, ["body", "guardrails"], "list_type"),
    ({"metadata": []}, ["body", "metadata"], "dict_type"),
]


@pytest.mark.parametrize(
    ("parameters", "where", "kind"), WRONG, ids=[f"{'-'.join(map(str, w[1:]))}-{k}" for _, w, k in WRONG]
)
def test_anything_else_is_named_in_a_422(forward, gateway, parameters, where, kind):
    response = forward("/v1/chat/completions", {"model": "mistral-small-2603", "messages": [USER], **parameters})
    assert response.status_code == 422
    body = response.json()
    assert (body["object"], body["raw_status_code"]) == ("error", 422)
    found = {(*one["loc"], one["type"]): one for one in body["message"]["detail"]}
    assert found[*where, kind]["msg"]
    assert "input" in found[*where, kind]
    assert gateway.requests[0].cost == 0


def test_several_mistakes_are_told_together(forward):
    response = forward("/v1/chat/completions", {"temperature": 3, "foo": 1, "messages": [USER]})
    kinds = {tuple(found["loc"]): found["type"] for found in response.json()["message"]["detail"]}
    assert kinds == {
        ("body", "model"): "missing",
        ("body", "temperature"): "less_than_equal",
        ("body", "foo"): "extra_forbidden",
    }


def test_a_body_that_is_no_json_is_a_422(forward):
    response = forward("/v1/chat/completions", b'{"model": ')
    assert response.status_code == 422
    assert response.json()["message"]["detail"][0]["type"] == "json_invalid"
    assert forward("/v1/chat/completions", b"[]").status_code == 422


LAST = "Expected last role User or Tool (or Assistant with prefix True) for serving but got"
UNEQUAL = "Not the same number of function calls and responses"
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "gpt-5"}, "1500", "Invalid model: gpt-5"),
    ({"model": "mistral-embed"}, "1500", "Invalid model: mistral-embed"),
    ({"messages": []}, "3230", "Conversation must have at least one message"),
    ({"messages": [USER, SAID]}, "3230", f"{LAST} assistant"),
    ({"messages": [USER, CALLING, RESULT, USER]}, "3230", "Unexpected role 'user' after role 'tool'"),
    (
        {"messages": [USER, CALLING, RESULT, {"role": "system", "content": "x"}, USER]},
        "3230",
        "Unexpected role 'system' after role 'tool'",
    ),
    ({"messages": [USER, RESULT]}, "3230", "Unexpected role 'tool' after role 'user'"),
    ({"messages": [USER, SAID, RESULT]}, "3230", UNEQUAL),
    ({"messages": [USER, CALLING, USER]}, "3230", UNEQUAL),
    ({"messages": [USER, {**CALLING, "tool_calls": [CALL, OTHER]}, RESULT]}, "3230", UNEQUAL),
    ({"messages": [USER, CALLING, RESULT, RESULT]}, "3230", UNEQUAL),
    ({"messages": [USER, CALLING, OTHER_RESULT]}, "3230", "Unexpected tool call id abcdefgh2 in tool results"),
    (
        {"messages": [USER, {"role": "assistant", "content": None}, USER]},
        "3240",
        "Assistant message must have either content or tool_calls, but not none.",
    ),
    (
        {
            "messages": [
                USER,
                {**CALLING, "tool_calls": [{**CALL, "id": "call_1"}]},
                {**RESULT, "tool_call_id": "call_1"},
            ]
        },
        "3280",
        "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9.",
    ),
    (
        {"messages": [USER, {**CALLING, "tool_calls": [{"function": CALL["function"]}]}, RESULT]},
        "3280",
        "Tool call id was null but must be a-z, A-Z, 0-9, with a length of 9.",
    ),
    (
        {"tools": [{"function": {"name": "my tool", "parameters": {}}}]},
        "3280",
        "Function name was my tool but must be a-z, A-Z, 0-9, or contain underscores and dashes, "
        "with a maximum length of 64.",
    ),
    ({"tools": [TOOL] * 129}, "3051", "Too many tools: 129, a request may have at most 128"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "hear"}}},
        "3051",
        "Tool choice hear is not among the tools of the request",
    ),
    (
        {"response_format": {"type": "json_schema"}},
        "3051",
        "response_format of type json_schema needs a json_schema",
    ),
    (
        {"model": "codestral-latest", "messages": [{"role": "user", "content": [PICTURE]}]},
        "3051",
        "Image input is not enabled for this model",
    ),
    (
        {"messages": [{"role": "user", "content": [VOICE]}]},
        "3051",
        "Audio input is not enabled for this model",
    ),
    (
        {"messages": [{"role": "user", "content": [{**PICTURE, "image_url": "data:image/png;base64,bm8="}]}]},
        "3310",
        "Image could not be loaded as base64 encoded image",
    ),
    (
        {"messages": [{"role": "user", "content": [{**PICTURE, "image_url": {"url": "data:image/png;base64,!"}}]}]},
        "3310",
        "Image could not be loaded as base64 encoded image",
    ),
    (
        {"model": "mistral-saba-2502", "messages": [{"role": "user", "content": "word " * 40_000}]},
        "3051",
        "Prompt contains 40003 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
    ),
]


@pytest.mark.parametrize(("parameters", "code", "said"), REFUSED, ids=[said[:40] for _, _, said in REFUSED])
def test_mistrals_own_rules(forward, gateway, parameters, code, said):
    response = forward("/v1/chat/completions", {"model": "mistral-small-2603", "messages": [USER], **parameters})
    assert response.status_code == 400
    body = response.json()
    assert (body["object"], body["code"], body["message"]) == ("error", code, said)
    assert body.keys() == {"object", "message", "type", "param", "code", "raw_status_code"}
    assert gateway.requests[0].outcome == "error"


@pytest.mark.parametrize(
    ("parameters", "status", "code", "said"),
    [
        ({"input": ["a"] * 513}, 400, "3210", "Too many inputs in request, split into more batches."),
        ({"input": ["a b " * 2_000] * 5}, 400, "3210", "Too many tokens overall, split into more batches."),
        ({"input": ["a", "b " * 8_193]}, 400, None, "Input id 1 has 8193 tokens, exceeding max 8192 tokens."),
        ({"input": "word " * 500_000}, 400, None, "Input id 0 has 500000 tokens, exceeding max 8192 tokens."),
        ({"input": []}, 400, "3051", "Input can't be empty"),
        ({"input": "a", "output_dimension": 2_000}, 400, "3051", "output_dimension must be at most 1024"),
        ({"input": "a", "model": "mistral-small-2603"}, 400, "1500", "Invalid model: mistral-small-2603"),
    ],
)
def test_limits_of_embeddings(forward, parameters, status, code, said):
    response = forward("/v1/embeddings", {"model": "mistral-embed", **parameters})
    assert (response.status_code, response.json()["code"], response.json()["message"]) == (status, code, said)


@pytest.mark.parametrize(
    ("parameters", "where"),
    [
        ({"inputs": ["a"]}, ["body", "inputs"]),
        ({"input": [1, 2]}, ["body", "input", "list", 0]),
        ({"input": None}, ["body", "input", "str"]),
        ({"encoding_format": "hex"}, ["body", "encoding_format"]),
        ({"output_dtype": "float16"}, ["body", "output_dtype"]),
        ({"output_dimension": 0}, ["body", "output_dimension"]),
    ],
)
def test_embeddings_bodies_are_checked(forward, parameters, where):
    response = forward("/v1/embeddings", {"model": "mistral-embed", "input": "a", **parameters})
    assert response.status_code == 422
    assert where in [one["loc"] for one in response.json()["message"]["detail"]]


def test_the_largest_batch_is_accepted(forward):
    assert forward.embed(["word " * 32] * 512).json()["usage"]["prompt_tokens"] == 16_384
    assert forward.embed(["word " * 8_192] * 2).status_code == 200


def test_a_prompt_may_fill_the_window_to_the_last_token(forward):
    full = forward.chat("word " * 32_765, model="mistral-saba-2502")
    assert (full.status_code, full.json()["usage"]["prompt_tokens"]) == (200, 32_768)
    assert forward.chat("word " * 32_766, model="mistral-saba-2502").json()["code"] == "3051"


def test_models_can_be_added(connect):
    with LocalGateway(models=["mistral-next", "next-embed"]) as gateway:
        forward = connect(gateway)
        assert forward.chat(model="mistral-next").json()["model"] == "mistral-next"
        assert forward.embed("a", model="next-embed").status_code == 200
        assert forward.chat(model="mistral-other").status_code == 400
        # Nobody knows what they cost.
        assert [record.cost for record in gateway.requests] == [0, 0, 0]


def test_models_and_unknown_routes_of_the_provider(forward):
    listed = forward("/v1/models").json()
    card = next(model for model in listed["data"] if model["id"] == "mistral-small-2603")
    assert card["capabilities"]["function_calling"]
    assert card["max_context_length"] == 256_000
    assert forward("/v1/models/mistral-small-2603").json() == card
    assert forward("/v1/models/nope").status_code == 404
    assert forward("/v1/ocr").json()["message"] == "no Route matched with those values"
    assert forward("/v1/chat/completions").status_code == 405
