"""The core's errors as LangChain's own: each class here is one of `lava_mistral` and one of `langchain_core` at once.

Both of a pair catch it: `except lava_mistral.RateLimitError` and `except ModelRateLimitError`. Their `is_retryable`,
which LangChain's middleware asks for, is the core's `retryable`: it can differ from error to error of a class.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from langchain_core import exceptions as langchain

from lava_mistral import errors as core
from lava_mistral.errors import LavaError


class _Both(LavaError):
    is_retryable: bool

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.is_retryable = bool(self.retryable)


class ConfigurationError(_Both, core.ConfigurationError, langchain.ModelError): ...


class AuthenticationError(_Both, core.AuthenticationError, langchain.ModelAuthenticationError): ...


class BillingError(_Both, core.BillingError, langchain.ModelPermissionDeniedError): ...


class InsufficientBalanceError(BillingError, core.InsufficientBalanceError): ...


class PermissionDeniedError(BillingError, core.PermissionDeniedError): ...


class SpendLimitError(BillingError, core.SpendLimitError): ...


class NotFoundError(_Both, core.NotFoundError, langchain.ModelNotFoundError): ...


class InvalidRequestError(_Both, core.InvalidRequestError, langchain.ModelInvalidRequestError): ...


class ContextOverflowError(InvalidRequestError, core.ContextOverflowError, langchain.ContextOverflowError): ...


class RateLimitError(_Both, core.RateLimitError, langchain.ModelRateLimitError): ...


class ServerError(_Both, core.ServerError, langchain.ModelAPIError): ...


class APIConnectionError(_Both, core.APIConnectionError, langchain.ModelConnectionError): ...


class APITimeoutError(_Both, core.APITimeoutError, langchain.ModelTimeoutError): ...


class StreamInterruptedError(_Both, core.StreamInterruptedError, langchain.ModelAPIError): ...


class StreamStalledError(StreamInterruptedError, APITimeoutError, core.StreamStalledError): ...


def to_langchain(error: LavaError) -> LavaError:
    """Return the same error as one that LangChain knows too."""
    if isinstance(error, langchain.ModelError):
        return error
    # The classes of a pair have the same name.
    known = (globals().get(base.__name__) for base in (*type(error).__mro__, core.ServerError))
    kind = next(each for each in known if isinstance(each, type) and issubclass(each, _Both))
    translated = kind(error.message, **error.fields(), answer=error.answer)
    translated.__cause__ = error.__cause__
    return translated


class translated(AbstractContextManager[None]):
    """Raise the core's errors of the block as LangChain's, with the cause and the traceback that they had."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, LavaError) and not isinstance(error, langchain.ModelError):
            raise to_langchain(error).with_traceback(trace) from error.__cause__
