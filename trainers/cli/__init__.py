"""How commands start and end, and the flags that several of them share."""

import sys

STOPPED = "Stopped by SIGINT. The same command goes on from what was saved, or begins again."


def _quietly(kind, error, traceback):
    """Says in one line that Ctrl-C struck before `command.run` began to watch for it."""
    if issubclass(kind, KeyboardInterrupt):
        print(STOPPED, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


sys.excepthook = _quietly
