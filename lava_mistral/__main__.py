"""Run the command line: `python -m lava_mistral`."""

from lava_mistral.cli import main

if __name__ == "__main__":
    main()
