"""rehearse: the check that a board makes of a release, by the profile's interpreter, with XNNPACK and without, here.

Each runs in a process of its own with a time limit: a model file can crash its interpreter. An interpreter that is not
the one of this installation comes from the cache, as for a board, and runs in nothing but its own tree.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit_runtime import manifest as manifests
from edgekit_runtime.manifest import ANCHORS, GOLDEN, LABELS, MANIFEST, MODEL

from edgekit.conversion import record
from edgekit.conversion.record import Conversion
from edgekit.conversion.rehearsal import DIFFERS, NOT_RUN, PASSED, Rehearsal
from edgekit.errors import CheckFailed, UserError
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import here, resolve
from edgekit.worker import Progress

BATCH = 4  # that is proven; what a board uses is in its plan
LIMIT_S = 600.0
LOAD_LIMIT_S = 120.0
# The runtime's error -> the verdict, and what helps where the error has no hint of its own.
_VERDICTS = {
    "UnsupportedOperator": ("not-prepared", "convert with a repair (--max-drop), or choose a newer interpreter"),
    "ModelError": ("not-prepared", "convert with a repair (--max-drop), or choose another interpreter in the profile"),
    "InvokeError": ("not-invoked", "convert with a repair (--max-drop), or choose another interpreter in the profile"),
    "NotFinite": ("not-finite", "is the declared range the one that the model was trained on?"),
    "ReleaseRejected": (DIFFERS, "convert with a repair (--max-drop), or choose another interpreter in the profile"),
}
_CRASHED = "choose another interpreter in the profile"
_UNFETCHED = "'edgekit fetch PROFILE' gets it where there is a network; the board checks the release in any case"
_NO_WHEEL = (
    "install a Python that it has wheels for beside this one; else the board checks the release before it is activated"
)


def rehearse(
    conversion: Conversion,
    profile: DeviceProfile,
    model: Path,
    progress: Progress | None = None,
    *,
    strict: bool = False,
) -> tuple[Rehearsal, ...]:
    """Check `model` with XNNPACK and without; its golden samples and anchors are beside it.

    Raises CheckFailed with the verdict where the board would not take it: what fails only without XNNPACK does not stop
    it, nor does an interpreter that this computer has no wheel of, or cannot fetch. Where there is a newer one, that
    tries it, and stops nothing unless `strict`; nor does one that differs from float, unless `strict`: the board's
    processor has other kernels, and its own check judges.
    """
    wanted, profile = _runtime(profile), here.nearest(profile)
    with _interpreter(profile, progress) as found_here:
        if isinstance(found_here, Rehearsal):
            return (replace(found_here, runtime=wanted),)
        python, path, folder = found_here
        runtime = _runtime(profile)
        release = _release(folder / "release", conversion, profile, runtime, model)
        with ThreadPoolExecutor(2) as pool:
            found = tuple(pool.map(lambda xnnpack: _check(python, path, release, runtime, xnnpack), (True, False)))
    if runtime != wanted:
        found = tuple(replace(one, instead_of=wanted) for one in found)
    usual = found[0]
    if usual.instead_of is not None and not strict:
        return found  # another interpreter's word is told, and judges nothing
    if usual.verdict not in ((PASSED,) if strict else (PASSED, DIFFERS)):
        raise CheckFailed(
            f"{runtime} of {profile.name}, on this computer: {usual.verdict}: {usual.reason}",
            hint=usual.proposal,
            verdict=usual.verdict,
            runtime=runtime,
        )
    return found


def load(model: Path, profile: DeviceProfile) -> Rehearsal:
    """Whether the profile's interpreter, or the nearest newer one that this computer has, runs any `.tflite` once, on
    noise, here; the answer may be no number.
    """
    wanted, profile = _runtime(profile), here.nearest(profile)
    tried = Rehearsal(_runtime(profile), True, PASSED, instead_of=None if _runtime(profile) == wanted else wanted)
    with _interpreter(profile, None) as found:
        if isinstance(found, Rehearsal):
            return replace(found, runtime=wanted)
        python, path, folder = found
        once = ("--num-runs", "1", "--min-secs", "0", "--warmup-runs", "1", "--warmup-min-secs", "0")
        argv = [*python, "-m", "edgekit_runtime", "bench", "--json", "--model", str(model.absolute()), *once]
        answer = _asked(argv, path, folder, tried, LOAD_LIMIT_S)
        return answer if isinstance(answer, Rehearsal) and answer.verdict != "not-finite" else tried


def _runtime(profile: DeviceProfile) -> str:
    return f"{profile.runtime} {profile.runtime_version}"


@contextlib.contextmanager
def _interpreter(
    profile: DeviceProfile, progress: Progress | None
) -> Iterator[tuple[list[str], Path | None, Path] | Rehearsal]:
    """What `_environment` gives, and a folder to work in; or why there is no such interpreter here."""
    with tempfile.TemporaryDirectory(prefix="edgekit-") as name:
        if not here.is_own(profile):
            try:
                resolve.choose(here.stand_in(profile)[0])
            except UserError as error:
                yield Rehearsal(_runtime(profile), True, NOT_RUN, error.message, _NO_WHEEL)
                return
        try:
            python, path = _environment(profile, Path(name) / "tree", progress)
        except (UserError, CheckFailed) as error:
            yield Rehearsal(_runtime(profile), True, NOT_RUN, error.message, _UNFETCHED)
            return
        yield python, path, Path(name)


def _release(folder: Path, conversion: Conversion, profile: DeviceProfile, runtime: str, model: Path) -> Path:
    """A release's folder for the model, as a board has it."""
    folder.mkdir()
    (folder / MODEL).symlink_to(model.absolute())
    for name, wanted in ((GOLDEN, conversion.golden), (ANCHORS, conversion.detection)):
        if wanted is not None:
            (folder / name).symlink_to(model.with_name(name).absolute())
    if conversion.labels is not None:
        (folder / LABELS).write_text("\n".join(conversion.labels) + "\n", encoding="utf-8")
    (folder / MANIFEST).write_text(manifests.dumps(record.manifest(conversion, profile, runtime)), encoding="ascii")
    return folder


def _environment(profile: DeviceProfile, tree: Path, progress: Progress | None) -> tuple[list[str], Path | None]:
    """A Python that has the interpreter, as arguments, and the folder of its modules where that is not its own.

    Raises UserError and CheckFailed when there is none for this computer or it cannot be fetched.
    """
    if here.is_own(profile):
        return [sys.executable, "-P"], None
    facts, executable = here.stand_in(profile)
    for file in resolve.resolve(facts, progress=progress).files:
        path = tree / file.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(file.path.absolute())
    return [executable, "-s", "-S"], tree


def _check(python: list[str], path: Path | None, release: Path, runtime: str, xnnpack: bool) -> Rehearsal:
    argv = [*python, "-m", "edgekit_runtime", "check", "--json", "--release", str(release)]
    argv += ["--batch-size", str(BATCH)] if xnnpack else ["--no-xnnpack"]
    answer = _asked(argv, path, release, Rehearsal(runtime, xnnpack, PASSED), LIMIT_S)
    if isinstance(answer, Rehearsal):
        return answer
    batch, refused = answer["batch_size"], answer["batch_refused"]
    return Rehearsal(runtime, xnnpack, PASSED, batch=batch if xnnpack else None, batch_refused=refused)


def _asked(
    argv: list[str], path: Path | None, folder: Path, tried: Rehearsal, limit_s: float
) -> dict[str, Any] | Rehearsal:
    """What `edgekit_runtime` answers in a process of its own; for an error, or none, `tried` with its verdict."""
    own = {} if path is None else {"PYTHONPATH": str(path)}
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **own}
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False, env=environment,
            cwd=folder, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        reason = f"took longer than {limit_s:g} s"
        return replace(tried, verdict="timed-out", reason=reason, proposal="is the model too large?")
    answer: dict[str, Any] = {}
    with contextlib.suppress(ValueError):
        answer = json.loads(done.stdout)
    if not answer or (
        done.returncode and "type" not in answer
    ):  # what spoils the memory may end a process that has answered
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        reason = f"ended with exit code {done.returncode}: {last[0]}"
        return replace(tried, verdict="crashed", reason=reason, proposal=_CRASHED)
    if done.returncode == 0:
        return answer
    verdict, proposal = _VERDICTS.get(answer["type"], ("not-prepared", _CRASHED))
    return replace(tried, verdict=verdict, reason=answer["message"], proposal=proposal)
