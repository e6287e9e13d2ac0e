"""Mistral's models through the Lava AI gateway, for LlamaIndex."""

from importlib.util import find_spec

if find_spec("llama_index") is None or find_spec("llama_index.core") is None:
    raise ImportError("llama_index_lava_mistral needs LlamaIndex: pip install 'lava-mistral[llama-index]'")

from llama_index_lava_mistral.llms import ChatLavaMistral

__all__ = ["ChatLavaMistral"]
