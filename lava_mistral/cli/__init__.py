"""The commands of `lava-mistral`; they need the extra `[cli]`."""

try:
    import rich  # noqa: F401
    import typer
except ImportError as missing:
    raise SystemExit('lava-mistral: the command line needs an extra: pip install "lava-mistral[cli]"') from missing

__all__ = ["typer"]
