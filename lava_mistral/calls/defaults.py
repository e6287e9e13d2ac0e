"""Name the defaults that the client and both frameworks share; imports nothing."""

from typing import Final

DEFAULT_CHAT_MODEL: Final = "mistral-small-2603"
DEFAULT_EMBEDDING_MODEL: Final = "mistral-embed"
DEFAULT_TIMEOUT: Final = 120.0
"""Seconds for an answer, or for a stream to begin, and between two chunks of a stream."""
