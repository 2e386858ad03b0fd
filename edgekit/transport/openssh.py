"""What OpenSSH makes of the ssh config, by `ssh -G`: Include, Match and canonical names mean what they do there."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from edgekit.errors import UserError
from edgekit.transport.address import Address

Options = Mapping[str, list[str]]

_SECONDS = 60  # Match exec and names to look up take their time
LISTS = frozenset(("userknownhostsfile", "globalknownhostsfile"))  # several values on one line
_PATHS = frozenset(("identityfile", "certificatefile", "identityagent")) | LISTS
_NEXT_FILE = re.compile(" (?=/)")  # `ssh -G` writes blanks in a name as they are
_TOKEN = re.compile(r"%(.?)", re.DOTALL)
_ENVIRONMENT = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_UNSAFE_USER = re.compile(r"[^\w.@+-]", re.ASCII)


def available() -> bool:
    """Whether `ssh -G` can be asked: it is installed, and the password database has this user, as it insists on."""
    return shutil.which("ssh") is not None and _account_home() is not None


def lookup(address: Address, file: Path | None) -> Options:
    """The options for `address`, paths and commands complete; those of a list that are defaults are left out.

    Args:
        file: an ssh config to use alone, instead of the user's and the system's.

    Raises:
        UserError: OpenSSH refuses the config, or a value needs what edgekit does not know.
    """
    found, usual = _ask(address, file), _defaults()

    def complete(key: str, values: list[str]) -> list[str]:
        if key == "proxycommand":
            return [expand(value, address, found, command=True) for value in values]
        files = _NEXT_FILE.split(values[0]) if key in LISTS else values
        return [_path(file, address, found) for file in files] if key in _PATHS else values

    lists = LISTS | {"identityfile"}
    stated = {key: values for key, values in found.items() if key not in lists or values != usual.get(key)}
    return {key: complete(key, values) for key, values in stated.items()}


def expand(text: str, address: Address, options: Options, *, command: bool = False) -> str:
    """`text` with the tokens of ssh_config(5) replaced; in a `command` the user's name must mean nothing to a shell."""
    user = options["user"][0]
    if command and "%r" in text and _UNSAFE_USER.search(user):
        raise UserError(f"the user name {user!r} cannot stand in a ProxyCommand", user=user)
    home = Path.home()
    local = socket.gethostname()
    values = {
        "%": "%",
        "d": str(home),
        "h": options["hostname"][0],
        "i": str(os.getuid()),
        "k": options.get("hostkeyalias", [address.host])[0],
        "L": local.partition(".")[0],
        "l": local,
        "n": address.host,
        "p": options["port"][0],
        "r": user,
        "u": _account_name(),
    }

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise UserError(f"the ssh config has {found[0]} in {text!r}, which edgekit does not know", token=found[0])
        return values[found[1]]

    return _TOKEN.sub(value, text)


def _ask(address: Address, file: Path | None) -> Options:
    words = ["ssh", "-T", "-G", *_config(file)]
    words += ["-l", address.user] if address.user else []
    words += ["-p", str(address.port)] if address.port else []
    try:
        done = subprocess.run(
            [*words, address.host], stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"cannot read the ssh config: {error}") from error
    if done.returncode:
        why = done.stderr.decode("utf-8", "replace").strip()
        raise UserError(f"cannot read the ssh config: ssh says: {why}", path=str(file or ""))
    options: dict[str, list[str]] = {}
    for line in done.stdout.decode("utf-8", "surrogateescape").splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key.lower(), []).append(value)
    missing = [key for key in ("hostname", "port", "user") if key not in options]
    if missing:
        raise UserError(f"cannot read the ssh config: 'ssh -G' tells no {missing[0]}")
    return options


@functools.cache
def _defaults() -> Options:
    return _ask(Address("localhost"), Path("none"))


def _config(file: Path | None) -> list[str]:
    """ssh looks in the password database's home, edgekit in `$HOME`: mostly the same, and then it needs no word."""
    if file is not None:
        return ["-F", str(file)]
    if str(Path.home()) == _account_home():
        return []
    usual = Path.home() / ".ssh" / "config"
    return ["-F", str(usual) if usual.is_file() else "none"]


def _path(text: str, address: Address, options: Options) -> str:
    if text.lower() == "none" or text == "SSH_AUTH_SOCK":
        return text
    text = expand(_ENVIRONMENT.sub(lambda name: os.environ.get(name[1], ""), text), address, options)
    account = f"{_account_home()}/"
    if text.startswith(account):
        text = f"{Path.home()}/{text.removeprefix(account)}"
    return str(Path(text).expanduser())


def _account_home() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _account_name() -> str:
    return pwd.getpwuid(os.getuid()).pw_name
