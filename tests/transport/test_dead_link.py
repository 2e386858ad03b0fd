"""A link that dies at any moment ends in LinkLost or Unreachable, within a bound, saying what was going on.

The bound is generous: it is there to tell an error from waiting for ever.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgekit.embedded import EmbeddedBoard
from edgekit.errors import DeviceError
from edgekit.transport import LinkLost, RemotePath, Transport, Unreachable, connect
from tests.ssh_fixture import SshBoard, start_sshd
from tests.tcp_proxy import TcpProxy
from tests.transport.conftest import SHORT

BOUND = 20.0


@pytest.fixture(params=["sshd", "sshd_without_sftp", "embedded"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[TcpProxy, Path, Path]]:
    """A proxy before a board, an ssh config that goes through it, and a folder on the board."""
    folder = tmp_path / "target"
    folder.mkdir()
    if request.param == "embedded":
        board: EmbeddedBoard = request.getfixturevalue("embedded")
        port, text = board.port, board.ssh_config("board")
        known = tmp_path / "known"
        known.write_text(f"edgekit-embedded {Path(f'{board.home.host_key}.pub').read_text()}")
        text += f"  UserKnownHostsFile {known}\n"
    else:
        real: SshBoard = request.getfixturevalue(request.param)
        port, text = real.port, real.ssh_config.read_text()
        known = tmp_path / "known"
        known.write_text(f"name {Path(f'{real.host_key}.pub').read_text()}")
        text = text.replace(str(real.known_hosts), str(known)) + "  HostKeyAlias name\n"
    with TcpProxy(("127.0.0.1", port)) as proxy:
        config = tmp_path / "config"
        config.write_text(text.replace(f"Port {port}", f"Port {proxy.port}"))
        yield proxy, config, folder


def ends(kind: type[DeviceError], action: Callable[[], object]) -> DeviceError:
    """What `action` raises, provided that it ends."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        action()
    assert time.monotonic() - started < BOUND
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize("after", [1, 30, 1000])
def test_frozen_while_connecting(proxied: tuple[TcpProxy, Path, Path], after: int) -> None:
    proxy, config, _ = proxied
    proxy.freeze_after = after
    error = ends(DeviceError, lambda: connect("board", config=config, timeouts=SHORT))
    assert isinstance(error, Unreachable | LinkLost)


def test_frozen_while_authenticating(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, _ = proxied
    with connect("board", config=config, timeouts=SHORT):
        whole = proxy.sent
    found = set()
    for before in (200, 500, 800):  # bytes short of a whole login; padding varies by some
        proxy.thaw()
        proxy.freeze_after = proxy.sent + whole - before
        error = ends(DeviceError, lambda: connect("board", config=config, timeouts=SHORT))
        found.add(type(error))
    assert LinkLost in found


def freeze_soon(proxy: TcpProxy, seconds: float = 0.5) -> None:
    threading.Timer(seconds, proxy.freeze).start()


def test_frozen_before_a_command(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, _ = proxied
    with connect("board", config=config, timeouts=SHORT) as link:
        proxy.freeze()
        error = ends(LinkLost, lambda: link.run(["true"]))
        assert error.fields["doing"] == "starting true"
        ends(LinkLost, lambda: link.run(["true"]))  # and it stays lost, at once


def test_frozen_while_a_silent_command_runs(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, _ = proxied
    with connect("board", config=config, timeouts=SHORT) as link:
        freeze_soon(proxy)
        error = ends(LinkLost, lambda: link.run(["sleep", "100"], timeout=90))
        assert "running sleep" in str(error)


def test_a_living_link_outlasts_a_command_that_is_silent_for_longer(
    proxied: tuple[TcpProxy, Path, Path],
) -> None:
    _, config, _ = proxied
    with connect("board", config=config, timeouts=SHORT) as link:
        assert link.run(["sleep", str(2.5 * SHORT.stall)]).status == 0


def test_frozen_while_input_is_sent(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, _ = proxied
    with connect("board", config=config, timeouts=SHORT) as link:
        proxy.freeze_after = proxy.sent + (1 << 20)
        error = ends(LinkLost, lambda: link.run(["wc", "-c"], stdin=bytes(64 << 20), timeout=90))
        assert error.fields["bytes_done"] > 0


def test_frozen_while_a_file_is_put(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, folder = proxied
    data = os.urandom(24 << 20)
    with connect("board", config=config, timeouts=SHORT) as link:
        proxy.freeze_after = proxy.sent + (3 << 20)
        target = RemotePath(str(folder)) / "x"
        error = ends(LinkLost, lambda: link.put(io.BytesIO(data), target, size=len(data)))
        assert 0 < error.fields["bytes_done"] < len(data)
    there = folder / "x"
    assert data.startswith(there.read_bytes())


def test_frozen_while_a_file_is_got(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, folder = proxied
    (folder / "x").write_bytes(bytes(64 << 20))
    with connect("board", config=config, timeouts=SHORT) as link:
        threading.Timer(0.1, proxy.freeze).start()
        target = RemotePath(str(folder)) / "x"

        def get_until_it_fails() -> None:
            for _ in range(100):
                link.get(target, limit=1 << 30)

        ends(LinkLost, get_until_it_fails)


@pytest.mark.parametrize("what", ["run", "put"])
def test_cut_in_the_middle(proxied: tuple[TcpProxy, Path, Path], what: str) -> None:
    proxy, config, folder = proxied
    data = os.urandom(8 << 20)
    target = RemotePath(str(folder)) / "x"
    with connect("board", config=config, timeouts=SHORT) as link:
        proxy.cut_after = proxy.sent + (2 << 20)
        if what == "put":
            ends(LinkLost, lambda: link.put(io.BytesIO(data), target, size=len(data)))
        else:
            ends(LinkLost, lambda: link.run(["cat"], stdin=data))
    proxy.cut_after = None
    with connect("board", config=config, timeouts=SHORT) as link:  # and again, from where it was
        there = (folder / "x").stat().st_size if (folder / "x").exists() else 0
        link.put(io.BytesIO(data), target, size=len(data), offset=there)
    assert (folder / "x").read_bytes() == data


def test_slow_is_not_dead(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, folder = proxied
    proxy.delay = 0.02
    data = os.urandom(2 << 20)
    with connect("board", config=config, timeouts=SHORT) as link:
        link.put(io.BytesIO(data), RemotePath(str(folder)) / "x", size=len(data))
    assert (folder / "x").read_bytes() == data


def test_closing_a_frozen_connection_takes_no_answer(proxied: tuple[TcpProxy, Path, Path]) -> None:
    proxy, config, _ = proxied
    link = connect("board", config=config, timeouts=SHORT)
    proxy.freeze()
    started = time.monotonic()
    link.close()
    assert time.monotonic() - started < BOUND


def test_frozen_beyond_a_jump_host(tmp_path: Path) -> None:
    with (
        start_sshd(tmp_path, alias="board") as board,
        start_sshd(tmp_path, alias="gate") as gate,
        TcpProxy(("127.0.0.1", gate.port)) as before,
        TcpProxy(("127.0.0.1", board.port)) as behind,
    ):
        config = tmp_path / "config"

        def known(real: SshBoard, alias: str) -> str:
            real.known_hosts.write_text(f"{alias} {Path(f'{real.host_key}.pub').read_text()}")
            return f"  HostKeyAlias {alias}\n"

        config.write_text(
            board.ssh_config.read_text().replace(str(board.port), str(behind.port))
            + known(board, "the-board")
            + "  ProxyJump gate\n"
            + gate.ssh_config.read_text().replace(str(gate.port), str(before.port))
            + known(gate, "the-gate")
        )
        for proxy in (behind, before):
            link: Transport = connect("board", config=config, timeouts=SHORT)
            assert link.run(["echo", "hello"]).stdout == b"hello\n"
            proxy.freeze()
            ends(LinkLost, lambda link=link: link.run(["true"]))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            started = time.monotonic()
            link.close()
            assert time.monotonic() - started < BOUND
            proxy.thaw()
