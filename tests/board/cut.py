"""Run a command, count what it changes in a folder across all its processes, and kill them all before change N.

    python cut.py FOLDER N COMMAND...        prints the number of changes seen; N = 0 lets it end by itself

ptrace(2) numbers the calls of the whole tree in the order in which they happen, which strace's injection cannot.
Exit status: 0 it ended well, 1 it ended otherwise, 9 it was killed.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys

TRACEME, SYSCALL, SETOPTIONS, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
OPTIONS = 1 | 2 | 4 | 8 | 16 | 0x100000  # sysgood, fork, vfork, clone, exec, exitkill
WALL = 0x40000000
CREATE_OR_TRUNCATE = os.O_CREAT | os.O_TRUNC

# Number -> what it takes: ("fd", argument) or ("path", folder argument or None, path argument, flags argument or None).
Call = tuple[str, int | None, int, int | None]
X86_64: dict[int, Call] = {
    1: ("fd", None, 0, None),  # write
    18: ("fd", None, 0, None),  # pwrite64
    20: ("fd", None, 0, None),  # writev
    40: ("fd", None, 0, None),  # sendfile
    77: ("fd", None, 0, None),  # ftruncate
    91: ("fd", None, 0, None),  # fchmod
    285: ("fd", None, 0, None),  # fallocate
    326: ("fd", None, 2, None),  # copy_file_range
    2: ("path", None, 0, 1),  # open
    257: ("path", 0, 1, 2),  # openat
    82: ("path", None, 0, None),  # rename
    264: ("path", 0, 1, None),  # renameat
    316: ("path", 0, 1, None),  # renameat2
    83: ("path", None, 0, None),  # mkdir
    258: ("path", 0, 1, None),  # mkdirat
    84: ("path", None, 0, None),  # rmdir
    87: ("path", None, 0, None),  # unlink
    263: ("path", 0, 1, None),  # unlinkat
    86: ("path", None, 1, None),  # link
    265: ("path", 2, 3, None),  # linkat
    90: ("path", None, 0, None),  # chmod
    268: ("path", 0, 1, None),  # fchmodat
}
AARCH64: dict[int, Call] = {
    64: ("fd", None, 0, None),
    68: ("fd", None, 0, None),
    66: ("fd", None, 0, None),
    71: ("fd", None, 0, None),
    46: ("fd", None, 0, None),
    52: ("fd", None, 0, None),
    47: ("fd", None, 0, None),
    285: ("fd", None, 2, None),
    56: ("path", 0, 1, 2),
    38: ("path", 0, 1, None),
    276: ("path", 0, 1, None),
    34: ("path", 0, 1, None),
    35: ("path", 0, 1, None),
    37: ("path", 2, 3, None),
    53: ("path", 0, 1, None),
}
CALLS = {"x86_64": X86_64, "aarch64": AARCH64}.get(platform.machine(), {})

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    return int(libc.ptrace(request, pid, address, data))


def entered(pid: int) -> tuple[int, tuple[int, ...]] | None:
    """Number and arguments of the call that is about to happen; None when one has just ended."""
    info = ctypes.create_string_buffer(96)
    if ptrace(GET_SYSCALL_INFO, pid, 96, ctypes.addressof(info)) <= 0 or info.raw[0] != 1:
        return None
    number, *arguments = struct.unpack_from("=7Q", info.raw, 24)
    return number, tuple(arguments)


def text_at(pid: int, address: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(256).split(b"\0")[0].decode("utf-8", "replace")


def changes(pid: int, number: int, arguments: tuple[int, ...], folder: str) -> bool:
    """Whether the call changes something in the folder."""
    if number not in CALLS:
        return False
    kind, base, place, flags = CALLS[number]
    if flags is not None and not arguments[flags] & CREATE_OR_TRUNCATE:
        return False
    try:
        if kind == "fd":
            path = os.readlink(f"/proc/{pid}/fd/{arguments[place]}")
        else:
            path = text_at(pid, arguments[place])
            if not path.startswith("/"):
                near = ctypes.c_int(arguments[base] & 0xFFFFFFFF).value if base is not None else -100
                start = os.readlink(f"/proc/{pid}/cwd" if near == -100 else f"/proc/{pid}/fd/{near}")
                path = os.path.join(start, path)
    except OSError:
        return False
    return os.path.normpath(path).startswith(folder + "/")


def kill(pids: set[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    while True:
        try:
            pid, status = os.waitpid(-1, WALL)
        except ChildProcessError:
            return
        if os.WIFSTOPPED(status):  # a child just forked, whose first stop had not been reported yet
            os.kill(pid, signal.SIGKILL)


def run(folder: str, cut: int, argv: list[str]) -> tuple[int, int]:
    """The number of changes, and the exit status (9 when killed)."""
    first = os.fork()
    if first == 0:
        ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execvp(argv[0], argv)
    os.waitpid(first, WALL)
    ptrace(SETOPTIONS, first, 0, OPTIONS)
    ptrace(SYSCALL, first)
    known, seen, ending = {first}, 0, 1
    while known:
        pid, status = os.waitpid(-1, WALL)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            known.discard(pid)
            if pid == first:
                ending = 0 if status == 0 else 1
            continue
        deliver = os.WSTOPSIG(status)
        if deliver == signal.SIGTRAP | 0x80:
            deliver = 0
            call = entered(pid)
            if call is not None and changes(pid, *call, folder):
                seen += 1
                if seen == cut:
                    kill(known)
                    return seen, 9
        elif status >> 16 or (pid not in known and deliver == signal.SIGSTOP):
            deliver = 0
        known.add(pid)
        ptrace(SYSCALL, pid, 0, deliver)
    return seen, ending


if __name__ == "__main__":
    count, ended = run(os.path.realpath(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
    print(count)
    sys.exit(ended)
