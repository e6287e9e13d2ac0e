"""LangChain's wrappers of a chat model, whose `bind` keeps its arguments where tools or a schema are bound later.

The classes have the names of LangChain's, which serializations and traces show.
"""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import configurable, fallbacks
from langchain_core.runnables.utils import Input, Output


class RunnableWithFallbacks(fallbacks.RunnableWithFallbacks[Input, Output]):
    """Binds arguments to each model, as LangChain binds tools."""

    def bind(self, **kwargs: Any) -> Any:
        """Return the models with arguments for all their calls."""
        others = [each.bind(**kwargs) for each in self.fallbacks]
        return self.model_copy(update={"runnable": self.runnable.bind(**kwargs), "fallbacks": others})


class _Configurable:
    default: Any

    def bind(self, **kwargs: Any) -> Any:
        """Return the model with arguments for all its calls."""
        return self.default.bind(**kwargs).model_copy(update={"bound": self})


class RunnableConfigurableFields(_Configurable, configurable.RunnableConfigurableFields[Input, Output]):
    """A model with fields that a call's configuration sets."""


class RunnableConfigurableAlternatives(_Configurable, configurable.RunnableConfigurableAlternatives[Input, Output]):
    """Models of which a call's configuration chooses one."""


def keeping(wrapper: Any) -> Any:
    """Return one of LangChain's wrappers of a model as one that keeps what is bound."""
    kinds = (RunnableWithFallbacks, RunnableConfigurableFields, RunnableConfigurableAlternatives)
    return next(kind for kind in kinds if issubclass(kind, type(wrapper)))(**dict(wrapper))
