"""A local Lava gateway with a simulated Mistral behind it, for tests, notebooks and a first look; extra `[gateway]`."""

try:
    from lava_mistral.gateway.faults import Body, Cut, Garbage, Interrupted, Reset, Slow, Stall, Status, WrongVectors
    from lava_mistral.gateway.lava.accounts import Wallet
    from lava_mistral.gateway.local import LocalGateway
    from lava_mistral.gateway.options import Customer, Options
    from lava_mistral.gateway.request_log import RequestRecord
except ImportError as error:
    said = f"the embedded gateway needs {error.name}, which is not installed"
    raise ImportError(f'{said}: pip install "lava-mistral[gateway]"', name=error.name) from error

__all__ = [
    "Body", "Customer", "Cut", "Garbage", "Interrupted", "LocalGateway", "Options", "RequestRecord", "Reset", "Slow",
    "Stall", "Status", "Wallet", "WrongVectors",
]  # fmt: skip
