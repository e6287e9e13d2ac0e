"""What LangChain asks of a chat model beside calls: what it is, what traces and caches know it by, how it counts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import reduce
from operator import itemgetter
from typing import Any, ClassVar, cast

from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import Field, SecretStr

from langchain_lava_mistral._content_blocks import PROVIDER
from langchain_lava_mistral._params import CHAT_SYNONYMS, KNOWN, OUTSIDE, SHOWN, LavaSettings, named
from langchain_lava_mistral._to_wire import to_wire
from langchain_lava_mistral._tools import ToolLike, to_tools
from langchain_lava_mistral.errors import ConfigurationError, translated
from lava_mistral.billing.credentials import to_billing
from lava_mistral.billing.scope import resolve_billing, scope_of_call
from lava_mistral.defaults import DEFAULT_CHAT_MODEL, DEFAULT_MAX_RETRIES, DEFAULT_STREAM_CHUNK_TIMEOUT
from lava_mistral.frameworks.settings import ChatParameters
from lava_mistral.pricing.catalog import get_model
from lava_mistral.pricing.token_counting import count_tokens, token_ids


class DescribedModel(LavaSettings, ChatParameters, BaseChatModel):
    """A chat model as far as LangChain asks of it what it is; `ChatLavaMistral` makes the calls."""

    model: str = DEFAULT_CHAT_MODEL
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    # `None` beside false: LangChain takes a false that was ever set for "never stream", and sets every field anew
    # where it configures a model.
    streaming: bool | None = None
    max_retries: int = DEFAULT_MAX_RETRIES
    stream_chunk_timeout: float | None = DEFAULT_STREAM_CHUNK_TIMEOUT
    repair_messages: bool = True
    include_response_headers: bool = False
    cache_by_customer: bool = True

    _synonyms: ClassVar[Mapping[str, str]] = CHAT_SYNONYMS

    @property
    def model_name(self) -> str:
        """The model's name, as many of LangChain's tools ask for it."""
        return self.model

    @property
    def _llm_type(self) -> str:
        return "lava-mistral-chat"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return true: LangChain can write the model down; the key is left out and named, `billing` is left out."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Where the key comes from when a model is read back."""
        if isinstance(self.api_key, SecretStr):
            forwards = not self.api_key.get_secret_value().startswith("aks_")
        else:
            forwards = self.api_key is None and "LAVA_FORWARD_TOKEN" in os.environ
        return {"api_key": "LAVA_FORWARD_TOKEN" if forwards else "LAVA_SECRET_KEY"}

    def __repr_args__(self) -> Any:
        # LangChain shows what differs from the defaults, and a profile of twenty lines.
        yield "model", self.model
        yield from ((name, value) for name, value in super().__repr_args__() if name not in ("model", "profile"))

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.model, "base_url": self.base_url, **self._parameters(), **self.model_kwargs}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # What may hold a secret is refused when the call is made; its trace is written before that.
        params = {"model": self.model, "base_url": self.base_url, **self._parameters(), **self.model_kwargs}
        params["_type"] = "lava-mistral-chat"
        for name, value in (kwargs if KNOWN.issuperset(kwargs) else named(kwargs)).items():
            if name in SHOWN:
                params[name] = value
        if "tools" in params:
            # A connector's credential.
            params["tools"] = [
                {key: tool[key] for key in tool if key != "authorization"} if isinstance(tool, dict) else tool
                for tool in params["tools"]
            ]
        return params if stop is None else {**params, "stop": stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        kwargs = kwargs if KNOWN.issuperset(kwargs) else named(kwargs)
        stop = kwargs.pop("stop", self.stop) if stop is None else stop
        params = super()._get_ls_params(stop=[stop] if isinstance(stop, str) else stop, **kwargs)
        params["ls_provider"] = PROVIDER
        return params

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        # The key of a cache. LangChain's own is made of a serialization that it keeps from the first call on, whatever
        # is changed in the model.
        asked = {name: value for name, value in named(kwargs).items() if name not in OUTSIDE}
        asked = {**self._identifying_params, "stop": stop or self.stop, **asked}
        if self.cache_by_customer:
            with translated():
                key = self.api_key() if callable(self.api_key) else self.api_key
                payer = resolve_billing(self.billing, None, call_billing=to_billing(kwargs.get("billing")), api_key=key)
            if payer.billing.customer_id is not None:
                asked["customer"] = payer.billing.customer_id
        return str(sorted(asked.items(), key=itemgetter(0)))

    def _resolve_model_profile(self) -> ModelProfile:
        facts = get_model(self.model)
        vision, documents, reasoning = facts.can("vision"), facts.can("documents"), facts.can("reasoning")
        dated = facts.release_date is not None and facts.last_updated is not None
        profile: dict[str, Any] = {
            "name": facts.id,
            # Prompt and answer share the window; Mistral names no other limit.
            **dict.fromkeys(("max_input_tokens", "max_output_tokens"), facts.context_window),
            **dict.fromkeys(("text_inputs", "text_outputs", "temperature"), True),
            **dict.fromkeys(("video_inputs", "image_outputs", "audio_outputs", "video_outputs"), False),
            **dict.fromkeys(("image_inputs", "image_url_inputs", "image_tool_message"), vision),
            **dict.fromkeys(("pdf_inputs", "pdf_tool_message"), documents),
            **dict.fromkeys(("tool_calling", "tool_choice", "tool_call_streaming"), facts.can("tools")),
            "audio_inputs": facts.can("audio"),
            "attachment": vision or documents,
            "reasoning_output": reasoning,
            "structured_output": facts.can("structured_output"),
            "status": facts.status if facts.known else None,
            "release_date": str(facts.release_date) if dated else None,
            "last_updated": str(facts.last_updated) if dated else None,
            "open_weights": facts.open_weights if dated else None,
            # Magistral always thinks.
            "reasoning_effort_levels": ["none", "high"] if reasoning and not facts.id.startswith("magistral") else None,
        }
        # Older releases of LangChain warn of keys that they do not know.
        known = ModelProfile.__annotations__
        return cast("ModelProfile", {key: profile[key] for key in profile if key in known and profile[key] is not None})

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        outputs = [output for output in llm_outputs if output]
        costs = [Decimal(output["cost"]) for output in outputs if "cost" in output]
        return reduce(_added, outputs, {}) | ({"cost": f"{sum(costs):f}"} if costs else {})

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        scope_of_call()
        generations = super()._convert_cached_generations([each.model_copy() for each in cache_val])
        for generation in generations:
            metadata = generation.message.response_metadata
            # LangChain counts a hit as free, and so it was.
            update = {"response_metadata": {**metadata, "cost": "0"} if "cost" in metadata else metadata}
            generation.message = generation.message.model_copy(update=update)
        return generations

    def get_num_tokens(self, text: str) -> int:
        """Count the tokens of a text: exactly with the extra `tokenizer`, else by an estimate that is not too low."""
        own = self.custom_get_token_ids
        return count_tokens(text, self.model).tokens if own is None else len(own(text))

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of a text in the model's vocabulary."""
        own = self.custom_get_token_ids
        ids = token_ids(text, self.model) if own is None else own(text)
        if ids is None:
            advice = 'It may come with pip install "lava-mistral[tokenizer]"; get_num_tokens() works without it.'
            raise ConfigurationError(f"The vocabulary of {self.model!r} is not at hand.", advice=advice)
        return ids

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[ToolLike] | None = None
    ) -> int:
        """Count the tokens of a conversation, with its tools; see `get_num_tokens`."""
        with translated():
            return count_tokens(to_wire(messages), self.model, tools=to_tools(tools or ())).tokens


def _added(held: Any, value: Any) -> Any:
    """Add up the numbers of two calls, at any depth; other values stay."""
    if isinstance(held, dict) and isinstance(value, dict):
        return held | {key: _added(held.get(key), each) for key, each in value.items()}
    numbers = all(isinstance(each, int) and not isinstance(each, bool) for each in (held, value))
    return held + value if numbers else value if held is None else held
