"""LangChain's own integration suites against the local gateway, in the strictest configuration that is true."""

from __future__ import annotations

import base64
from pathlib import PurePosixPath
from typing import Any, Literal, cast

import httpx
import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

from langchain_lava_mistral import ChatLavaMistral, LavaMistralEmbeddings
from lava_mistral.gateway import LocalGateway

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 0/Kids[]>>endobj\n%%EOF"
WAV = b"RIFF$\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0@\x1f\0\0@\x1f\0\0\1\0\x08\0data\0\0\0\0"
MEDIA = {".png": PNG, ".jpg": PNG, ".pdf": PDF, ".wav": WAV}


@pytest.fixture(autouse=True)
def _local_media(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite fetches a picture, a document and a sound from the internet: they are here."""

    def get(url: str, **_: Any) -> httpx.Response:
        return httpx.Response(200, content=MEDIA[PurePosixPath(url).suffix])

    monkeypatch.setattr(httpx, "get", get)
    monkeypatch.setenv("LANGCHAIN_TESTS_USER_AGENT", "lava-mistral")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, shared_gateway: LocalGateway) -> None:
    monkeypatch.setenv("LAVA_SECRET_KEY", shared_gateway.secret_key)
    monkeypatch.setenv("LAVA_BASE_URL", shared_gateway.base_url)


class _Chat(ChatModelIntegrationTests):
    __test__ = False

    @property
    def chat_model_class(self) -> type[ChatLavaMistral]:
        return ChatLavaMistral

    @pytest.fixture(autouse=True)
    def _model_of_the_test(self, request: pytest.FixtureRequest) -> None:
        # Mistral refuses recordings where the model has no ears.
        self._name = "voxtral-small-latest" if "audio" in request.node.name else "mistral-small-2603"

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": self._name}

    supports_json_mode = True
    supports_image_inputs = True
    supports_image_urls = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
    supports_pdf_tool_message = True
    supports_audio_inputs = True
    supports_anthropic_inputs = True
    returns_usage_metadata = True
    supports_model_override = True
    model_override_value = "mistral-large-latest"
    enable_vcr_tests = True

    @property
    def supported_usage_metadata_details(
        self,
    ) -> dict[
        Literal["invoke", "stream"],
        list[Literal["audio_input", "audio_output", "reasoning_output", "cache_read_input", "cache_creation_input"]],
    ]:
        # Mistral's schema counts neither thinking nor sounds apart, and says nothing of what it puts into its cache.
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatLavaMistral(prompt_cache_key="suite")
        prompt = "Answer in one word. " + "The sky is blue and the sea is green. " * 200
        model.invoke(prompt)
        if not stream:
            return model.invoke(prompt)
        chunks = list(model.stream(prompt))
        return cast("AIMessageChunk", chunks[0].__add__(chunks[1:]))


class TestChat(_Chat):
    __test__ = True


class TestChatFunctionCalling(_Chat):
    __test__ = True

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "function_calling"}


class TestChatJsonSchema(_Chat):
    __test__ = True

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema", "strict": True}


class TestEmbeddings(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[LavaMistralEmbeddings]:
        return LavaMistralEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "mistral-embed"}
