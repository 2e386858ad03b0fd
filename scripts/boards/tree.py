"""The userland of a board: Debian packages unpacked, never configured, then repaired until programs run in it.

A tree is complete or not there, is never written to by a board, and bears its recipe's hash in its name: a changed
recipe makes a new one. `NAME.lock` beside it is held shared by every board that runs from it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from edgekit_runtime.errors import DeviceError, UserError

from boards import repair, servers
from boards.kind import BoardKind
from boards.lock import Busy, locked

_BUILD_SECONDS = 1200
# What the machine's apt was told about reaching its sources.
_ACQUIRE = re.compile(r"Acquire::(Check-|https?::|ForceIPv|Retries)")


def path(kind: BoardKind, trees: Path) -> Path:
    """Where the kind's tree is, or will be."""
    recipe = hashlib.sha256(repr(kind).encode())
    for source in (Path(__file__), Path(repair.__file__), Path(servers.__file__), *kind.form.RECIPE):
        recipe.update(source.read_bytes())
    return trees / f"{kind.name}-{recipe.hexdigest()[:12]}"


def ensure(kind: BoardKind, trees: Path, say: Callable[[str], None]) -> Path:
    """The kind's tree, built when there is none.

    Raises:
        UserError: the machine's apt sources do not offer the kind's Debian.
        DeviceError: it cannot be built.
    """
    tree = path(kind, trees)
    if tree.is_dir():
        return tree
    trees.mkdir(parents=True, exist_ok=True)
    # Who has built it may run a board from it by now, and so share the lock for as long as that board is up.
    with locked(lock_file(tree), say=say, unless=tree.is_dir):
        if not tree.is_dir():
            prune(kind, trees, keep=tree)
            say(f"unpacking Debian's {kind.suite} for {kind.architecture} (100 to 200 MB to fetch)")
            _build(kind, tree)
    return tree


def lock_file(tree: Path) -> Path:
    """Locked alone by who builds or deletes the tree, shared by the boards that run from it."""
    return tree.with_name(f"{tree.name}.lock")


def prune(kind: BoardKind, trees: Path, keep: Path | None = None) -> list[Path]:
    """Delete the kind's trees that no board runs from, and what cut builds left; the trees that are in use."""
    used = []
    for tree in sorted(trees.glob(f"{kind.name}-*")):
        if not tree.is_dir() or tree == keep:
            continue
        owner = tree.with_name(tree.name.partition(".")[0])
        if keep is not None and owner == keep:
            delete(tree)  # a cut build of the tree whose lock is held by the caller
            continue
        try:
            with locked(lock_file(owner), wait=False):
                delete(tree)
                lock_file(owner).unlink()
        except Busy:
            used.append(tree)
    return used


def delete(folder: Path) -> None:
    """Delete a folder that nothing is mounted in.

    Raises:
        DeviceError: something is, and would be deleted too.
    """
    inside = f"{folder.resolve()}/"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        if any(f"{line.split()[4]}/".startswith(inside) for line in table):
            raise DeviceError(f"something is mounted in {folder}", hint="umount it, then try again")
    shutil.rmtree(folder)


def _build(kind: BoardKind, tree: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f"{tree.name}.", dir=tree.parent) as folder:
        part = Path(folder) / "tree"
        lists = Path(folder) / "lists"
        lists.mkdir()
        _unpack(kind, _apt_sources(kind, lists), part)
        repair.repair(kind, part)
        _compile(kind, part)
        os.rename(kind.form.make(kind, part), tree)


def _apt_sources(kind: BoardKind, folder: Path) -> list[str]:
    """The machine's own sources of the kind's Debian, one `deb URI SUITE COMPONENT` each."""
    found = _offered(kind) or _offered(kind, lists=folder)
    if kind.suite not in {line.split()[2] for line in found}:
        raise UserError(
            f"this machine's apt sources have no Debian {kind.suite} main, or do not answer",
            hint=f"does `apt-get update` work? A source of Debian {kind.suite} belongs in /etc/apt/sources.list.d",
        )
    return found


def _offered(kind: BoardKind, lists: Path | None = None) -> list[str]:
    """What apt tells of its indexes, which it does only after an update: `lists` is a folder to update into."""
    where = ["-o", f"Dir::State::Lists={lists}"] if lists else []
    if lists:
        argv = ["apt-get", *where, "-qq", "update"]
        subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_BUILD_SECONDS, check=False)
    form = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    suites = {kind.suite, *((f"{kind.suite}-updates", f"{kind.suite}-security") if kind.updates else ())}
    found = set()
    for line in _ask("apt-get", *where, "indextargets", "--format", form, "Created-By: Packages").splitlines():
        origin, uri, suite, component = line.split("|")
        if origin == "Debian" and component == "main" and suite in suites:
            found.add(f"deb {uri} {suite} {component}")
    return sorted(found)


def _ask(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(argv[:2])}: {done.stderr.strip()}", hint="apt itself has to work first")
    return done.stdout


def _unpack(kind: BoardKind, sources: list[str], part: Path) -> None:
    settings = _ask("apt-config", "dump", "Acquire").splitlines()
    options = part.with_name("apt.conf")
    options.touch(mode=0o600)  # a proxy's password may be in it
    options.write_text("".join(f"{line}\n" for line in settings if _ACQUIRE.match(line)), "utf-8")
    # In namespaces of its own what it mounts cannot outlive it, and it cannot outlive this process.
    argv = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    argv += [
        "--propagation",
        "private",
        "mmdebstrap",
        "--variant=extract",
        "--mode=root",
        f"--architectures={kind.architecture}",
        f"--aptopt={options}",
    ]
    argv += [f"--include={','.join(kind.packages)}", kind.suite, str(part), "-"]
    try:
        done = subprocess.run(
            argv, input="\n".join(sources), capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(f"unpacking Debian took more than {_BUILD_SECONDS // 60} minutes") from error
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))] or done.stderr.splitlines()
        raise DeviceError(
            "Debian's packages cannot be unpacked:\n  " + "\n  ".join(last[-8:]),
            hint="does `apt-get update` work? mmdebstrap uses the same sources",
        )


def _compile(kind: BoardKind, part: Path) -> None:
    """Byte-compile Python's modules with this machine's Python of that version; without one imports are just slower."""
    own = f"{sys.version_info[0]}.{sys.version_info[1]}"
    python = sys.executable if own == kind.python else shutil.which(f"python{kind.python}")
    if python is None:
        return
    skip = r"/(test|tests|idlelib|lib2to3|tkinter|turtledemo|distutils|ensurepip|f2py)/"
    folders = [str(part / f"usr/lib/python{kind.python}"), str(part / "usr/lib/python3/dist-packages/numpy")]
    argv = [python, "-m", "compileall", "-qq", "-j", "0", "-x", skip, "-s", str(part), "-p", "/", *folders]
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=_BUILD_SECONDS, check=False)
