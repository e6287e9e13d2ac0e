"""`lava-mistral gateway`: a simulated Lava on this machine."""

from __future__ import annotations

import signal
from contextlib import suppress
from importlib.util import find_spec
from typing import Annotated, Any, Final, Literal

import typer

from lava_mistral.cli.output import JsonOption, print_json

_FAULTS: Final = ("reset", "slow", "garbage", "interrupted")
_SLOW: Final = 5.0  # seconds
_COUNTS: Final = {
    "exact": "Tokens are counted by Mistral's own tokenizers, as exact estimates are.",
    "fast": "Tokens are counted quickly, and bills differ from exact estimates: --tokenizer exact.",
}


def gateway(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8788,
    latency: Annotated[float, typer.Option(min=0, max=3600, help="Seconds before the first byte of an answer.")] = 0.0,
    customers: Annotated[
        str | None,
        typer.Option(help="The customers that exist, with their USD: c_1=5,c_2=0.50. By default any, with $100."),
    ] = None,
    faults: Annotated[
        str | None,
        typer.Option(
            help="What goes wrong, and how often of 1: 0.1=429,0.05=reset. A status, reset, slow (5 s), garbage or "
            "interrupted."
        ),
    ] = None,
    tokenizer: Annotated[
        Literal["fast", "exact"] | None,
        typer.Option(
            help="Count tokens quickly, or as Mistral does. By default exact, if the extra tokenizer is there."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run a local Lava with a simulated Mistral behind it, until interrupted."""
    from lava_mistral.gateway.local import LocalGateway

    exact = find_spec("mistral_common") is not None
    if tokenizer == "exact" and not exact:
        raise ImportError('--tokenizer exact needs an extra: pip install "lava-mistral[tokenizer]"')
    options: dict[str, Any] = {"tokenizer": tokenizer or ("exact" if exact else "fast")}
    if customers is not None:
        options["customers"] = dict(map(_customer, customers.split(",")))
    if faults is not None:
        options["faults"] = list(map(_fault, faults.split(",")))
    running = LocalGateway(port=port, latency=latency, **options)
    try:
        running.start()
    except OSError as error:
        raise OSError(f"can't listen on port {port} ({error.strerror or error}): choose another with --port") from error
    # A process manager stops it as Ctrl-C does: what is under way is broken off and the port is free again.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running:
            if json:
                # One line, because a program reads it while the process goes on.
                print_json({"base_url": running.base_url, "secret_key": running.secret_key}, indented=False)
            else:
                typer.echo(
                    f"A simulated Lava is listening at {running.base_url} (no call leaves this machine). "
                    "Use it with:\n\n"
                    f"  export LAVA_BASE_URL={running.base_url}\n"
                    f"  export LAVA_SECRET_KEY={running.secret_key}\n\n"
                    f"{_COUNTS[options['tokenizer']]}\nCtrl-C stops it."
                )
            running.wait()
    except KeyboardInterrupt:
        # It may come as soon as the address is told, before anybody waits.
        return


def _customer(pair: str) -> tuple[str, Any]:
    from lava_mistral.gateway.options import to_amount

    name, _, usd = (part.strip() for part in pair.rpartition("="))
    if name:
        with suppress(ValueError):
            return name, to_amount(usd)
    raise typer.BadParameter(f"{pair!r} is no customer: write ID=USD, such as c_1=5", param_hint="--customers")


def _fault(pair: str) -> tuple[float, Any]:
    from lava_mistral.gateway import faults

    chance, _, what = (part.strip() for part in pair.partition("="))
    with suppress(ValueError):
        if 0 <= float(chance) <= 1 and what in _FAULTS:
            return float(chance), getattr(faults, what.capitalize())(*([_SLOW] if what == "slow" else []))
        if 0 <= float(chance) <= 1 and 400 <= int(what) <= 599:
            return float(chance), faults.Status(int(what))
    said = "write PROBABILITY=WHAT, such as 0.1=429: a number from 0 to 1, and a status from 400 to 599"
    raise typer.BadParameter(f"{pair!r} is no fault: {said}, or {', '.join(_FAULTS)}", param_hint="--faults")
