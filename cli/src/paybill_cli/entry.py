"""Entry point of the process: Ctrl-C ends it with exit code 130 and without a traceback, also while modules load."""

import os
import sys
from typing import NoReturn

_INTERRUPTED = 130


def run() -> NoReturn:
    """Runs the command line and exits."""
    try:
        import signal

        # A KeyboardInterrupt inside an import could be swallowed or printed; nothing has to be cleaned up yet.
        # A parent such as nohup may have SIGINT ignored: then it stays ignored.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _exit)
        from paybill_cli.main import main

        code = main(sys.argv[1:])
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the interpreter shuts down, and the exit code is known
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)


def raise_interrupts() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt from now on, so that a running command can clean up."""
    import signal

    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(*_: object) -> None:
    os._exit(_INTERRUPTED)
