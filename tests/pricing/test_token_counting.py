from __future__ import annotations

import base64
import json
import random
import string
import subprocess
import sys
import textwrap
import threading
import timeit
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from lava_mistral.mistral.limits import MAX_IMAGE_TOKENS
from lava_mistral.pricing.token_counting import count_tokens, typical_tokens, upper_bound_tokens
from tests.conftest import recordings
from tests.fakes.samples import ENGLISH, LANGUAGES

SENTENCEPIECE: Any = MistralTokenizer.v1().instruct_tokenizer.tokenizer
TEKKEN: Any = MistralTokenizer.v3(is_tekken=True).instruct_tokenizer.tokenizer

QUESTION: Any = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "strict": True,
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}


def enclosed(text: str) -> int:
    """The tokens of an input of an embedding model, by whichever of Mistral's vocabularies needs more."""
    return max(len(tokenizer.encode(text, bos=True, eos=True)) for tokenizer in (SENTENCEPIECE, TEKKEN))


def random_text(seed: int, kind: str, length: int) -> str:
    rng = random.Random(seed)
    draw = {
        "base64": lambda: base64.b64encode(rng.randbytes(length)).decode(),
        "url-safe base64": lambda: base64.urlsafe_b64encode(rng.randbytes(length)).decode(),
        "hex": lambda: rng.randbytes(length).hex(),
        "digits": lambda: "".join(rng.choices(string.digits, k=length)),
        "capitals": lambda: "".join(rng.choices(string.ascii_uppercase, k=length)),
        "printable": lambda: "".join(rng.choices(string.printable, k=length)),
        "punctuation": lambda: "".join(rng.choices(string.punctuation, k=length)),
        "bytes as Latin 1": lambda: rng.randbytes(length).decode("latin-1"),
        "bytes as UTF-8": lambda: rng.randbytes(length).decode("utf-8", "replace"),
        "white space": lambda: "".join(rng.choices(" \n\t\r", k=length)),
        "Chinese characters": lambda: "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(length)),
        "Korean syllables": lambda: "".join(chr(rng.randint(0xAC00, 0xD7A3)) for _ in range(length)),
    }
    return draw[kind]()


KINDS = [
    "base64",
    "url-safe base64",
    "hex",
    "digits",
    "capitals",
    "printable",
    "punctuation",
    "bytes as Latin 1",
    "bytes as UTF-8",
    "white space",
    "Chinese characters",
    "Korean syllables",
]
SENTENCES = st.sampled_from([text for kind, texts in LANGUAGES.items() if kind != "long words" for text in texts])
NOISE = st.builds(random_text, st.integers(0, 2**32), st.sampled_from(KINDS), st.integers(20, 300))


@pytest.mark.parametrize(
    "text", [pytest.param(t, id=f"{k}-{i}") for k, ts in LANGUAGES.items() for i, t in enumerate(ts)]
)
def test_the_estimate_is_not_under_the_count_in_any_language(text: str) -> None:
    among_others = f"{ENGLISH[0]} ({text}) {ENGLISH[1]}"
    assert upper_bound_tokens(text) >= enclosed(text)
    assert upper_bound_tokens(among_others) >= enclosed(among_others)


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "long words"])
def test_the_estimate_is_not_under_the_count_of_a_long_text(language: str) -> None:
    # Long enough that the allowance for short texts is of no help. Rare words one after the other are no text.
    text = " ".join(LANGUAGES[language]) * 50
    assert upper_bound_tokens(text) >= enclosed(text)


@given(
    st.lists(st.one_of(SENTENCES, SENTENCES, NOISE), max_size=6), st.sampled_from(["", " ", "\n", "\n\n", "\t", ". "])
)
def test_the_estimate_is_not_under_the_count_of_any_mixture(texts: list[str], separator: str) -> None:
    text = separator.join(texts)
    assert upper_bound_tokens(text) >= enclosed(text)


@given(st.sampled_from(KINDS), st.integers(0, 2**32), st.integers(1, 400))
def test_the_estimate_is_not_under_the_count_of_noise(kind: str, seed: int, length: int) -> None:
    text = random_text(seed, kind, length)
    assert upper_bound_tokens(text) >= enclosed(text)


@given(st.text(st.characters(min_codepoint=0x80, exclude_categories=["Cs"]), max_size=200))
@example("뷁꿻쀍 龘靐齉 𝔘𝔫𝔦 ﷽ \u200d\ufeff")
def test_the_estimate_is_not_under_the_count_of_any_characters_beyond_ascii(text: str) -> None:
    assert upper_bound_tokens(text) >= enclosed(text)


@given(
    st.sampled_from([" ", "\n", "\t", "\r\n", "-", "=", "#", "0", "the ", "and ", "s ", "bring ", ". "]),
    st.integers(1, 999),
)
def test_the_estimate_is_not_under_the_count_of_repetitions(piece: str, times: int) -> None:
    # A word that is two tokens each time is beyond an estimate that takes it for English.
    assert upper_bound_tokens(piece * times) >= enclosed(piece * times)


# Not among the texts that the weights were fitted to.
SHORT = (
    "hello world",
    "hi",
    "Good morning, everyone.",
    "Who wrote Hamlet?",
    "Please translate this sentence into Spanish.",
    "Our office is closed on Friday 25 December.",
    "She sells seashells by the seashore, doesn't she?",
    "The invoice of 1,250.00 euros was paid on 3 May.",
    "Write a Python function that sorts a list of dictionaries by a key.",
    "for name in names:\n    print(name)",
    '{"city": "Oslo", "population": 717710}',
    "Merci beaucoup pour votre réponse rapide.",
    "Ich hätte gern zwei Brötchen und einen Kaffee.",
    "Il treno parte alle otto dal binario tre.",
    "El cliente pidió una copia de la factura.",
    "東京は日本の首都です。",
    "你好，请问火车站在哪里？",
)


@pytest.mark.parametrize("text", SHORT)
@pytest.mark.parametrize("model", ["mistral-small-2603", "mistral-embed"])
def test_the_typical_estimate_of_a_short_text_is_near_the_count(text: str, model: str) -> None:
    exact = count_tokens(text, model)
    assert exact.exact
    assert abs(typical_tokens(text, enclosed=model == "mistral-embed") - exact.tokens) <= max(1, exact.tokens / 4)


@pytest.mark.parametrize("model", ["mistral-small-2603", "mistral-large-latest", "mistral-embed"])
def test_the_typical_estimate_of_english_is_right_on_average(model: str) -> None:
    enclosed = model == "mistral-embed"
    estimated = sum(typical_tokens(text, enclosed=enclosed) for text in ENGLISH)
    assert estimated == pytest.approx(sum(count_tokens(text, model).tokens for text in ENGLISH), rel=0.05)


def test_a_typical_prompt_is_near_the_count_without_a_tokenizer() -> None:
    script = textwrap.dedent(
        """
        import json, sys
        sys.modules["mistral_common"] = sys.modules["mistral_common.tokens.tokenizers.mistral"] = None
        from lava_mistral.pricing.token_counting import count_tokens
        messages, tools = json.loads(sys.argv[1])
        print(count_tokens(messages, sys.argv[2], tools=tools).tokens)
        """
    )
    answer = {"role": "assistant", "content": "It is sunny in Paris, with a light wind from the west."}
    for model in ("mistral-small-2603", "mistral-large-latest", "ministral-8b-2512"):
        for messages, tools in (([QUESTION], []), ([QUESTION, answer, QUESTION], []), ([QUESTION], [WEATHER])):
            prompt: Any = json.dumps([messages, tools])
            done = subprocess.run([sys.executable, "-c", script, prompt, model], capture_output=True, check=True)
            exact = count_tokens(messages, model, tools=tools)
            assert exact.exact
            assert int(done.stdout) == pytest.approx(exact.tokens, rel=0.25)


def test_ordinary_english_is_overrated_by_a_quarter_at_most() -> None:
    texts = [" ".join(random.Random(seed).sample(ENGLISH, 4)) for seed in range(20)]
    exact, estimated = sum(map(enclosed, texts)), sum(map(upper_bound_tokens, texts))
    assert exact <= estimated <= 1.25 * exact


@pytest.mark.parametrize("text", ["", "\ud800", "a\udfffb", "\0"])
def test_any_string_has_an_estimate_and_a_count(text: str) -> None:
    assert 2 <= upper_bound_tokens(text) <= 20
    assert count_tokens(text).tokens <= upper_bound_tokens(text)
    assert count_tokens(text, "mistral-embed").exact


def test_the_estimate_of_two_hundred_tokens_takes_microseconds() -> None:
    text = " ".join(ENGLISH)[:830]
    assert 150 <= enclosed(text) <= 230
    assert min(timeit.repeat(lambda: upper_bound_tokens(text), number=200, repeat=20)) / 200 < 100e-6


@pytest.mark.parametrize("recording", recordings("embeddings"))
def test_an_embedding_input_is_counted_as_mistral_bills_it(recording: Any) -> None:
    body = recording["request"]["body"]
    inputs = body.get("input", body.get("inputs"))
    counts = [count_tokens(text, body["model"]) for text in ([inputs] if isinstance(inputs, str) else inputs)]
    assert all(count.exact for count in counts)
    assert sum(count.tokens for count in counts) == recording["response"]["body"]["usage"]["prompt_tokens"]


def prompt_of(recording: Any) -> int | None:
    body = recording["response"]["body"]
    usage = body.get("usage") if isinstance(body, dict) else None
    return usage["prompt_tokens"] if usage else None


@pytest.mark.parametrize("recording", recordings("chat"))
def test_a_prompt_is_counted_as_mistral_counted_it(recording: Any) -> None:
    body, told = recording["request"]["body"], prompt_of(recording)
    count = count_tokens(body["messages"], body["model"], tools=body.get("tools"), upper=True)
    if told is None:
        assert count.tokens > 0
    elif count.exact:
        # Mistral adds one token to some requests that force a tool.
        assert 0 <= told - count.tokens <= (body.get("tool_choice") == "any")
    elif not any(part["type"] == "document_url" for m in body["messages"] for part in parts(m)):
        assert count.tokens >= told


def parts(message: Any) -> list[Any]:
    return message["content"] if isinstance(message["content"], list) else []


def test_a_text_is_counted_alone_for_a_chat_model() -> None:
    assert count_tokens("Hello world") == (2, True)
    assert count_tokens("Hello world", "mistral-embed") == (4, True)


def test_a_conversation_with_tools_is_counted_whatever_its_wire_form() -> None:
    plain: Any = [
        {"role": "system", "content": "Be brief."},
        QUESTION,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "abcdefghi", "function": {"name": "weather", "arguments": '{"place":"Paris"}'}}],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "name": "weather", "content": "sunny"},
    ]
    wordy: Any = [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}], "prefix": False},
        {"role": "user", "content": [{"type": "text", "text": "What is the weather in Paris?"}]},
        {
            "role": "assistant",
            "content": [],
            "prefix": False,
            "tool_calls": [
                {
                    "id": "abcdefghi",
                    "index": 0,
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"place": "Paris"}},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "abcdefghi", "content": [{"type": "text", "text": "sunny"}]},
    ]
    count = count_tokens(plain, "mistral-large-latest", tools=[WEATHER])
    assert count.exact
    assert count_tokens(wordy, "mistral-large-latest", tools=[WEATHER]) == count
    without = count_tokens(plain, "mistral-large-latest")
    assert without.tokens < count.tokens


def test_more_messages_are_more_tokens() -> None:
    answer: Any = {"role": "assistant", "content": "Sunny."}
    counts = [
        count_tokens(messages, "mistral-small-2603").tokens
        for messages in ([QUESTION], [QUESTION, answer, QUESTION], [QUESTION, answer, QUESTION, answer, QUESTION])
    ]
    assert counts[0] < counts[1] < counts[2]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": "data:image/png;base64,AAAA"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
    ],
)
def test_an_image_counts_as_the_most_that_it_can_take(part: Any) -> None:
    text: Any = {"role": "user", "content": [{"type": "text", "text": "What is this?"}]}
    seen: Any = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}
    count = count_tokens([seen])
    assert not count.exact
    assert count.tokens >= count_tokens([text]).tokens + MAX_IMAGE_TOKENS


def test_thinking_is_counted_too() -> None:
    thought: Any = {"type": "thinking", "thinking": [{"type": "text", "text": ENGLISH[0]}], "closed": True}
    messages: Any = [
        QUESTION,
        {"role": "assistant", "content": [thought, {"type": "text", "text": "Sunny."}]},
        QUESTION,
    ]
    count = count_tokens(messages, "magistral-medium-latest")
    assert not count.exact
    assert count.tokens > count_tokens(ENGLISH[0], "magistral-medium-latest").tokens


@pytest.mark.parametrize(
    "messages",
    [
        [QUESTION, QUESTION],
        [{"role": "assistant", "content": "And then"}],
        [{"role": "tool", "tool_call_id": "abcdefghi", "content": "sunny"}],
        [{"role": "user", "content": ""}],
        [],
    ],
)
def test_messages_that_fit_no_template_are_estimated_rather_than_refused(messages: Any) -> None:
    count = count_tokens(messages, "mistral-small-2603")
    assert count.tokens >= 1 or not messages


@pytest.mark.parametrize("model", ["mistral-next-9000", "codestral-latest", "mistral-embed"])
def test_a_model_whose_template_is_not_known_is_estimated(model: str) -> None:
    exact = count_tokens([QUESTION], "mistral-large-latest", tools=[WEATHER]).tokens
    typical, most = (count_tokens([QUESTION], model, tools=[WEATHER], upper=upper) for upper in (False, True))
    assert (typical.exact, most.exact) == (False, False)
    assert most.tokens > exact
    assert typical.tokens == pytest.approx(exact, rel=0.25)


@pytest.mark.parametrize("upper", [False, True])
def test_tool_calls_beside_an_image_count_no_less_than_without_it(upper: bool) -> None:
    image: Any = {"type": "image_url", "image_url": "https://example.com/a.png"}
    calls = [
        {"id": f"call{number:05}", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
        for number in range(50)
    ]
    result = {"role": "tool", "tool_call_id": "call00000", "name": "clock", "content": "12:00"}
    called: Any = [{"role": "assistant", "content": "", "tool_calls": calls}, result]
    for model in ("mistral-small-2603", "mistral-large-latest"):
        exact = count_tokens([QUESTION, *called], model)
        text = {"type": "text", "text": QUESTION["content"]}
        seen = count_tokens([{"role": "user", "content": [text, image]}, *called], model, upper=upper)
        assert exact.exact
        assert seen.tokens >= exact.tokens + MAX_IMAGE_TOKENS


def test_counting_changes_nothing_that_it_is_given() -> None:
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    tools: Any = [dict(WEATHER)]
    count_tokens(messages, "mistral-small-2603", tools=tools)
    assert messages == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert tools == [WEATHER]


def test_a_tokenizer_is_loaded_once_for_all_threads() -> None:
    script = textwrap.dedent(
        """
        import threading
        from mistral_common.tokens.tokenizers import sentencepiece
        loads, original = [], sentencepiece.SentencePieceTokenizer.__init__
        def counted(self, *args, **kwargs):
            loads.append(1)
            original(self, *args, **kwargs)
        sentencepiece.SentencePieceTokenizer.__init__ = counted
        from lava_mistral.pricing.token_counting import count_tokens
        counts = []
        count = lambda: counts.append(count_tokens("hello", "mistral-embed"))
        threads = [threading.Thread(target=count) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert counts == [(4, True)] * 8, counts
        assert loads == [1], loads
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_without_mistral_common_everything_is_estimated_and_nothing_is_imported() -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.modules["mistral_common"] = None
        sys.modules["mistral_common.tokens.tokenizers.mistral"] = None
        from lava_mistral.pricing.token_counting import count_tokens, upper_bound_tokens
        text = "The ferry left the harbour a little before dawn."
        assert count_tokens(text, upper=True) == (upper_bound_tokens(text), False)
        assert count_tokens(text, "mistral-embed", upper=True) == (upper_bound_tokens(text), False)
        count = count_tokens(text)
        assert 9 <= count.tokens <= 14 and not count.exact
        prompt = count_tokens([{"role": "user", "content": text}])
        assert 20 < prompt.tokens < 30 and not prompt.exact
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_importing_the_package_loads_no_tokenizer() -> None:
    script = (
        "import sys, lava_mistral; assert not [m for m in sys.modules if m.startswith(('mistral_common', 'tiktoken'))]"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_threads_count_the_same() -> None:
    results: list[Any] = []
    texts = list(ENGLISH) * 5

    def count() -> None:
        results.append([count_tokens(text).tokens for text in texts])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[len(TEKKEN.encode(text, bos=False, eos=False)) for text in texts]] * 4
