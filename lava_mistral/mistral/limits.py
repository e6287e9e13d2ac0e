"""Name the limits of Mistral's API, by its documentation and its error texts."""

from typing import Final

MAX_TOOLS: Final = 128
MAX_TOOL_NAME_LENGTH: Final = 64
MAX_IMAGE_TOKENS: Final = 4_160
"""64 rows of 64 patches, each row with a break (Pixtral; later models take less)."""
MAX_REQUEST_INPUTS: Final = 512
"""Texts in one embeddings request."""
MAX_REQUEST_TOKENS: Final = 16_384
MAX_INPUT_TOKENS: Final = 8_192
