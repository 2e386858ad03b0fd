"""A command on this computer, bounded as one on a board is, and as another user where that is asked for."""

from __future__ import annotations

import contextlib
import io
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

from edgekit.transport.base import Completed, Limits
from edgekit.transport.errors import CommandTimeout, OutputTooLarge, printable
from edgekit.transport.tree import Account

_BLOCK = 64 << 10
_STDERR_KEPT = 256 << 10
_GRACE = 2.0  # seconds between asking a process group to end and ending it


def run(
    board: str,
    argv: Sequence[str],
    stdin: bytes | BinaryIO | None,
    limits: Limits,
    on_stderr: Callable[[str], None] | None,
    *,
    environment: Mapping[str, str],
    owner: Account | None,
) -> Completed:
    """Run `argv` to its end, as `owner` (by number, with no other groups) or as who calls.

    Raises CommandTimeout, OutputTooLarge, and OSError when it cannot be started; nothing is left running.
    """
    with tempfile.TemporaryFile() as source:
        shutil.copyfileobj(io.BytesIO(stdin or b"") if stdin is None or isinstance(stdin, bytes) else stdin, source)
        source.seek(0)
        process = subprocess.Popen(
            argv,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
            user=None if owner is None else owner.uid,
            group=None if owner is None else owner.gid,
            extra_groups=None if owner is None else [],
        )
    try:
        return _converse(board, process, list(argv), limits, on_stderr)
    finally:
        _end(process)


def _converse(
    board: str,
    process: subprocess.Popen[bytes],
    argv: list[str],
    limits: Limits,
    on_stderr: Callable[[str], None] | None,
) -> Completed:
    """Read both outputs to their end. Raises CommandTimeout, OutputTooLarge."""
    assert process.stdout is not None
    assert process.stderr is not None
    kept = {process.stdout: bytearray(), process.stderr: bytearray()}
    line = b""
    started = moved = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for stream in kept:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            for key, _ in selector.select(0.2):
                data = os.read(key.fd, _BLOCK)
                moved = time.monotonic()
                if not data:
                    selector.unregister(key.fileobj)
                    continue
                kept[key.fileobj] += data  # type: ignore[index]
                if key.fileobj is process.stderr and on_stderr is not None:
                    *lines, line = (line + data).split(b"\n")
                    for item in lines:
                        on_stderr(printable(item))
            now = time.monotonic()
            if len(kept[process.stdout]) > limits.output:
                raise OutputTooLarge(
                    f"{board}: {argv[0]} printed more than {limits.output} bytes", what=argv[0], limit=limits.output
                )
            if now - moved > limits.timeout or now - started > limits.deadline:
                raise CommandTimeout(
                    f"{board}: {argv[0]} gave no sign for {now - moved:.0f} s; it was given up",
                    hint="a card that answers so slowly may be dying: dmesg",
                    argv=argv,
                    seconds=round(now - started, 1),
                )
    code = process.wait()
    if line and on_stderr is not None:
        on_stderr(printable(line))
    return Completed(
        128 - code if code < 0 else code, bytes(kept[process.stdout]), bytes(kept[process.stderr][-_STDERR_KEPT:])
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing running: after Ctrl-C or a timeout the whole group is asked to end, then made to."""
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
