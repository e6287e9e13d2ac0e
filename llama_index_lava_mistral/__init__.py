"""Mistral's models through the Lava AI gateway, for LlamaIndex."""

try:
    from llama_index.core import __name__ as _needed  # noqa: F401
except ImportError as error:
    raise ImportError("llama_index_lava_mistral needs LlamaIndex: pip install 'lava-mistral[llama-index]'") from error

from llama_index_lava_mistral.callbacks import LavaCallEvent, LavaEffortEvent, LavaUsageHandler
from llama_index_lava_mistral.embeddings import LavaMistralEmbeddings
from llama_index_lava_mistral.llms import ChatLavaMistral

__all__ = ["ChatLavaMistral", "LavaCallEvent", "LavaEffortEvent", "LavaMistralEmbeddings", "LavaUsageHandler"]
