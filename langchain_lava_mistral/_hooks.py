"""What LangChain asks of a chat model beside calls: what it is, what traces and caches know it by, how it counts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LangSmithParams, ModelProfile
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import SecretStr

from langchain_lava_mistral._content_blocks import PROVIDER
from langchain_lava_mistral._from_wire import added
from langchain_lava_mistral._params import OUTSIDE, SHOWN, ChatSettings, named
from langchain_lava_mistral._to_wire import to_wire
from langchain_lava_mistral._tools import ToolLike, to_tools, without_authorization
from langchain_lava_mistral.errors import translated
from lava_mistral.billing.identity import to_billing
from lava_mistral.billing.scope import identify, note_call
from lava_mistral.errors import ConfigurationError
from lava_mistral.pricing.catalog import get_model
from lava_mistral.pricing.tokenizers import token_ids
from lava_mistral.pricing.tokens import count_tokens


class DescribedModel(ChatSettings, BaseChatModel):
    """A chat model as far as LangChain asks of it what it is; `ChatLavaMistral` makes the calls."""

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
        return {"model": self.model, "base_url": self.base_url, **self.parameters()}

    def _get_invocation_params(self, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        # What may hold a secret is refused when the call is made; its trace is written before that.
        params = {"model": self.model, "base_url": self.base_url, **self.parameters(), "_type": "lava-mistral-chat"}
        kwargs = {**named(kwargs)}
        for name in kwargs:
            if name in SHOWN:
                params[name] = kwargs[name]
        if "tools" in params:
            params["tools"] = without_authorization(params["tools"])
        return params if stop is None else {**params, "stop": stop}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        kwargs = {**named(kwargs)}
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
                payer = identify(
                    self.billing, None, call_billing=to_billing(kwargs.get("billing")), api_key=key
                ).billing
            if payer.customer_id is not None:
                asked["customer"] = payer.customer_id
        return str(sorted(asked.items(), key=itemgetter(0)))

    def _resolve_model_profile(self) -> ModelProfile:
        facts = get_model(self.model)
        tools, reasoning = facts.can("tools"), facts.can("reasoning")
        vision, documents = facts.can("vision"), facts.can("documents")
        profile: dict[str, Any] = {
            "name": facts.id,
            "max_input_tokens": facts.context_window,
            # Prompt and answer share the window; Mistral names no other limit.
            "max_output_tokens": facts.context_window,
            "text_inputs": True,
            "image_inputs": vision,
            "image_url_inputs": vision,
            "pdf_inputs": documents,
            "audio_inputs": facts.can("audio"),
            "video_inputs": False,
            "image_tool_message": vision,
            "pdf_tool_message": documents,
            "attachment": vision or documents,
            "text_outputs": True,
            "image_outputs": False,
            "audio_outputs": False,
            "video_outputs": False,
            "reasoning_output": reasoning,
            "tool_calling": tools,
            "tool_choice": tools,
            "tool_call_streaming": tools,
            "structured_output": facts.can("structured_output"),
            "temperature": True,
        }
        if facts.known:
            profile["status"] = facts.status
        if reasoning and not facts.id.startswith("magistral"):
            # Magistral always thinks.
            profile["reasoning_effort_levels"] = ["none", "high"]
        # Older releases of LangChain warn of keys that they do not know.
        return cast("ModelProfile", {key: profile[key] for key in profile if key in ModelProfile.__annotations__})

    def _combine_llm_outputs(self, llm_outputs: list[dict[str, Any] | None], /) -> dict[str, Any]:
        combined: dict[str, Any] = {}
        for output in llm_outputs:
            added(combined, output or {})
        return combined

    def _convert_cached_generations(self, cache_val: list[Generation]) -> list[ChatGeneration]:
        note_call()
        generations = super()._convert_cached_generations([each.model_copy() for each in cache_val])
        for generation in generations:
            metadata = generation.message.response_metadata
            if "cost" in metadata:
                # LangChain counts a hit as free, and so it was.
                update = {"response_metadata": {**metadata, "cost": "0"}}
                generation.message = generation.message.model_copy(update=update)
        return generations

    def get_num_tokens(self, text: str) -> int:
        """Count the tokens of a text: exactly with the extra `tokenizer`, else by an estimate that is not too low."""
        if self.custom_get_token_ids is not None:
            return len(self.custom_get_token_ids(text))
        return count_tokens(text, self.model).tokens

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of a text in the model's vocabulary."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        ids = token_ids(text, self.model)
        if ids is None:
            with translated():
                raise ConfigurationError(
                    f"The vocabulary of {self.model!r} is not at hand. "
                    'It may come with pip install "lava-mistral[tokenizer]"; get_num_tokens() works without it.'
                )
        return ids

    def get_num_tokens_from_messages(
        self, messages: Sequence[BaseMessage], tools: Sequence[ToolLike] | None = None
    ) -> int:
        """Count the tokens of a conversation, with its tools; see `get_num_tokens`."""
        with translated():
            return count_tokens(to_wire(messages), self.model, tools=to_tools(tools or ())).tokens
