"""SIGTERM and Ctrl-C at the end of a step, so that nothing of the work is lost."""

import contextlib
import os
import signal
import threading


class Interrupted(SystemExit):
    """Raised when training leaves because of a signal, its work saved.

    Not caught, it ends the program with the status that shells expect, 128 plus the signal.
    """

    def __init__(self, number):
        super().__init__(128 + number)


class Interruption:
    """Notes the first SIGTERM or SIGINT for the training to look at; a second one acts at once.

    Attributes:
        number: int, the signal, or 0 while there was none.
    """

    def __init__(self):
        self.number = 0

    @contextlib.contextmanager
    def watched(self):
        """`with interruption.watched():` notes signals; outside they have their usual effect."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python handles signals in its main thread only
            return
        before = {n: signal.signal(n, self._note) for n in (signal.SIGTERM, signal.SIGINT)}
        self._before = before
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number, frame):
        for each, handler in self._before.items():
            signal.signal(each, handler)
        self.number = number
        name = signal.Signals(number).name
        # Not `print`, which the signal may have interrupted; and who reads it may be gone.
        with contextlib.suppress(OSError):
            os.write(2, f"\n{name}: stopping after this step; again to stop at once.\n".encode())
