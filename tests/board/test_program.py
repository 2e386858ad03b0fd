"""edgekit-board: what each command does, under dash, BusyBox (with its own tools only) and bash."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from edgekit.bundles.bundle import Bundle
from tests import releases
from tests.board.conftest import PROGRAM, Program


def test_a_board_without_anything_says_so_and_stays_untouched(program: Program) -> None:
    values = program.ok("status")
    assert (values["state"], values["current"], values["staged"]) == ("IDLE", "- -", "- -")
    assert program.ok("facts")["writable"] == "yes"
    assert not program.root.exists()


def test_the_way_of_two_releases(program: Program, one: Bundle, two: Bundle) -> None:
    program.receive(one)
    assert program.ok("status")["state"] == "RECEIVING"
    assert program.ok("stage", one.release.id)["state"] == "STAGED"
    values = program.ok("activate", one.release.id)
    assert (values["state"], values["current"]) == ("COMMITTED", f"{one.release.id} trees")

    program.stage(two)
    assert program.current == one.release.id
    values = program.ok("activate")
    assert values["current"].split()[0] == two.release.id
    assert values["previous"].split()[0] == one.release.id
    assert values["staged"] == "- -"

    values = program.ok("rollback")
    assert (values["state"], values["current"]) == ("ROLLED_BACK", f"{one.release.id} trees")
    steps = [line.split("\t")[4:7] for line in (program.root / "journal").read_text().splitlines()]
    assert steps == [
        ["IDLE", "RECEIVING", one.release.id],
        ["RECEIVING", "STAGED", one.release.id],
        ["STAGED", "CANARY", one.release.id],
        ["CANARY", "TRIAL", one.release.id],
        ["TRIAL", "COMMITTED", one.release.id],
        ["COMMITTED", "RECEIVING", two.release.id],
        ["RECEIVING", "STAGED", two.release.id],
        ["STAGED", "CANARY", two.release.id],
        ["CANARY", "TRIAL", two.release.id],
        ["TRIAL", "COMMITTED", two.release.id],
        ["COMMITTED", "ROLLED_BACK", one.release.id],
    ]


def test_every_command_may_be_repeated(program: Program, one: Bundle, two: Bundle) -> None:
    text = one.release.text.encode()
    program.activate(one)
    for command in (("stage", one.release.id), ("activate", one.release.id), ("init",), ("gc",), ("boot",)):
        before = (program.root / "state").read_text()
        program.ok(*command)
        program.ok(*command)
        assert (program.root / "state").read_text() == before, command
    assert program.ok("missing", stdin=text)["need"] == "0"
    program.activate(two)
    for _ in range(3):  # naming where from, it cannot swap back
        program.ok("rollback", two.release.id)
        assert program.current == one.release.id
    program.ok("rollback")
    assert program.current == two.release.id


def test_a_release_is_hard_links_into_the_store(program: Program, one: Bundle) -> None:
    program.stage(one)
    folder = program.root / "releases" / one.release.id
    assert (folder / "RELEASE").read_bytes() == one.release.text.encode()
    for member in one.release.members:
        assert (folder / member.name).samefile(program.root / "store" / member.sha256)
        assert (folder / member.name).stat().st_size == member.size
    assert not list((program.root / "incoming").iterdir())
    assert sorted(path.name for path in (program.root / "releases").iterdir()) == [one.release.id]
    everything = [path for path in program.root.rglob("*") if not path.is_symlink()]
    assert not [path for path in everything if path.stat().st_mode & 0o022], "others may write"


def test_what_is_there_is_not_asked_for_again(program: Program, one: Bundle, two: Bundle) -> None:
    program.stage(one)
    answer = program("missing", stdin=two.release.text.encode())
    missing = {value.split()[0] for key, value in answer.lines if key == "missing"}
    assert missing == set(two.sizes) - set(one.sizes)


def test_a_part_is_offered_with_its_size_and_hash(program: Program, one: Bundle) -> None:
    program.ok("init")
    model = one.release.member("model.tflite")
    with one.open_member(model.sha256) as source:
        content = source.read()
    part = program.root / "incoming" / model.sha256

    def offered() -> str | None:
        answer = program("missing", stdin=one.release.text.encode())
        found = [value for key, value in answer.lines if key == "missing" and value.startswith(model.sha256)]
        return " ".join(found[0].split()[2:]) if found else None

    assert offered() == "0 -"
    part.write_bytes(content[:100])
    prefix = subprocess.run(["sha256sum"], input=content[:100], capture_output=True, check=True).stdout[:64].decode()
    assert offered() == f"100 {prefix}"
    part.write_bytes(content)
    assert offered() is None
    part.write_bytes(content[:-1] + b"x")
    assert offered() == "0 -"
    part.write_bytes(content + b"x")
    assert offered() == "0 -"


def test_an_altered_upload_is_refused_and_removed(program: Program, one: Bundle) -> None:
    program.receive(one)
    model = one.release.member("model.tflite").sha256
    part = program.root / "incoming" / model
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    answer = program("stage", one.release.id)
    assert (answer.status, answer.code) == (1, "hash-mismatch")
    assert not part.exists()
    assert not (program.root / "releases" / one.release.id).exists()
    program.stage(one)


def test_what_another_push_of_it_sent_again_does_not_stay(program: Program, one: Bundle, two: Bundle) -> None:
    program.stage(one)
    program.receive(two)
    incoming = program.root / "incoming"
    late = incoming / one.release.member("model.tflite").sha256
    late.write_bytes(b"the first bytes of it")
    program.ok("stage", one.release.id)
    assert not late.exists()
    on_its_way = {file.name for file in incoming.iterdir()} - {f"{two.release.id}.release"}
    assert on_its_way == set(two.sizes) - set(one.sizes)


def test_an_unfinished_upload_is_not_staged(program: Program, one: Bundle) -> None:
    program.receive(one)
    (program.root / "incoming" / one.release.member("model.tflite").sha256).unlink()
    answer = program("stage", one.release.id)
    assert (answer.status, answer.code) == (2, "incomplete")
    assert program("stage", "0" * 64).code == "unknown-release"


def test_a_link_that_a_cut_left_behind_is_in_nobodys_way(program: Program, one: Bundle, two: Bundle) -> None:
    program.activate(one)
    content = program.root / "store" / one.release.member("model.tflite").sha256
    os.link(content, program.root / "releases" / "link.tmp")
    before = content.read_bytes()
    program.activate(two)
    assert program.current == two.release.id
    assert content.read_bytes() == before


def test_a_lock_that_is_no_folder_is_told(program: Program, one: Bundle) -> None:
    program.activate(one)
    (program.root / "lock").touch()
    answer = program("gc")
    assert (answer.status, answer.code) == (3, "io")
    assert program.current == one.release.id


def test_a_damaged_store_is_noticed_and_mended_by_another_push(program: Program, one: Bundle, two: Bundle) -> None:
    program.activate(one)
    program.activate(two)
    member = one.release.member("runtime/edgekit_runtime/engine.py")
    content = program.root / "store" / member.sha256
    content.chmod(0o600)
    with content.open("r+b") as file:
        file.write(b"#")
    for command in (("activate", two.release.id), ("rollback",)):
        answer = program(*command)
        assert (answer.status, answer.code) == (1, "damaged")
        assert "engine.py" in answer.stderr
        assert program.current == two.release.id
    for bundle in (one, two):
        program.stage(bundle)
    program.ok("activate", two.release.id)
    program.ok("rollback")
    for bundle in (one, two):
        folder = program.root / "releases" / bundle.release.id
        assert (folder / member.name).samefile(content)


def test_a_release_that_fails_its_check_changes_nothing(program: Program, one: Bundle, rejected: Bundle) -> None:
    program.activate(one)
    program.stage(rejected)
    answer = program("activate", rejected.release.id)
    assert (answer.status, answer.code) == (1, "check-failed")
    assert "edgekit-runtime: " in answer.stderr
    assert not answer.stdout
    values = program.ok("status")
    assert (values["state"], values["current"]) == ("ROLLED_BACK", f"{one.release.id} trees")
    assert program("check", rejected.release.id).status == 1
    assert program.ok("check", one.release.id)["result"] == "ok"
    assert program.current == one.release.id


def test_activation_needs_a_staged_release(program: Program, one: Bundle, two: Bundle) -> None:
    assert program("activate").code == "unknown-release"
    program.activate(one)
    assert program("activate").code == "unknown-release"
    for wrong in (two.release.id, two.release.id[:12]):
        answer = program("activate", wrong)
        assert (answer.status, answer.code) == (2, "unknown-release")
    for wrong in ("..", "*", "abc", "/etc", "-", "g" * 64, one.release.id + "/"):
        answer = program("activate", wrong)
        assert (answer.status, answer.code) == (2, "usage"), wrong
    program.ok("activate", one.release.id[:12])


def test_a_release_can_be_left_to_the_next_boot(program: Program, one: Bundle, two: Bundle, tmp_path: Path) -> None:
    program.activate(one)
    values = program.ok("defer", program.stage(two)[:12])
    pending = f"{two.release.id} trees"
    assert (values["state"], values["pending"], values["current"]) == ("STAGED", pending, f"{one.release.id} trees")
    program.stage(releases.make(tmp_path, "three"))
    program.ok("gc")
    assert program.ok("status")["pending"] == pending

    values = program.ok("boot")
    assert (values["state"], values["current"], values["pending"]) == ("COMMITTED", pending, "- -")
    assert values["previous"] == f"{one.release.id} trees"
    steps = [line.split("\t")[5] for line in (program.root / "journal").read_text().splitlines()]
    assert steps[-3:] == ["CANARY", "TRIAL", "COMMITTED"]
    before = (program.root / "state").read_text()
    assert "pending" not in before
    program.ok("boot")
    assert (program.root / "state").read_text() == before


@pytest.mark.parametrize("order", ["rollback", "activate", "defer"])
def test_another_order_takes_the_place_of_what_was_left_to_the_boot(
    dash: Program, one: Bundle, two: Bundle, tmp_path: Path, order: str
) -> None:
    dash.activate(one)
    dash.activate(two)
    dash.ok("defer", dash.stage(releases.make(tmp_path, "three")))
    words = {"rollback": ("rollback",), "activate": ("activate", one.release.id), "defer": ("defer", two.release.id)}
    values = dash.ok(*words[order])
    assert values["pending"] == "- -"
    dash.ok("boot")
    assert dash.current == (one if order == "activate" else two).release.id


def test_a_rollback_takes_back_what_is_pending_before_what_is_current(
    program: Program, one: Bundle, two: Bundle
) -> None:
    program.ok("defer", program.stage(one))  # a new card: nothing is current
    for words in (("rollback",), ("rollback", one.release.id)):
        values = program.ok(*words)
        assert (values["state"], values["pending"], values["current"]) == ("ROLLED_BACK", "- -", "- -")
        assert values["staged"].split()[0] == one.release.id
    assert program("rollback").code == "no-previous"
    program.activate(one)
    program.ok("defer", program.stage(two))
    for _ in range(2):
        values = program.ok("rollback", two.release.id)
        assert (values["pending"], values["current"].split()[0]) == ("- -", one.release.id)
    program.ok("boot")
    assert program.current == one.release.id
    assert program("rollback", "0" * 64).code == "not-current"


def test_a_release_that_refuses_itself_at_boot_is_not_tried_again(
    program: Program, one: Bundle, rejected: Bundle
) -> None:
    program.activate(one)
    program.ok("defer", program.stage(rejected))
    answer = program("boot")
    assert (answer.status, answer.code) == (1, "check-failed")
    values = program.ok("status")
    assert (values["state"], values["current"].split()[0]) == ("ROLLED_BACK", one.release.id)
    assert (values["pending"], values["starts"]) == ("- -", "0")
    program.ok("boot")
    assert program.current == one.release.id


def test_a_boot_that_always_ends_in_the_check_is_made_three_times(dash: Program, one: Bundle, tmp_path: Path) -> None:
    dash.activate(one)
    killer = {"runtime/edgekit_runtime/__main__.py": b"import os\nos.kill(os.getpid(), 9)\n"}
    dash.ok("defer", dash.stage(releases.make(tmp_path, "killer", extra=killer)))
    answers = [dash("boot") for _ in range(4)]
    assert [answer.status for answer in answers] == [1, 1, 1, 0]
    values = dash.ok("status")
    assert (values["state"], values["pending"], values["current"].split()[0]) == ("ROLLED_BACK", "- -", one.release.id)


def test_a_power_that_fails_in_each_check_does_not_fail_for_ever(dash: Program, one: Bundle, two: Bundle) -> None:
    dash.activate(one)
    dash.ok("defer", dash.stage(two))
    for number in (1, 2, 3):  # what the state is when the power goes in mid-check
        state = (dash.root / "state").read_text()
        cut = state.replace("state STAGED", "state CANARY").replace("state ROLLED_BACK", "state CANARY")
        cut = cut.replace("trial -", f"trial {two.release.id}").replace(f"starts {number - 1}", f"starts {number}")
        assert cut != state
        (dash.root / "state").write_text(cut)
        dash.ok("init")  # the lock's holder is gone
        assert dash.ok("status")["pending"].split()[0] == two.release.id
    answer = dash("boot")
    assert (answer.status, answer.code) == (1, "check-failed")
    assert "3 starts" in answer.stderr
    assert dash.ok("boot")["pending"] == "- -"
    assert dash.current == one.release.id


def test_rollback_needs_a_previous_release_and_no_python(
    program: Program, one: Bundle, two: Bundle, tmp_path: Path
) -> None:
    assert program("rollback").code == "no-previous"
    program.activate(one)
    answer = program("rollback")
    assert (answer.status, answer.code) == (1, "no-previous")
    program.activate(two)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "python3").write_text("#!/bin/sh\nexit 9\n")
    (broken / "python3").chmod(0o755)
    program.ok("rollback", PATH=f"{broken}:{program.path}")
    assert program.current == one.release.id
    assert program("rollback", "0" * 64).code == "not-current"


def test_a_board_without_python_keeps_what_it_has(program: Program, one: Bundle, tmp_path: Path) -> None:
    program.stage(one)
    tools = program.path.split(":")[1:]
    bare = tmp_path / "bare"
    bare.mkdir()
    for folder in reversed(tools):
        for tool in Path(folder).glob("*") if Path(folder).is_dir() else ():
            if not tool.name.startswith("python") and not (bare / tool.name).exists():
                (bare / tool.name).symlink_to(tool.resolve())
    answer = program("activate", one.release.id, PATH=str(bare))
    assert (answer.status, answer.code) == (3, "no-python")
    assert program.current == "-"
    facts = program.ok("facts", PATH=str(bare))
    assert (facts["python"], facts["numpy"]) == ("-", "-")

    old = tmp_path / "old"
    old.mkdir()
    pretend = "import sys; sys.version_info = (3, 5, 3)\nexec(sys.argv[1])"
    python = f"{program.path.split(':')[0]}/python3"
    (old / "python3").write_text(f'#!/bin/sh\nexec "{python}" -c "{pretend}" "$3"\n')
    (old / "python3").chmod(0o755)
    answer = program("activate", one.release.id, PATH=f"{old}:{bare}")
    assert (answer.status, answer.code) == (1, "check-failed")
    assert "Python 3.7 or newer" in answer.stderr


def test_exec_runs_the_release_s_own_runtime(program: Program, one: Bundle, tmp_path: Path) -> None:
    assert program("exec", "--", "info").code == "no-release"
    program.stage(one)
    (tmp_path / "edgekit_runtime.py").write_text("raise SystemExit('the folder one happens to be in')\n")
    argv = program.command("exec", one.release.id[:8], "--", "info", "--json")
    done = subprocess.run(argv, capture_output=True, env=program.environment, cwd=tmp_path, check=True)
    assert json.loads(done.stdout)["release"]["name"] == "trees"
    program.ok("activate")
    assert "\nrelease.name trees" in program("exec", "--", "info").stdout
    for words, code in ((("exec", "info"), "usage"), (("exec", "--", "--no-such"), "")):
        answer = program(*words)
        assert (answer.status, answer.code) == (2, code)


def test_gc_keeps_what_can_still_be_wanted(program: Program, one: Bundle, two: Bundle, tmp_path: Path) -> None:
    more = [releases.make(tmp_path, f"more{number}") for number in range(3)]
    program.activate(one)
    program.activate(two)
    for bundle in more:
        program.stage(bundle)
    incoming = program.root / "incoming"
    (incoming / ("0" * 64)).write_bytes(b"forsaken")
    (incoming / "a strange name; $(reboot)").write_bytes(b"")
    program.ok("gc")
    kept = {one.release.id, two.release.id, more[-1].release.id}
    assert {path.name for path in (program.root / "releases").iterdir()} == kept
    wanted = set(one.sizes) | set(two.sizes) | set(more[-1].sizes)
    assert {path.name for path in (program.root / "store").iterdir()} == wanted
    assert not list(incoming.iterdir())
    for word in kept:
        program.ok("check", word)


@pytest.mark.parametrize(
    "state",
    ["", "edgekit-state 2\n", "garbage\n" * 9, "\0\0\0", "state"],
    ids=["empty", "newer", "garbage", "zeros", "doubled"],
)
def test_a_state_that_cannot_be_understood_is_not_guessed(program: Program, one: Bundle, state: str) -> None:
    program.activate(one)
    file = program.root / "state"
    if state == "state":
        state = file.read_text() + "current -\n"
    file.write_text(state)
    for command in (("status",), ("rollback",), ("activate", one.release.id), ("exec", "--", "info")):
        answer = program(*command)
        assert (answer.status, answer.code) == (3, "damaged-state")
    assert file.read_text() == state


def test_a_journal_line_cut_short_spoils_no_other(program: Program, one: Bundle) -> None:
    program.ok("init")
    (program.root / "journal").write_text("2026-01-01\tcut sh")
    program.stage(one)
    lines = (program.root / "journal").read_text().splitlines()
    assert lines[0] == "2026-01-01\tcut sh"
    assert all(len(line.split("\t")) == 8 for line in lines[1:])


@pytest.mark.parametrize("state", ["CANARY", "TRIAL"])
def test_an_activation_that_was_cut_is_taken_back(program: Program, one: Bundle, two: Bundle, state: str) -> None:
    program.activate(one)
    program.stage(two)
    file = program.root / "state"
    text = file.read_text().replace("state STAGED", f"state {state}").replace("trial -", f"trial {two.release.id}")
    file.write_text(text)
    values = program.ok("boot")
    assert (values["state"], values["trial"]) == ("ROLLED_BACK", "- -")
    assert values["current"].split()[0] == one.release.id
    program.ok("activate", two.release.id)


def hold(program: Program, pid: int, started: str, boot: str) -> Path:
    folder = program.root / "lock"
    folder.mkdir(parents=True)
    (folder / "holder").write_text(f"holder ann@desk\npid {pid}\nstarted {started}\nboot {boot}\nuptime 1\n")
    return folder


def started_at(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_living_holder_is_named_and_waited_for(program: Program) -> None:
    lock = hold(program, os.getpid(), started_at(os.getpid()), BOOT)
    answer = program("init", EDGEKIT_LOCK_WAIT="1")
    assert (answer.status, answer.code) == (3, "locked")
    assert answer.values["holder"] == "ann@desk"
    assert answer.values["pid"] == str(os.getpid())
    assert int(answer.values["seconds"]) > 1
    assert program.ok("status")["locked"].startswith("ann@desk")
    assert lock.is_dir()


@pytest.mark.parametrize("gone", ["process", "pid taken by another", "boot", "no holder"])
def test_the_lock_of_one_who_is_gone_is_taken(program: Program, gone: str) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    if gone == "no holder":
        (program.root / "lock").mkdir(parents=True)
    elif gone == "process":
        hold(program, ended.pid, "1", BOOT)
    elif gone == "boot":
        hold(program, os.getpid(), started_at(os.getpid()), "another-boot")
    else:
        hold(program, os.getpid(), "1", BOOT)
    program.ok("init")
    assert not (program.root / "lock").exists()


def test_a_zombie_holds_nothing(program: Program) -> None:
    with subprocess.Popen(["true"]) as child:
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(") ")[2][0] != "Z":
            time.sleep(0.01)
        hold(program, child.pid, started_at(child.pid), BOOT)
        program.ok("init")


def test_two_at_once_take_turns(program: Program, one: Bundle, two: Bundle) -> None:
    ids = [program.stage(one), program.stage(two)]
    for _ in range(2):
        running = [
            subprocess.Popen(
                program.command("activate", word),
                env={**program.environment, "EDGEKIT_LOCK_WAIT": "60"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for word in ids
        ]
        for process in running:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
        values = program.ok("status")
        assert {values["current"].split()[0], values["previous"].split()[0]} == set(ids)
        assert values["state"] == "COMMITTED"


@pytest.mark.parametrize("taken", ["gone", "another's"])
def test_a_lock_that_another_took_for_abandoned_is_asked_for_again(dash: Program, tmp_path: Path, taken: str) -> None:
    shim = tmp_path / "shim" / "mkdir"
    shim.parent.mkdir()
    lose = f'rmdir "{dash.root}/lock"' if taken == "gone" else f'ln -s /dev/null "{dash.root}/lock/holder"'
    shim.write_text(
        f'#!/bin/sh\n/bin/mkdir "$@" || exit\n[ "$*" != "{dash.root}/lock" ] || [ -e "{shim}.once" ] || '
        f'{{ : >"{shim}.once"; {lose}; }}\n'
    )
    shim.chmod(0o755)
    Program(dash.argv, dash.root, f"{shim.parent}:{dash.path}").ok("init")
    assert Path(f"{shim}.once").exists()
    assert not (dash.root / "lock").exists()


def test_many_who_break_one_stale_lock_still_take_turns(program: Program, one: Bundle) -> None:
    program.stage(one)
    hold(program, os.getpid(), "1", BOOT)
    running = [
        subprocess.Popen(
            program.command("stage", one.release.id),
            env={**program.environment, "EDGEKIT_LOCK_WAIT": "60"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for _ in range(6)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert not (program.root / "lock").exists()
    assert not (program.root / "lock.break").exists()


@pytest.mark.parametrize("tool", ["busybox", "openssl"])
def test_other_tools_can_hash(dash: Program, one: Bundle, two: Bundle, tmp_path: Path, tool: str) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for folder in reversed(dash.path.split(":")):
        for found in Path(folder).glob("*") if Path(folder).is_dir() else ():
            if found.name not in ("sha256sum", "busybox", "openssl") or found.name == tool:
                (bare / found.name).unlink(missing_ok=True)
                (bare / found.name).symlink_to(found if found.name == "python3" else found.resolve())
    if not (bare / tool).exists():
        pytest.skip(f"{tool} is not installed")
    program = Program(dash.argv, dash.root, str(bare))
    assert program.ok("probe")["hash_tool"] == tool
    program.activate(one)
    program.activate(two)
    program.ok("rollback")
    (bare / tool).unlink()
    assert program.ok("facts")["hash_tool"] == "-"
    answer = program("status")
    assert (answer.status, answer.code) == (3, "no-sha256")


def test_wrong_use_is_refused(program: Program) -> None:
    for words in (
        (),
        ("reboot",),
        ("stage",),
        ("stage", "x"),
        ("stage", "0" * 64, "1"),
        ("gc", "--all"),
        ("install", "x"),
    ):
        answer = program(*words)
        assert (answer.status, answer.code) == (2, "usage"), words
    for root in ("relative", "/", "/a\nb"):
        assert program("status", EDGEKIT_ROOT=root).code == "usage"
    assert not program.root.exists()


@pytest.mark.parametrize("holder", ["ann\npid 1", "ann\tbob", "x" * 101, "\033[2J"])
def test_the_holder_s_name_cannot_forge_lines(program: Program, one: Bundle, holder: str) -> None:
    program.ok("missing", stdin=one.release.text.encode(), EDGEKIT_HOLDER=holder)
    (line,) = (program.root / "journal").read_text().splitlines()
    assert line.split("\t")[3] == "unnamed"


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(["shellcheck", "-s", "sh", str(PROGRAM)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
