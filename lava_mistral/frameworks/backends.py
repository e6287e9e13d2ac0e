"""Make the clients and the engine that the settings of a framework's model describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from lava_mistral.frameworks.settings import PER_CALL_SETTINGS, ModelSettings


class ClientsOwner(ModelSettings):
    """A chat model, which calls with the client of either kind."""

    _backend_arguments: ClassVar[Mapping[str, str]] = {name: name for name in PER_CALL_SETTINGS}

    def _make_backend(self, settings: dict[str, Any]) -> Any:
        # They load httpx.
        from lava_mistral.client.clients import AsyncLavaMistral, LavaMistral

        sync, asynchronous = settings.pop("http_clients")
        return LavaMistral(**settings, http_client=sync), AsyncLavaMistral(**settings, http_client=asynchronous)


class EngineOwner(ClientsOwner):
    """An embedding model, which calls with an engine."""

    _backend_arguments: ClassVar[Mapping[str, str]] = {
        name: name for name in ("model", "dimensions", "output_dtype", "max_concurrency", "max_retries", "on_empty")
    }

    def _make_backend(self, settings: dict[str, Any]) -> Any:
        from lava_mistral.embedding.engine import EmbeddingEngine

        own = {argument: settings.pop(argument) for argument in self._backend_arguments}
        return EmbeddingEngine(*super()._make_backend(settings), **own)
