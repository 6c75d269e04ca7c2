"""Errors, signals and exit codes of the `claprt` command.

Exit codes: 0 all done; 1 done, but some inputs could not be used (each is reported on stderr); 2 nothing done: wrong
usage, or an error; 130 interrupted; 141 the reader of stdout went away (files that were to be written are written);
143 terminated.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from claprt.cli.output import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_NO_READER, EXIT_TERMINATED, one_line, report_error
from claprt.cli.parser import parse
from claprt.errors import ClaprtError, ClaprtWarning


def run() -> None:
    """Entry point of the `claprt` command."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit code. `argv` is without the program's name."""
    _prepare_streams()
    try:
        try:
            args = parse(argv)
            with _one_line_warnings(), _terminable():
                code: int = args.run(args)
                return code
        finally:
            sys.stdout.flush()
    except ClaprtError as error:
        report_error(str(error))
        return EXIT_ERROR
    except BrokenPipeError:
        # The reader of our output went away (`| head`): nothing to report, and nothing more to flush. The code is that
        # of a program that the signal ends: neither all was printed nor was nothing done.
        _discard_stdout()
        return EXIT_NO_READER
    except OSError as error:  # the disk behind stdout is full, a path that the system refuses, ...
        where = "" if error.filename is None else f": {error.filename}"
        report_error(f"{error.strerror or error}{where}")
        _discard_stdout()
        return EXIT_ERROR
    except KeyboardInterrupt:
        report_error("interrupted")
        return EXIT_INTERRUPTED


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # started with it closed (`>&-`)
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for the whole process)
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid in the terminal's encoding


def _discard_stdout() -> None:
    """Let what is still buffered for stdout go nowhere: Python would fail once more to write it at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show claprt's own warnings as lines of ours; leave the others as they are."""
    show = warnings.showwarning

    def show_one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, *rest: object, **named: object
    ) -> None:
        if issubclass(category, ClaprtWarning):
            print(f"claprt: warning: {one_line(str(message))}", file=sys.stderr)
        else:
            show(message, category, filename, lineno)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ClaprtWarning)
        warnings.showwarning = show_one_line
        yield


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as SIGINT does, so that nothing half-written stays behind.

    A signal that arrives while Python runs a destructor raises in there and is lost: it is then sent once more.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(EXIT_TERMINATED)

    def lost(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, (KeyboardInterrupt, SystemExit)):
            show(what)
            return
        number = signal.SIGINT if isinstance(what.exc_value, KeyboardInterrupt) else signal.SIGTERM
        again = threading.Timer(0.02, os.kill, (os.getpid(), number))
        again.daemon = True
        again.start()

    show = sys.unraisablehook
    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = show
        signal.signal(signal.SIGTERM, previous)
