"""A model with fallbacks, whose `bind` keeps its arguments where tools or a schema are bound later."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import fallbacks
from langchain_core.runnables.utils import Input, Output


class RunnableWithFallbacks(fallbacks.RunnableWithFallbacks[Input, Output]):
    """Binds arguments to each model, as LangChain binds tools. It has LangChain's name in serializations and traces."""

    def bind(self, **kwargs: Any) -> Any:
        """Return the models with arguments for all their calls."""
        others = [each.bind(**kwargs) for each in self.fallbacks]
        return self.model_copy(update={"runnable": self.runnable.bind(**kwargs), "fallbacks": others})
