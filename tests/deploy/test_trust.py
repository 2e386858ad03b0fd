"""Getting to a board: no key is taken on faith, no secret is asked of nobody, and each refusal says what to do."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.deploy.boards import Board, another_key, fingerprint, write_ssh_config
from tests.deploy.conftest import ANY_PROCESSOR
from tests.deploy.kit import User
from tests.ssh_fixture import free_port, make_key


@pytest.fixture
def stranger(board: Board, tmp_path: Path, user: User) -> User:
    """Someone who has the board's address and key, and never talked to it."""
    home = tmp_path / "stranger"
    home.mkdir()
    (home / "embedded").symlink_to(user.home / "embedded")  # so that `embedded` is this board
    someone = User(home)
    write_ssh_config(someone, board)
    return someone


@ANY_PROCESSOR
def test_an_unknown_key_is_refused_with_the_way_to_trust_it(board: Board, stranger: User) -> None:
    error = stranger.fail(3, "status", board.name)
    assert error["type"] == "UnknownHostKey"
    assert error["fields"]["fingerprint"] == board.fingerprint
    assert f"edgekit trust {board.name}" in error["hint"]
    assert not stranger.trusted.exists()


@ANY_PROCESSOR
def test_trust_takes_the_fingerprint_that_was_announced_and_no_other(board: Board, stranger: User) -> None:
    announced = fingerprint(Path(f"{another_key(stranger.home)}.pub"))
    error = stranger.fail(2, "trust", board.name, "--fingerprint", announced)
    assert (error["fields"]["shown"], error["fields"]["expected"]) == (board.fingerprint, announced)
    assert not stranger.trusted.exists()

    assert stranger.do("trust", board.name, "--fingerprint", board.fingerprint) == {
        "board": board.name,
        "type": "ssh-ed25519",
        "fingerprint": board.fingerprint,
        "was": "none",
    }
    assert stranger.do("status", board.name)["state"] == "IDLE"
    assert stranger.do("trust", board.name)["was"] == "known"
    assert not board.root.exists()  # looking at a board changes nothing there


@ANY_PROCESSOR
def test_where_nobody_can_be_asked_nothing_is_trusted(board: Board, stranger: User) -> None:
    answer = stranger.run("trust", board.name)
    assert answer.status != 0
    assert board.fingerprint in answer.stderr
    assert not stranger.trusted.exists()


@ANY_PROCESSOR
def test_a_changed_key_is_refused_and_plain_trust_does_not_replace_it(board: Board, stranger: User) -> None:
    stranger.do("trust", board.name, "--fingerprint", board.fingerprint)
    names = stranger.trusted.read_text().split()[0]
    old = Path(f"{another_key(stranger.home)}.pub")
    stranger.trusted.write_text(f"{names} {' '.join(old.read_text().split()[:2])}\n")

    error = stranger.fail(3, "status", board.name)
    assert error["type"] == "ChangedHostKey"
    assert error["fields"]["fingerprint"] == board.fingerprint
    assert error["fields"]["known"] == [fingerprint(old)]
    assert "attack" in error["hint"]
    assert f"edgekit trust --reflashed {board.name}" in error["hint"]

    before = stranger.trusted.read_text()
    for words in ([], ["--fingerprint", board.fingerprint]):
        assert stranger.fail(3, "trust", board.name, *words)["type"] == "ChangedHostKey"
    assert stranger.fail(2, "trust", "--reflashed", board.name)["type"] == "UserError"  # nobody said yes
    assert stranger.trusted.read_text() == before


@ANY_PROCESSOR
def test_a_reflashed_board_s_new_key_takes_the_old_one_s_place_under_each_of_its_names(
    board: Board, stranger: User
) -> None:
    stranger.do("trust", board.name, "--fingerprint", board.fingerprint)
    name, now = stranger.trusted.read_text().strip().split(" ", 1)
    old = another_key(stranger.home)
    second = make_key(stranger.home / "second", "ecdsa")
    was, too = (" ".join(Path(f"{key}.pub").read_text().split()[:2]) for key in (old, second))
    others = f"elsewhere {too.split()[0]} AAAA\n@revoked * ssh-rsa AAAB\n"
    stranger.trusted.write_text(f"{name} {was}\n10.0.0.7,pi.lab {was}\n{others}{name} {too}\n")
    theirs = stranger.home / ".ssh" / "known_hosts"
    theirs.write_text(f"{name} {was}\n")

    answer = stranger.run("trust", "--reflashed", board.name, "--fingerprint", board.fingerprint, "--json")
    assert answer.json == {
        "board": board.name,
        "type": "ssh-ed25519",
        "fingerprint": board.fingerprint,
        "was": "changed",
        "replaced": [fingerprint(Path(f"{key}.pub")) for key in (old, second)],
        "names": [name, "10.0.0.7", "pi.lab"],
    }
    assert fingerprint(Path(f"{old}.pub")) in answer.stderr
    assert stranger.trusted.read_text() == others + "".join(f"{each} {now}\n" for each in ("10.0.0.7", "pi.lab", name))
    assert theirs.read_text() == f"{name} {was}\n"  # is OpenSSH's
    removal = ["ssh-keygen", "-R", name, "-f", str(theirs)]
    assert shlex.join(removal) in answer.words
    assert stranger.do("status", board.name)["state"] == "IDLE"
    assert stranger.do("trust", "--reflashed", board.name)["was"] == "known"

    stranger.trusted.write_text(f"{name},*.lab {was}\n")
    error = stranger.fail(2, "trust", "--reflashed", board.name, "--fingerprint", board.fingerprint)
    assert f"{stranger.trusted}:1" in error["message"]
    stranger.trusted.write_text(f"{name} {was}\n@revoked {name} {now}\n")
    error = stranger.fail(3, "trust", "--reflashed", board.name, "--fingerprint", board.fingerprint)
    assert error["type"] == "RevokedHostKey"


@ANY_PROCESSOR
def test_a_key_that_the_board_does_not_know_is_named(board: Board, stranger: User) -> None:
    key = another_key(stranger.home)
    stranger.ssh_config.write_text(board.host_block.replace(str(board.identity), str(key)))
    stranger.do("trust", board.alias, "--fingerprint", board.fingerprint)
    error = stranger.fail(3, "status", board.alias)
    assert error["type"] == "AuthenticationFailed"
    assert error["fields"]["tried"] == [f"key {key}"]
    assert f"edgekit trust {board.alias} --install-key" in error["hint"]


@ANY_PROCESSOR
def test_a_closed_port_is_a_clear_refusal(board: Board, stranger: User) -> None:
    port = free_port()
    stranger.ssh_config.write_text(board.host_block.replace(f"Port {board.port}", f"Port {port}"))
    error = stranger.fail(3, "status", board.alias)
    assert (error["type"], error["fields"]["reason"]) == ("Unreachable", "refused")
    assert str(port) in error["message"]
    assert error["hint"]


def test_an_address_without_a_route_is_said_to_be_one(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("a network without routes needs root")
    error = User(tmp_path, ("unshare", "--net")).fail(3, "status", "pi@192.0.2.1")  # RFC 5737
    assert (error["type"], error["fields"]["reason"]) == ("Unreachable", "no-route")
    assert "192.0.2.1" in error["message"]


def test_a_name_that_does_not_exist_is_said_to_be_one(tmp_path: Path) -> None:
    error = User(tmp_path).fail(3, "status", "pi@board.invalid")  # RFC 6761
    assert (error["type"], error["fields"]["reason"]) == ("Unreachable", "dns")


@ANY_PROCESSOR
def test_where_there_is_no_terminal_askpass_opens_an_encrypted_key(board: Board, stranger: User) -> None:
    locked, askpass = stranger.home / "locked", stranger.home / "askpass"
    locked.write_bytes(board.identity.read_bytes())
    locked.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", locked], check=True, capture_output=True)
    askpass.write_text(f'#!/bin/sh\necho "$1" >>"{stranger.home}/prompts"\necho open sesame\n')
    askpass.chmod(0o700)
    stranger.ssh_config.write_text(board.host_block.replace(str(board.identity), str(locked)))
    stranger.do("trust", board.alias, "--fingerprint", board.fingerprint)
    assert stranger.fail(3, "status", board.alias, SSH_ASKPASS=str(askpass))["type"] == "AuthenticationFailed"
    assert stranger.do("status", board.alias, SSH_ASKPASS=str(askpass), SSH_ASKPASS_REQUIRE="force")["state"] == "IDLE"
    assert (stranger.home / "prompts").read_text() == f"passphrase of {locked}: \n"
