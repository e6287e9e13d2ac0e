"""`LavaTransport` and `AsyncLavaTransport` for clients of httpx2; those for httpx are in `lava_mistral` itself."""

try:
    from lava_mistral.transport.httpx2 import AsyncLavaTransport, LavaTransport
except ModuleNotFoundError as error:
    raise ImportError(
        f'the transports for httpx2 need {error.name}, which is not installed: pip install "lava-mistral[httpx2]"',
        name=error.name,
    ) from error

__all__ = ["AsyncLavaTransport", "LavaTransport"]
