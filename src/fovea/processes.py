"""Child processes and Ctrl-C."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ctrl_c_stays_here() -> Iterator[None]:
    """Processes that are started inside do not hear Ctrl-C; whoever starts them ends them.

    A terminal sends it to the whole group of processes, and a child that is still importing would print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be set, none arrive
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
