"""Scripts in processes of their own that begin at once: forks of one that has imported what takes long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

SERVER = """
import gc, json, os, signal, sys
{imports}
# Or each fork would look at, and copy, all that was imported when it ends.
gc.freeze()
for line in iter(sys.stdin.readline, ""):
    task = json.loads(line)
    child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
signal.alarm(120)
for number, path in enumerate(task["files"]):
    os.dup2(os.open(path, os.O_RDWR), number)
os.environb.clear()
os.environb.update((name.encode("latin-1"), value.encode("latin-1")) for name, value in task["environment"].items())
os.chdir(task["folder"])
sys.argv = [os.fsdecode(argument.encode("latin-1")) for argument in task["arguments"]]
exec(compile(task["script"], "<script>", "exec"), {{"__name__": "__main__"}})
"""


class WarmPython:
    """A Python that runs each script in a fork of itself, which ends as any process does.

    Args:
        imports: statements that run once, before the forks.
        **environment: what is read when Python starts, for instance `PYTHONIOENCODING`.
    """

    def __init__(self, imports: str, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER.format(imports=imports)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self,
        script: str,
        *arguments: str | bytes | Path,
        given: bytes = b"",
        folder: Path | None = None,
        **environment: str,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a script to its end.

        Args:
            script: Python.
            *arguments: `sys.argv[1:]`.
            given: standard input.
            folder: the working directory.
            **environment: beside this process's own.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with NamedTemporaryFile() as stdin, NamedTemporaryFile() as stdout, NamedTemporaryFile() as stderr:
            stdin.write(given)
            stdin.flush()
            task: dict[str, Any] = {
                "script": script,
                "arguments": [_exactly(argument) for argument in ("-c", *arguments)],
                "files": [stdin.name, stdout.name, stderr.name],
                "folder": str(folder or Path.cwd()),
                "environment": {_exactly(n): _exactly(v) for n, v in (os.environ | environment).items()},
            }
            print(json.dumps(task), file=self._process.stdin, flush=True)
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(arguments, status, stdout.read(), stderr.read())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def _exactly(argument: str | bytes | Path) -> str:
    """Return the bytes of an argument as JSON can hold them, whatever encoding either process has."""
    return os.fsencode(argument).decode("latin-1")
