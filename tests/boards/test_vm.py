"""The whole board: a kernel, systemd, and a disk that keeps what was written when its power is cut."""

from __future__ import annotations

import platform

import pytest

from tests.board_fixture import NOWHERE, BoardInfo
from tests.boards.conftest import OwnBoard, is_alive, output, processes_with

pytestmark = pytest.mark.emulated("vm")


def test_it_has_a_kernel_of_its_own_and_a_disk_with_two_partitions(vm: BoardInfo) -> None:
    assert output(vm, "uname -m; id -un; cat /etc/edgekit-emulated") == "aarch64\npi\nqemu-system cortex-a72"
    assert output(vm, "uname -r") != platform.release()
    assert output(vm, "cat /proc/1/comm; sudo id -u") == "systemd\n0"
    assert output(vm, "lsblk -nro NAME") == "vda\nvda1\nvda2"
    assert output(vm, "findmnt -nro SOURCE,FSTYPE /") == "/dev/vda2 ext4"
    assert str(vm.root) == str(vm.home) == str(vm.sys) == NOWHERE


def test_the_small_and_the_readonly_place_are_there_and_nothing_else_is_reached(vm: BoardInfo) -> None:
    assert output(vm, "df --output=size /mnt/small | tail -1").strip() == "16384"
    assert "Read-only file system" in vm.ssh("touch /mnt/readonly/x").stderr
    away = "import socket; socket.create_connection(('10.0.2.2', 22), timeout=5)"
    assert vm.ssh(f'python3 -c "{away}"').returncode != 0


def test_files_outlive_power_off_and_once_synced_a_power_cut(own: OwnBoard) -> None:
    board = own.up()
    assert output(board, "systemctl is-system-running --wait") == "running"
    assert output(board, "systemctl list-units --failed --no-legend") == ""
    output(board, "echo kept > file")
    assert processes_of(own, board)
    assert own.run("down").returncode == 0
    assert not is_alive(board.pid)
    assert processes_of(own, board) == []

    again = own.up()
    assert (again.port, again.host_key_fingerprint) == (board.port, board.host_key_fingerprint)
    assert output(again, "cat file") == "kept"
    assert not mended_its_disk(again)
    output(again, "echo synced > other; sync")
    assert "the power of vm is cut" in own.run("cut").stderr
    assert not is_alive(again.pid)
    assert processes_of(own, again) == []

    last = own.up()
    assert output(last, "cat file other") == "kept\nsynced"
    assert mended_its_disk(last)
    assert own.run("cut").returncode == 0
    assert "was not up" in own.run("cut").stderr


def processes_of(own: OwnBoard, board: BoardInfo) -> list[str]:
    """QEMU and what watches it."""
    return processes_with(str(own.state)) + processes_with(f"tcp:127.0.0.1:{board.port}-:22")


def mended_its_disk(board: BoardInfo) -> bool:
    """Whether its kernel found the file system as no orderly end leaves it."""
    return "EXT4-fs (vda2): recovery complete" in output(board, "sudo dmesg")
