"""Name the defaults and choices that the engine, the clients and both frameworks share; imports nothing heavy."""

from typing import Final, Literal, TypeAlias

DEFAULT_CHAT_MODEL: Final = "mistral-small-2603"
DEFAULT_EMBEDDING_MODEL: Final = "mistral-embed"
DEFAULT_TIMEOUT: Final = 120.0
"""Seconds for an answer, or for a stream to begin."""
DEFAULT_STREAM_CHUNK_TIMEOUT: Final = 120.0
"""Seconds between two chunks of a stream; `calls/chat_stream.py` counts them."""
DEFAULT_MAX_RETRIES: Final = 2
DEFAULT_EMBEDDING_RETRIES: Final = 10
"""More than a chat's: among many requests that share an account's limit, one may be refused several times in a row."""
DEFAULT_MAX_CONCURRENCY: Final = 16
"""Embeddings requests in flight."""
OutputDtype: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary"]
OnEmpty: TypeAlias = Literal["raise", "skip", "placeholder"]
