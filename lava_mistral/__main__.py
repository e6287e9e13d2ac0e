"""The command line, `lava-mistral` or `python -m lava_mistral`; needs the extra `[cli]`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say which extra to install."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError:
        print('lava-mistral: the command line needs an extra: pip install "lava-mistral[cli]"', file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None
    from lava_mistral.cli import app

    app.main()


if __name__ == "__main__":
    main()
