"""Processes that take turns, so that they are measured under the same conditions."""

import contextlib
import json
import os
import subprocess
import sys


@contextlib.contextmanager
def taking_turns(module, arguments, **environment):
    """Starts `python -m module arguments`, which must answer as `answer_turns` does.

    Yields a function: each call requests one turn, waits for it, and returns its result.
    """
    command = [sys.executable, "-m", module, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=os.environ | environment, **pipes) as process:

        def turn(request=None):
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise RuntimeError(f"{' '.join(command[1:])} failed; see above.")
            return json.loads(answer)

        try:
            yield turn
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()


def answer_turns(function):
    """Prints `function(request)` for every requested turn, until there are no more."""
    for line in sys.stdin:
        print(json.dumps(function(json.loads(line))), flush=True)
