"""Runs a command for a step: its output shown as it comes, and kept; stopped when the step is."""

import codecs
import os
import re
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

NUM_KEPT_LINES = 2000
MAX_DEAF_SECONDS = 1.0
"""How long to wait at once: a signal that comes just before a call blocks is handled after it."""

# Also of a line that is to be written over; what follows a last one may be the rest of an end.
_LINE_END = re.compile(r"(?<=\n)|(?<=\r)(?!\n|\Z)")
_OWN_ERROR = "error: "
_PYTHON_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt)(: .*)?")
_TORCHRUN_ERROR = "torch.distributed.elastic"
_AFTER_OWN_ERROR = re.compile(r"[EWI]\d{4} |Traceback |\[")  # a log line


class Ended(NamedTuple):
    """How a command ended, and the last lines it wrote."""

    code: int
    lines: list[str]


def run(command: Sequence[str], *, env: Mapping[str, str]) -> Ended:
    """Runs ``command`` to its end, with ``env`` added to the environment.

    If this process is interrupted or told to stop, so is the command, which then has time to save
    its work; an interrupt in that time kills it.
    """
    process = subprocess.Popen(
        command,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
    )
    assert process.stdout is not None
    lines: deque[str] = deque(maxlen=NUM_KEPT_LINES)
    try:
        show(_chunks(process.stdout), lines)
        return Ended(process.wait(), list(lines))
    except BaseException:
        # A terminal interrupts every process, and each then tells its own child to stop.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        process.terminate()
        with suppress(OSError):  # a terminal that was closed shows nothing any more
            show(_chunks(process.stdout), lines)
        deque(_chunks(process.stdout), maxlen=0)  # a full pipe would keep it from ending
        process.wait()
        raise
    finally:
        process.kill()


def error_of(lines: Sequence[str]) -> str:
    """Returns the part of a failed command's output that says why it failed.

    That is the last ``error: ...`` of one of our commands, else the end of the last Python
    traceback that is not torchrun's report of a failed process, else the last line.
    """
    written = [line.rstrip() for line in lines if line.strip()]
    for index in reversed(range(len(written))):
        if written[index].startswith(_OWN_ERROR):
            message = [written[index].removeprefix(_OWN_ERROR)]
            for line in written[index + 1 :]:
                if _AFTER_OWN_ERROR.match(line):
                    break
                message.append(line)
            return "\n".join(message)
    for line in reversed(written):
        if _PYTHON_ERROR.fullmatch(line) and not line.startswith(_TORCHRUN_ERROR):
            return line
    return written[-1] if written else "it wrote nothing"


def show(chunks: Iterable[bytes], kept: deque[str]) -> None:
    """Shows output line by line, as it comes in pieces that end anywhere, and keeps it."""
    for line in _lines(chunks):
        sys.stdout.write(line)
        sys.stdout.flush()
        kept.append(line)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest = ""
    for chunk in chunks:
        *whole, rest = _LINE_END.split(rest + decoder.decode(chunk))
        yield from whole
    rest += decoder.decode(b"", final=True)
    if rest:
        yield rest


def _chunks(output: IO[bytes]) -> Iterator[bytes]:
    while True:
        readable, _, _ = select.select([output], [], [], MAX_DEAF_SECONDS)
        if readable:
            chunk = output.read(1 << 16)
            if not chunk:
                return
            yield chunk
