"""A local Lava gateway with a simulated Mistral behind it, for tests, notebooks and a first look.

It needs the extra `[gateway]`.
"""

try:
    import numpy as _numpy  # noqa: F401
    import pydantic as _pydantic  # noqa: F401
    import uvicorn as _uvicorn  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'the embedded gateway needs {error.name}, which is not installed: pip install "lava-mistral[gateway]"',
        name=error.name,
    ) from error

from lava_mistral.gateway.faults import Body, Cut, Garbage, Interrupted, Reset, Slow, Stall, Status, WrongVectors
from lava_mistral.gateway.lava.accounts import Wallet
from lava_mistral.gateway.local import LocalGateway
from lava_mistral.gateway.options import Customer, Options
from lava_mistral.gateway.records import RequestRecord

__all__ = [
    "Body", "Customer", "Cut", "Garbage", "Interrupted", "LocalGateway", "Options", "RequestRecord", "Reset", "Slow",
    "Stall", "Status", "Wallet", "WrongVectors",
]  # fmt: skip
