"""How to reach a board: what was typed, completed by the ssh config as OpenSSH would."""

from __future__ import annotations

import getpass
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko
import platformdirs

from edgekit.errors import UserError
from edgekit.transport.address import Address, parse_address, parse_port
from edgekit.transport.hostkeys import known_hosts_name

_MAX_HOPS = 8


@dataclass(frozen=True)
class SshTarget:
    """Everything that one SSH connection needs to know.

    Attributes:
        board: as typed; used in messages.
        key_name: what known_hosts calls it.
        known_hosts: files to look in, edgekit's own first.
        identities: private key files, in the order to try; explicit when the config names them.
        jumps: hosts to go through, nearest first.
    """

    board: str
    host: str
    port: int
    user: str
    key_name: str
    known_hosts: tuple[Path, ...]
    identities: tuple[Path, ...] = ()
    identities_only: bool = False
    use_agent: bool = True
    jumps: tuple[SshTarget, ...] = ()

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
    """Complete BOARD with the ssh config (`config`, else `$EDGEKIT_SSH_CONFIG`, else `~/.ssh/config`).

    Raises:
        UserError: BOARD, the config or a value in it cannot be understood, or needs what edgekit lacks.
    """
    given = config or (Path(os.environ["EDGEKIT_SSH_CONFIG"]) if "EDGEKIT_SSH_CONFIG" in os.environ else None)
    file = given or Path.home() / ".ssh" / "config"
    if given is not None and not given.is_file():
        raise UserError(f"no ssh config {given}", path=str(given))
    try:
        parsed = paramiko.SSHConfig.from_path(str(file)) if file.is_file() else paramiko.SSHConfig()
    except (paramiko.ConfigParseError, OSError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"cannot read the ssh config {file}: {error}", path=str(file)) from error
    return _Resolver(file, parsed).target(board, parse_address(board), ())


@dataclass(frozen=True)
class _Resolver:
    file: Path
    config: paramiko.SSHConfig

    def target(self, board: str, address: Address, seen: tuple[str, ...]) -> SshTarget:
        if address.host in seen or len(seen) >= _MAX_HOPS:
            raise self._wrong(f"ProxyJump goes in a circle: {' -> '.join([*seen, address.host])}")
        options = self._options(address.host)
        if options.get("proxycommand"):
            raise self._wrong(f"{address.host} needs ProxyCommand, which edgekit does not speak; use ProxyJump")
        host = str(options.get("hostname", address.host))
        port = address.port or parse_port(str(options.get("port", "22")), str(self.file))
        files, explicit = self._identities(options)
        target = SshTarget(
            board=board,
            host=host,
            port=port,
            user=address.user or str(options.get("user") or getpass.getuser()),
            key_name=str(options.get("hostkeyalias") or known_hosts_name(host, port)).lower(),
            known_hosts=self._known_hosts(options),
            identities=files,
            identities_only=explicit and options.get("identitiesonly") == "yes",
            use_agent=str(options.get("identityagent", "")).lower() != "none",
        )
        return replace(target, jumps=self._jumps(options, (*seen, address.host)))

    def _options(self, host: str) -> Mapping[str, str | list[str]]:
        try:
            return dict(self.config.lookup(host))
        except (paramiko.SSHException, paramiko.CouldNotCanonicalize, ImportError, KeyError, ValueError) as error:
            raise self._wrong(f"cannot look up {host}: {error}") from error

    def _jumps(self, options: Mapping[str, str | list[str]], seen: tuple[str, ...]) -> tuple[SshTarget, ...]:
        text = str(options.get("proxyjump") or "none")
        if text.lower() == "none":
            return ()
        chain: list[SshTarget] = []
        for number, hop in enumerate(text.split(",")):
            jump = self.target(hop.strip(), parse_address(hop.strip()), seen)
            # only the nearest hop may bring jumps of its own: the others are reached through their predecessors
            chain += [*(jump.jumps if number == 0 else ()), replace(jump, jumps=())]
        return tuple(chain)

    def _identities(self, options: Mapping[str, str | list[str]]) -> tuple[tuple[Path, ...], bool]:
        named = options.get("identityfile") or []
        files = [named] if isinstance(named, str) else named
        if files:
            return tuple(Path(file).expanduser() for file in files if file.lower() != "none"), True
        home = Path.home() / ".ssh"
        usual = [home / name for name in ("id_ed25519", "id_ecdsa", "id_rsa")]
        return tuple(path for path in [*usual, own_identity()] if path.is_file()), False

    def _known_hosts(self, options: Mapping[str, str | list[str]]) -> tuple[Path, ...]:
        given = options.get("userknownhostsfile")
        try:
            named = [Path(name).expanduser() for name in shlex.split(str(given))] if given else None
        except ValueError as error:
            raise self._wrong(f"UserKnownHostsFile: {error}") from error
        users = [Path.home() / ".ssh" / "known_hosts"] if named is None else named
        return (own_known_hosts(), *users, Path("/etc/ssh/ssh_known_hosts"))

    def _wrong(self, why: str) -> UserError:
        return UserError(f"{self.file}: {why}", path=str(self.file))
