"""SSH as people have it: what OpenSSH makes of its config, edgekit makes of it too."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.errors import UserError
from edgekit.transport import CommandNotRun, RemotePath, Unreachable, connect, install_key
from edgekit.transport.config import resolve
from edgekit.transport.dial import Timeouts
from tests.ssh_fixture import Account, SshBoard, make_key, start_sshd

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="a board's own users and networks need root")


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_included_files_are_part_of_the_config(tmp_path: Path) -> None:
    write(tmp_path / "d" / "10-lab", f"Include {tmp_path}/nested\nHost lab\n  Port 2201\n")
    write(tmp_path / "d" / "20-lab", "Host lab\n  Port 2202\n  HostName 10.0.0.9\n")
    write(tmp_path / "nested", "User nested\n")
    write(tmp_path / "inner", "HostKeyAlias seven\n")
    file = write(
        tmp_path / "c", f"Host lab\n  Include {tmp_path}/inner\nHost *\n  Include {tmp_path}/d/* {tmp_path}/no*e\n"
    )
    lab, other = resolve("lab", file), resolve("other", file)
    assert (lab.host, lab.port, lab.user, lab.key_name) == ("10.0.0.9", 2201, "nested", "seven")
    assert (other.host, other.port, other.user, other.key_name) == ("other", 22, "nested", "other")


@pytest.mark.parametrize(
    ("condition", "board", "found"),
    [
        ("host ten.example", "b", True),
        ("host b", "b", False),
        ("originalhost b", "b", True),
        ("user pi", "pi@b", True),
        ("user pi", "b", False),
        (f"localuser {getpass.getuser()}", "b", True),
        ('exec "test %h = ten.example"', "b", True),
        ("exec false", "b", False),
        ("final host ten.example", "b", True),
        ("canonical", "b", False),
        ("all", "b", True),
        ("!user pi originalhost b", "b", True),
    ],
)
def test_match_means_what_it_means_to_ssh(tmp_path: Path, condition: str, board: str, found: bool) -> None:
    file = write(tmp_path / "c", f"Host b\n  HostName ten.example\nMatch {condition}\n  Port 77\n")
    assert resolve(board, file).port == (77 if found else 22)


@root_only
def test_without_a_word_the_users_and_the_systems_config_count_as_for_ssh(tmp_path: Path) -> None:
    write(tmp_path / ".ssh" / "config", "Include more/*\n")
    write(tmp_path / ".ssh" / "more" / "lab", "Host lab\n  HostName 10.0.0.9\n  IdentityFile ~/.ssh/%n\n")
    write(tmp_path / "etc" / "ssh_config", "Host *\n  User system\n")
    home = os.path.expanduser(f"~{getpass.getuser()}")
    code = "from edgekit.transport.config import resolve as r; t = r('lab'); print(t.host, t.user, *t.identities)"
    mounts = 'mount --rbind "$2" "$1/kept"; mount --rbind "$1" "$2"; mount --bind "$1/etc" /etc/ssh; shift 2; exec "$@"'
    python = Path(sys.executable).resolve()
    (tmp_path / "kept").mkdir()
    if python.is_relative_to(home):  # what the interpreter needs of the home that is hidden there
        name = python.relative_to(home).parts[0]
        (tmp_path / name).symlink_to(Path(home) / "kept" / name)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mounts, "sh", str(tmp_path), home, sys.executable, "-c", code],
        env={**os.environ, "HOME": home},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"10.0.0.9 system {home}/.ssh/lab\n", done.stderr


def test_without_openssh_s_client_include_is_refused_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = write(
        tmp_path / "c", 'Host b\n  HostName ten\n  Port 77\n  UserKnownHostsFile /a "/b c"\n  IdentityFile /k/%h\n'
    )
    target = resolve("pi@b", file)
    assert (target.host, target.port, target.user) == ("ten", 77, "pi")
    assert (target.known_hosts[1:3], target.identities) == ((Path("/a"), Path("/b c")), (Path("/k/ten"),))
    with pytest.raises(UserError, match="Include"):
        resolve("b", write(tmp_path / "c", "include other\n"))


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshBoard]:
    with start_sshd(tmp_path_factory.mktemp("gate"), alias="gate") as server:
        yield server


def test_hops_have_names_keys_and_ports_of_their_own(sshd: SshBoard, gate: SshBoard, tmp_path: Path) -> None:
    hop = f"{gate.user}@127.0.0.1:{gate.port}"
    keys = f"Match originalhost 127.0.0.1\n  IdentityFile {gate.identity}\n  UserKnownHostsFile {gate.known_hosts}\n"
    text = f"{sshd.ssh_config.read_text()}  ProxyJump gate,{hop}\n{gate.ssh_config.read_text()}{keys}"
    config = write(tmp_path / "c", text)
    with connect("board", config=config) as link:
        assert link.run(["sh", "-c", "echo $SSH_CONNECTION"]).text.split()[-1] == str(sshd.port)
    assert [jump.board for jump in resolve("board", config).jumps] == ["gate", f"{gate.user}@[127.0.0.1]:{gate.port}"]


@pytest.mark.parametrize("command", ["ssh -F {config} -o BatchMode=yes -W %h:%p gate", "nc %h %p"])
def test_a_proxy_command_is_the_way_and_ends_with_the_link(
    sshd: SshBoard, gate: SshBoard, tmp_path: Path, command: str
) -> None:
    config = tmp_path / "c"
    proxy = f"  ProxyCommand {command.format(config=config)}\n"
    write(config, sshd.ssh_config.read_text() + proxy + gate.ssh_config.read_text())
    with connect("board", config=config) as link:
        assert link.run(["echo", "hello"]).text == "hello\n"
        assert len(children()) == 1
    assert children() == []


def children() -> list[str]:
    """Names of this process's children that run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = stat.read_text().rpartition(")")
        except OSError:
            continue
        name = head.partition("(")[2]
        if tail.split()[1] == str(os.getpid()) and tail.split()[0] != "Z" and name in ("ssh", "nc"):
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'echo no such bastion >&2; exit 7'", "status 7: no such bastion"),
        ("no-such-program", "status 127"),
        ("cat", "runs, but is no SSH server"),
    ],
)
def test_a_proxy_command_that_fails_is_told_with_its_own_words(tmp_path: Path, command: str, said: str) -> None:
    config = write(tmp_path / "c", f"Host b\n  ProxyCommand {command}\n")
    with pytest.raises(Unreachable) as caught:
        connect("b", config=config, timeouts=Timeouts(1.5, 5, 5))
    if command != "cat":  # its echo is a greeting
        assert (caught.value.fields["reason"], said in str(caught.value)) == ("proxy", True)
    assert children() == []


def test_the_agent_that_the_config_names_is_asked(sshd: SshBoard, tmp_path: Path) -> None:
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert process.poll() is None
        add = ["ssh-add", "-q", str(sshd.identity)]
        subprocess.run(add, check=True, capture_output=True, env={**os.environ, "SSH_AUTH_SOCK": str(path)})
        public = write(tmp_path / "key.pub", Path(f"{sshd.identity}.pub").read_text())
        text = sshd.ssh_config.read_text().replace(f"IdentityFile {sshd.identity}", f"IdentityFile {public}")
        connect("board", config=write(tmp_path / "c", f"{text}  IdentityAgent {path}\n")).close()
    finally:
        process.terminate()
        process.wait(5)


def test_a_certificate_beside_the_key_opens_a_board_that_knows_only_the_authority(tmp_path: Path) -> None:
    authority, key = make_key(tmp_path / "ca"), make_key(tmp_path / "key")
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", getpass.getuser(), f"{key}.pub"]
    subprocess.run(sign, check=True, capture_output=True)
    with start_sshd(tmp_path, options=[f"TrustedUserCAKeys {authority}.pub"]) as board:
        text = board.ssh_config.read_text().replace(str(board.identity), str(key))
        connect("board", config=write(tmp_path / "c", text)).close()
        elsewhere = Path(f"{key}-cert.pub").rename(tmp_path / "elsewhere")
        text += f"  CertificateFile {elsewhere}\n"
        connect("board", config=write(tmp_path / "c", text)).close()


@root_only
@pytest.mark.parametrize("pam", [False, True], ids=["password", "keyboard-interactive"])
def test_a_board_that_takes_only_a_password_gets_a_key_with_it(tmp_path: Path, pam: bool) -> None:
    home = "/var/tmp/" + f"edgekit-test-{os.getpid()}"  # where its user can come
    os.mkdir(home, 0o700)
    os.chown(home, 4711, 4711)
    login = "UsePAM yes\nKbdInteractiveAuthentication yes" if pam else "PasswordAuthentication yes"
    options = [*login.splitlines(), "AuthorizedKeysFile .ssh/authorized_keys", "StrictModes yes"]
    wrapper = Account(tmp_path / "etc").wrapper("pi", "/bin/sh", home, uid=4711, password="raspberry")
    try:
        with start_sshd(tmp_path, options=options, wrapper=wrapper) as board:
            text = board.ssh_config.read_text().replace(f"User {board.user}", "User pi")
            config = write(tmp_path / "c", text)
            prompts: list[str] = []

            def ask(prompt: str) -> str:
                prompts.append(prompt)
                return "raspberry"

            install_key("board", ask=ask, config=config)
            assert prompts == ["password of pi@127.0.0.1: "]
            with connect("board", config=config) as link:
                assert link.run(["id", "-un"]).text == "pi\n"
    finally:
        subprocess.run(["rm", "-r", home], check=True)


def test_ipv6_is_an_address_like_any(tmp_path: Path) -> None:
    with start_sshd(tmp_path, address="::1") as board:
        keys = f"Host ::1\n  IdentityFile {board.identity}\n  UserKnownHostsFile {board.known_hosts}\n"
        with connect(f"{board.user}@[::1]:{board.port}", config=write(tmp_path / "c", keys)) as link:
            assert link.run(["sh", "-c", "echo $SSH_CONNECTION"]).text.split()[2] == "::1"


def test_a_name_whose_ipv6_address_is_silent_is_reached_by_ipv4(sshd: SshBoard, tmp_path: Path) -> None:
    families = [family for family, *_ in socket.getaddrinfo("localhost", sshd.port, type=socket.SOCK_STREAM)]
    if families[:1] != [socket.AF_INET6]:
        families = []  # no such name here: IPv4 alone must do
    with (
        socket.socket(socket.AF_INET6) as deaf,
        socket.socket(socket.AF_INET6) as first,
        socket.socket(socket.AF_INET6) as second,
    ):
        if families:
            deaf.bind(("::1", sshd.port))
            deaf.listen(0)
            for caller in (first, second):  # its queue is full: nobody else gets an answer
                caller.setblocking(False)
                caller.connect_ex(("::1", sshd.port))
        text = sshd.ssh_config.read_text().replace("HostName 127.0.0.1", "HostName localhost")
        text += "  HostKeyAlias board\n"
        known = write(tmp_path / "known", f"board {Path(f'{sshd.host_key}.pub').read_text()}")
        config = write(tmp_path / "c", text.replace(str(sshd.known_hosts), str(known)))
        connect("board", config=config, timeouts=Timeouts(4, 15, 30)).close()


@root_only
def test_a_link_local_address_has_its_interface(tmp_path: Path) -> None:
    inside = 'ip link set lo up; ip -6 address add fe80::1/64 dev lo nodad; exec "$@"'
    wrapper = ["unshare", "--net", "sh", "-ec", inside, "sh"]
    with start_sshd(tmp_path, address="fe80::1%lo", wrapper=wrapper) as board:
        assert board.process is not None
        config = write(
            tmp_path / "c", f"Host *\n  IdentityFile {board.identity}\n  UserKnownHostsFile {board.known_hosts}\n"
        )
        code = "import sys, edgekit.transport as t; print(t.connect(sys.argv[1]).run(['echo', 'hello']).text)"
        done = subprocess.run(
            [
                "nsenter",
                f"--net=/proc/{board.process.pid}/ns/net",
                sys.executable,
                "-c",
                code,
                f"[fe80::1%lo]:{board.port}",
            ],
            env={**os.environ, "EDGEKIT_SSH_CONFIG": str(config)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.stdout == "hello\n\n", done.stderr


NOISE = {
    "bash": (".bashrc", "echo 'Welcome, 100 % board!'; printf 'no line end' ; echo careful >&2; set -v\n"),
    "fish": (".config/fish/config.fish", "echo Welcome; printf 'no line end'; echo careful >&2\n"),
    "tcsh": (".tcshrc", 'echo Welcome\necho -n "no line end"\nsh -c "echo careful >&2"\nset history = 100\n'),
    "zsh": (".zshenv", "echo Welcome; printf 'no line end'; echo careful >&2\n"),
}


@root_only
@pytest.mark.parametrize("shell", NOISE)
def test_whatever_the_login_shell_and_its_start_up_files_say_the_answer_is_the_commands(
    tmp_path: Path, shell: str
) -> None:
    file, talk = NOISE[shell]
    write(tmp_path / "home" / file, talk)
    options = [
        "Subsystem sftp /usr/lib/openssh/sftp-server",
        f"Banner {write(tmp_path / 'banner', 'Keep out!' + chr(27) + chr(10))}",
    ]
    wrapper = Account(tmp_path / "etc").wrapper("root", f"/bin/{shell}", str(tmp_path / "home"))
    with (
        start_sshd(tmp_path, options=options, wrapper=wrapper, sftp=False) as board,
        connect("board", config=board.ssh_config) as link,
    ):
        heard: list[str] = []
        done = link.run(
            ["sh", "-c", 'cat; echo "$1" >&2; exit 3', "sh", "a\\'b!\n"], stdin=b"in", on_stderr=heard.append
        )
        assert (done.status, done.stdout, done.stderr) == (3, b"in", b"a\\'b!\n\n")
        assert heard == ["a\\'b!", ""]
        target = RemotePath(f"{tmp_path}/it's a file!")
        with (tmp_path / "source").open("w+b") as source:
            source.write(bytes(range(256)) * 1000)
            link.put(source, target, size=256_000)
        assert link.get(target, limit=1 << 20) == bytes(range(256)) * 1000
        assert link.sending == "cat"
        assert link.noise.startswith("Welcome")
        server = link.server()
        assert server is not None
        assert (server.sftp, server.noise) == (False, link.noise)


@root_only
def test_a_login_shell_that_runs_nothing_is_told_with_its_words(tmp_path: Path) -> None:
    wrapper = Account(tmp_path / "etc").wrapper("root", "/usr/sbin/nologin", "/")
    with (
        start_sshd(tmp_path, wrapper=wrapper) as board,
        connect("board", config=board.ssh_config) as link,
        pytest.raises(CommandNotRun, match="This account is currently not available"),
    ):
        link.run(["echo", "hello"])


@root_only
def test_a_slow_login_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path / "home" / ".bashrc", "sleep 3; echo at last\n")
    wrapper = Account(tmp_path / "etc").wrapper("root", "/bin/bash", str(tmp_path / "home"))
    with (
        start_sshd(tmp_path, wrapper=wrapper) as board,
        connect("board", config=board.ssh_config, timeouts=Timeouts(2, 2, 2)) as link,
    ):
        assert link.run(["echo", "hello"]).text == "hello\n"
