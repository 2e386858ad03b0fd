"""How to reach a board: what was typed, completed by the ssh config as OpenSSH would."""

from __future__ import annotations

import getpass
import os
import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko
import platformdirs

from edgekit.errors import UserError
from edgekit.transport import openssh
from edgekit.transport.address import Address, parse_address, parse_port
from edgekit.transport.hostkeys import known_hosts_name
from edgekit.transport.openssh import Options

_MAX_HOPS = 8


@dataclass(frozen=True)
class SshTarget:
    """Everything that one SSH connection needs to know.

    Attributes:
        board: as typed; used in messages.
        key_name: what known_hosts calls it.
        known_hosts: files to look in, edgekit's own first.
        identities: private key files, in the order to try.
        certificates: files that the config names; those beside a key are found by their name.
        agent: the socket of the agent that holds keys.
        family: `any`, `inet` or `inet6`.
        jumps: hosts to go through, nearest first.
        proxy_command: what the nearest of them all is reached through, for the user's shell.
    """

    board: str
    host: str
    port: int
    user: str
    key_name: str
    known_hosts: tuple[Path, ...]
    identities: tuple[Path, ...] = ()
    identities_only: bool = False
    certificates: tuple[Path, ...] = ()
    agent: str | None = None
    family: str = "any"
    jumps: tuple[SshTarget, ...] = ()
    proxy_command: str | None = None

    @property
    def where(self) -> str:
        """`host:port` for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def config_dir() -> Path:
    """edgekit's own configuration: `$EDGEKIT_CONFIG_DIR`, else the user's configuration directory."""
    given = os.environ.get("EDGEKIT_CONFIG_DIR")
    return Path(given) if given else platformdirs.user_config_path("edgekit")


def own_known_hosts() -> Path:
    """The file that `edgekit trust` writes."""
    return config_dir() / "known_hosts"


def own_identity() -> Path:
    """The key that edgekit makes when the user has none."""
    return config_dir() / "id_ed25519"


def resolve(board: str, config: Path | None = None) -> SshTarget:
    """Complete BOARD with the ssh config (`config`, else `$EDGEKIT_SSH_CONFIG`, else what ssh itself reads).

    Raises:
        UserError: BOARD, the config or a value in it cannot be understood, or needs what edgekit lacks.
    """
    given = config or (Path(os.environ["EDGEKIT_SSH_CONFIG"]) if "EDGEKIT_SSH_CONFIG" in os.environ else None)
    if given is not None and not given.is_file():
        raise UserError(f"no ssh config {given}", path=str(given))
    return _Resolver(given).target(board, parse_address(board), ())


@dataclass(frozen=True)
class _Resolver:
    file: Path | None

    def target(self, board: str, address: Address, seen: tuple[str, ...]) -> SshTarget:
        if address.host in seen or len(seen) >= _MAX_HOPS:
            raise self._wrong(f"ProxyJump goes in a circle: {' -> '.join([*seen, address.host])}")
        options = openssh.lookup(address, self.file) if openssh.available() else _lookup_alone(address, self.file)
        host = _one(options, "hostname") or address.host
        port = address.port or parse_port(_one(options, "port") or "22", board)
        target = SshTarget(
            board=board,
            host=host,
            port=port,
            user=address.user or _one(options, "user") or getpass.getuser(),
            key_name=(_one(options, "hostkeyalias") or known_hosts_name(host, port)).lower(),
            known_hosts=_known_hosts(options),
            identities=_identities(options),
            identities_only=_one(options, "identitiesonly") == "yes",
            certificates=tuple(Path(name) for name in options.get("certificatefile", ())),
            agent=_agent(options),
            family=_one(options, "addressfamily") or "any",
            proxy_command=_one(options, "proxycommand"),
        )
        jumps = self._jumps(options, (*seen, address.host))
        return replace(target, jumps=jumps, proxy_command=None if jumps else target.proxy_command)

    def _jumps(self, options: Options, seen: tuple[str, ...]) -> tuple[SshTarget, ...]:
        chain: list[SshTarget] = []
        for number, hop in enumerate((_one(options, "proxyjump") or "").split(",")):
            name = hop.strip().removeprefix("ssh://")
            if not name:
                continue
            jump = self.target(name, parse_address(name), seen)
            # only the nearest hop may bring a way of its own: the others are reached through their predecessors
            chain += jump.jumps if number == 0 else ()
            chain.append(replace(jump, jumps=(), proxy_command=None if chain else jump.proxy_command))
        return tuple(chain)

    def _wrong(self, why: str) -> UserError:
        return UserError(f"the ssh config cannot be followed: {why}", path=str(self.file or ""))


def _lookup_alone(address: Address, file: Path | None) -> Options:
    """Without OpenSSH's client: the user's file as Paramiko reads it, which passes over Include."""
    file = file or Path.home() / ".ssh" / "config"
    try:
        text = file.read_text("utf-8") if file.is_file() else ""
        if re.search(r"(?im)^\s*include[\s=]", text):
            raise UserError(
                f"{file} has Include, which needs OpenSSH's client to follow",
                hint="install it (Debian: openssh-client), or give a file without Include: --ssh-config FILE",
                path=str(file),
            )
        found = paramiko.SSHConfig.from_text(text).lookup(address.host)
    except (paramiko.SSHException, paramiko.CouldNotCanonicalize, OSError, KeyError, ValueError) as error:
        raise UserError(f"cannot read the ssh config {file}: {error}", path=str(file)) from error
    options = {key: [value] if isinstance(value, str) else list(value) for key, value in found.items()}
    for key in openssh.LISTS & options.keys():
        try:
            options[key] = shlex.split(options[key][0])
        except ValueError as error:
            raise UserError(f"cannot read the ssh config {file}: {key}: {error}", path=str(file)) from error
    return options


def _one(options: Options, key: str) -> str | None:
    value = options.get(key, [""])[0]
    return None if value.lower() in ("", "none") else value


def _identities(options: Options) -> tuple[Path, ...]:
    named = options.get("identityfile")
    if named:
        return tuple(Path(file).expanduser() for file in named if file.lower() != "none")
    home = Path.home() / ".ssh"
    usual = [home / name for name in ("id_ed25519", "id_ecdsa", "id_rsa")]
    return tuple(path for path in [*usual, own_identity()] if path.is_file())


def _agent(options: Options) -> str | None:
    name = options.get("identityagent", ["SSH_AUTH_SOCK"])[0]
    if name.lower() == "none":
        return None
    if name == "SSH_AUTH_SOCK" or name.startswith("$"):
        return os.environ.get(name.removeprefix("$")) or None
    return str(Path(name).expanduser())


def _known_hosts(options: Options) -> tuple[Path, ...]:
    home = Path.home() / ".ssh"
    users = options.get("userknownhostsfile", [f"{home}/known_hosts", f"{home}/known_hosts2"])
    system = options.get("globalknownhostsfile", ["/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"])
    named = [Path(name).expanduser() for name in (*users, *system) if name.lower() != "none"]
    return (own_known_hosts(), *named)
