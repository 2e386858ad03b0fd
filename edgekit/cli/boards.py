"""Commands about one board: trust it, push to it, switch releases, look at it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from edgekit_runtime import schema

from edgekit import board, transport
from edgekit.bundles import bundle
from edgekit.cli import options, show
from edgekit.cli.help import Command
from edgekit.errors import UserError

ReleaseId = Annotated[
    str | None,
    typer.Argument(metavar="RELEASE", help="A release's id or its first digits; default: the newest staged."),
]


def add_to(root: typer.Typer) -> None:
    for command in (trust, push, activate, status, rollback, embedded):
        root.command(cls=Command, rich_help_panel="Boards")(command)


def asker() -> Callable[[str], str] | None:
    """Asks for a secret, one at a time: typed without echo, else through `$SSH_ASKPASS`; None where nobody can be."""
    program = None if sys.stdin.isatty() else _askpass()
    if program is None and not sys.stdin.isatty():
        return None
    one = threading.Lock()

    def ask(prompt: str) -> str:
        with one:
            if program is None:
                return str(typer.prompt(prompt.rstrip(": "), hide_input=True, err=True))
            try:
                done = subprocess.run([program, prompt], stdout=subprocess.PIPE, check=False)
            except OSError as error:
                raise UserError(f"SSH_ASKPASS: {program} cannot be started: {error.strerror}", path=program) from error
            return "" if done.returncode else done.stdout.decode("utf-8", "replace").rstrip("\r\n")

    return ask


def _askpass() -> str | None:
    """As ssh(1) has it: where a display is, or SSH_ASKPASS_REQUIRE wants it."""
    wish = os.environ.get("SSH_ASKPASS_REQUIRE", "")
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    wanted = wish in ("force", "prefer") or (display and wish != "never")
    return os.environ.get("SSH_ASKPASS") if wanted else None


@contextmanager
def opened(name: str, config: Path | None, ask: Callable[[str], str] | None = None) -> Iterator[board.Board]:
    """The board, connected and ready for commands."""
    with transport.connect(name, ask=ask or asker(), config=config) as link:
        yield board.open_board(link)


def trust(
    name: options.BoardName,
    fingerprint: Annotated[
        str | None,
        typer.Option(
            "--fingerprint", metavar="SHA256:...", help="Trust without asking if the board shows just this fingerprint."
        ),
    ] = None,
    reflashed: Annotated[
        bool,
        typer.Option("--reflashed", help="The board was set up anew: put its key in the place of the old one."),
    ] = False,
    install_key: Annotated[
        bool, typer.Option("--install-key", help="Also put your public key on the board, with its password.")
    ] = False,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Show a board's host key and, if you say so, trust it from now on."""
    key = transport.host_key(name, ask=asker(), config=ssh_config)
    if key.known == "revoked" or (key.known == "changed" and not reflashed):
        key.require_trust()
    if fingerprint is not None and key.fingerprint != fingerprint:
        raise UserError(
            f"{name} shows {key.fingerprint}, not {fingerprint}",
            hint="do not trust it before you know why",
            shown=key.fingerprint,
            expected=fingerprint,
        )
    names = transport.recorded(key) if key.known == "changed" else ()
    if key.known != "known":
        _show_key(name, key, names)
        if fingerprint is None:
            _confirm(name, key)
        where = transport.remember(key, replace=key.known == "changed")
        show.say(f"{name}: trusted {key.type} {key.fingerprint} ({where})")
        for file in key.files:
            if file != str(where):
                line = shlex.join(["ssh-keygen", "-R", key.name, "-f", file])
                show.say(line, label="ssh still knows the old key; edgekit leaves its file to you:")
    else:
        show.say(f"{name}: {key.type} {key.fingerprint} is trusted already")
    if install_key:
        ask = asker()
        if ask is None:
            raise UserError(
                "--install-key needs the board's password, and nobody can be asked here", hint="run it in a terminal"
            )
        installed = transport.install_key(name, ask=ask, config=ssh_config)
        show.say(f"{name}: {installed} is on the board")
    if json:
        replaced = {"replaced": key.trusted, "names": names} if key.known == "changed" else {}
        show.data({"board": name, "type": key.type, "fingerprint": key.fingerprint, "was": key.known} | replaced)
        return
    show.next_step("edgekit", "deploy", "MODEL", name, "-p", "PROFILE", "-c", "DATA")


def _show_key(name: str, key: transport.HostKey, names: Sequence[str]) -> None:
    show.say(f"{name} shows the host key {key.type} {key.fingerprint}", style="bold")
    if key.known == "changed":
        show.say(", ".join(key.trusted), label="another key was trusted before:", style="bold red")
        if names:
            show.say(f"edgekit knows it as {', '.join(names)}; each will have the new key")


def _confirm(name: str, key: transport.HostKey) -> None:
    show.say("Compare it with what the board itself prints: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")
    again = "--reflashed " if key.known == "changed" else ""
    try:
        agreed = typer.confirm("Trust it?", err=True)
    except typer.Abort as error:
        raise UserError(
            "not trusted: nobody answered",
            hint=f"after comparing: edgekit trust {again}{name} --fingerprint {key.fingerprint}",
            fingerprint=key.fingerprint,
        ) from error
    if not agreed:
        raise UserError("not trusted", hint="nothing was changed", fingerprint=key.fingerprint)


def push(
    file: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The .ekb file.")],
    name: options.BoardName,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Send what the board lacks of a bundle and stage it there; the current release stays as it is."""
    made = bundle.open_bundle(file)
    with opened(name, ssh_config) as target, show.progress() as update:
        sent = board.push(target, made, progress=lambda done, total: update("push", done, total))
        planned = None if target.transport.runs else board.first_boot(target)
    if json:
        show.data(sent)
        return
    show_push(name, sent)
    if planned is not None:
        show.say(f"it is in {planned.root}, which belongs to {planned.user} (uid {planned.uid})")
    show.next_step("edgekit", "activate", name, show.short(sent.release_id))


def activate(
    name: options.BoardName,
    release: ReleaseId = None,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Check a staged release on the board and, if it passes, make it the current one.

    On a mounted root file system (dir:FOLDER) nothing can be checked: there its next boot does it.
    """
    with opened(name, ssh_config) as target:
        found = board.activate(target, release, on_stderr=pass_on)
        planned = None if target.transport.runs else board.first_boot(target)
    if _show_found(name, found, planned, json=json):
        show.next_step("edgekit", "bench", name)


def status(
    name: options.BoardName,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Show the releases on a board and which one is current."""
    with opened(name, ssh_config) as target:
        found = board.status(target)
        planned = None if target.transport.runs else board.first_boot(target)
    if not _show_found(name, found, planned, json=json):
        return
    if found.current is not None:
        show.next_step("edgekit", "bench", name)
    elif found.staged is not None:
        show.next_step("edgekit", "activate", name)
    else:
        show.next_step("edgekit", "push", "BUNDLE", name)


def rollback(
    name: options.BoardName,
    ssh_config: options.SshConfig = None,
    json: show.Json = False,
) -> None:
    """Take back what the next boot would activate; if nothing waits for it, make the previous release current again."""
    with opened(name, ssh_config) as target:
        pending = board.status(target).pending
        found = board.rollback(target)
        planned = None if target.transport.runs else board.first_boot(target)
    if pending is not None and not json:
        kept = f"{show.short(found.current.id)} stays current" if found.current else "none is current"
        show.say(f"{show.short(pending.id)} ({pending.name}) is taken back: the next boot leaves it alone; {kept}")
    if _show_found(name, found, planned, json=json) and found.current is not None:
        show.next_step("edgekit", "bench", name)


def _show_found(name: str, found: board.Status, planned: board.FirstBoot | None, *, json: bool) -> bool:
    """Show the state; whether the next step is still to be told."""
    if json:
        plain = schema.plain(found)
        show.data(plain if planned is None else {**plain, "first_boot": schema.plain(planned)})
        return False
    show_status(name, found)
    if planned is None:
        return True
    if found.state == "STAGED" and found.pending is None:
        show.next_step("edgekit", "activate", name)
    else:
        show_first_boot(name, found, planned)
    return False


def embedded() -> None:
    """Run the embedded board in the foreground, for ssh, sftp and scp too; prints an ssh config for it.

    The other commands start it by themselves when BOARD is 'embedded'.
    """
    from edgekit.embedded import serve, wait_for_signal
    from edgekit.transport.config import own_known_hosts

    with serve() as running:
        show.say(f"the embedded board answers on 127.0.0.1:{running.port}; Ctrl-C ends it")
        print(running.ssh_config(), f'  UserKnownHostsFile "{own_known_hosts()}"\n', sep="", end="", flush=True)
        wait_for_signal()


def pass_on(line: str) -> None:
    """What the check says while it runs; how it ended is told by the result or the error."""
    if not line.startswith(("edgekit-board: ", "INFO: ")):
        show.say(line, style="dim")


def show_push(name: str, sent: board.PushResult) -> None:
    """What went over the link."""
    show.line(
        f"{name}: release {show.short(sent.release_id)} ({sent.name}) is staged: sent {show.size(sent.sent_bytes)} in "
        f"{sent.sent_files} files, {show.size(sent.reused_bytes)} in {sent.reused_files} files were there "
        f"({sent.seconds:.1f} s)"
    )
    show_sending(name, sent)
    if sent.spare_bytes:
        show.say(
            f"{show.size(sent.spare_bytes)} of that are a NumPy, and {name} has one that fits: "
            'a bundle with numpy = "board" in the profile leaves it out, and so does deploy with "auto"'
        )


def show_sending(name: str, sent: board.PushResult) -> None:
    """How files travelled, where that is worth a word."""
    if sent.noise:
        show_noise(name, sent.noise)
    elif sent.sending == "cat":
        show.say(f"{name} has no SFTP, so files went through its cat; they are hashed on the board all the same")


def show_noise(name: str, noise: str) -> None:
    """Why the board's SFTP cannot be used, and what helps."""
    show.say(
        f'{name}: a start-up file of its login shell (such as ~/.bashrc) prints "{noise}", which spoils SFTP, so files '
        "go through its cat; it must print nothing where the shell is not interactive"
    )


def show_status(name: str, found: board.Status) -> None:
    """The releases and what they are: current, previous, staged."""
    roles = {
        release.id: role
        for role, release in (
            ("staged", found.staged),
            ("previous", found.previous),
            ("trial", found.trial),
            ("pending", found.pending),
            ("current", found.current),
        )
        if release is not None
    }
    order = ("current", "trial", "pending", "previous", "staged", "kept")
    rows = [(show.short(release.id), release.name, roles.get(release.id, "kept")) for release in found.releases]
    rows.sort(key=lambda row: order.index(row[2]))
    if rows:
        show.table(f"{name}: {found.state}", ["release", "name", ""], rows)
    else:
        show.line(f"{name}: {found.state}, no release is there")
    show.line(f"store {show.size(found.store_kb * 1024)}, free {show.size(found.free_kb * 1024)}")
    if found.locked:
        show.say(f"at work now: {found.locked}")


def show_first_boot(name: str, found: board.Status, planned: board.FirstBoot) -> None:
    """What the next boot will do, and how to take the card out."""
    if found.pending is not None:
        by = planned.unit or "the system"
        show.say(
            f"{name}: the next boot checks {show.short(found.pending.id)} and, if it passes, makes it current "
            f"({by}, as {planned.user}); until then the board keeps what it has"
        )
        if planned.unit is None:
            show.say(
                f"{name} has no systemd, so nothing does that yet: at each boot run, as {planned.user}: "
                f"{planned.command}",
                label="warning:",
                style="yellow",
            )
    if os.path.ismount(planned.folder):
        show.next_step("umount", planned.folder)
    else:
        show.next_step("edgekit", "status", f"dir:{planned.folder}")
