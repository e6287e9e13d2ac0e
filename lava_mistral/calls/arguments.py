"""Check the names of arguments: rename synonyms, refuse keys and names that are misspelt or mean nothing here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lava_mistral._text import nearest
from lava_mistral.errors import ConfigurationError

# No field of Mistral's has such a name.
_CREDENTIAL = re.compile(
    r"(api|access|account|auth|encryption|forward|license|master|private|provider|secret|signing|subscription)[-_]?key$"
    r"|(?<!max_)(?<!min_)(?<!completion_)token$|secret|passw(or)?d|passphrase|credential|^auth(orization|entication)?$|bearer|cookie",
    re.IGNORECASE,
)
# Where a setting goes that Mistral's body must not hold.
_ELSEWHERE = {
    **dict.fromkeys(
        ("headers", "extra_headers", "default_headers"),
        "Headers go on a client of your own, http_client=httpx.Client(headers=…); what Lava shall store with a call "
        "goes into lava_metadata=.",
    ),
    **dict.fromkeys(
        ("http_client", "async_http_client", "http_async_client", "base_url"),
        "It goes on the client or model: make a second one, of a framework's model by model_copy(update={…}).",
    ),
    **dict.fromkeys(
        ("endpoint", "server_url", "mistral_api_url"),
        "Calls go to Mistral through Lava, whose own address is base_url= of the client or model. Leave it out.",
    ),
    **dict.fromkeys(
        ("customer", "customer_id", "disable_billing", "meter_slug", "user"),
        "Who pays goes into billing=Billing(customer_id=…, meter_slug=…), or into a block around the call: "
        "billed_to(customer_id, meter_slug).",
    ),
    "metadata": "What Lava shall store with a call goes into lava_metadata=; Mistral: mistral_metadata=.",
    "spend_limit": "It goes on the client or model, or on a block around the call: billed_to(spend_limit=…).",
    "stream": "A stream is asked for by its own method: stream() or, in LlamaIndex, stream_chat().",
}
# What has no meaning here, and what to write instead.
_HINTS = {
    "max_concurrent_requests": 'calls in flight are limited where they are made: batch(…, {"max_concurrency": 8})',
    "wait_time": "the wait before a new try follows Lava's Retry-After; max_retries= says how often",
    "show_thinking": "thinking always comes, in message.content_blocks or, of LlamaIndex, in a ThinkingBlock",
    "stream_usage": "usage always comes with the last chunk of a stream, and costs nothing",
    "tokenizer": "tokens are counted without a download; the extra lava-mistral[tokenizer] counts exactly",
    **dict.fromkeys(("batch_size", "chunk_size"), "texts are put into requests within Mistral's limits by themselves"),
    **dict.fromkeys(("best_of", "logit_bias"), "Mistral has no such parameter"),
    "organization": "Lava's key says whose account it is",
}


def refuse_keys(names: Iterable[str]) -> None:
    """Refuse names of keys, addresses and settings as fields of a request: Mistral would get them, and traces too."""
    for name in sorted(names):
        advice = _ELSEWHERE.get(name)
        if advice is None and _CREDENTIAL.search(name):
            advice = (
                "Lava's key is given once, as api_key= of the client or model; a Mistral key of your own goes into "
                "billing=Billing(provider_key=…)."
            )
        if advice is not None:
            raise ConfigurationError(f"{name} can't be sent as a field of the request. {advice}")


def renamed(values: Iterable[tuple[str, Any]], synonyms: Mapping[str, str]) -> dict[str, Any]:
    """Return the values under the fields' own names; a `ConfigurationError` where one is given twice."""
    given: dict[str, Any] = {}
    for name, value in values:
        meant = synonyms.get(name, name)
        if meant in given:
            raise ConfigurationError(f"{meant!r} is given twice: {name!r} is the same setting.")
        given[meant] = value
    return given


def refuse_misspelt(unknown: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that have no meaning here, and those that are close to a known one."""
    for name in sorted(unknown):
        if name not in _HINTS and (near := nearest(name, (each for each in known if each[0] != "_"), 0.74)):
            raise ConfigurationError(f"There is no parameter {name!r}. Did you mean {near!r}?")
        if meant := nearest(name, _HINTS, 0.85):
            raise ConfigurationError(f"{name!r} has no meaning here: {_HINTS[meant]}.")
