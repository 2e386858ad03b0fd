"""convert: SourceModel + DeviceProfile + RepresentativeDataset -> Conversion, for one board or for several at once."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs
from edgekit_runtime import schema

from edgekit import worker
from edgekit.conversion import key as keys
from edgekit.conversion import produce
from edgekit.conversion.cache import Cache
from edgekit.conversion.order import Board, Order
from edgekit.conversion.record import RECORD, Conversion, Files
from edgekit.conversion.rehearsal import NOT_RUN
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.declaration import Declaration
from edgekit.datasets.truth import open_truth
from edgekit.errors import UserError
from edgekit.models import keras_archive, keras_model
from edgekit.models.source import SourceModel, open_model, require_convertible
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import resolve

MB = 1024 * 1024
PART = ".part"


@dataclass(frozen=True)
class Made:
    """One of several conversions: the `.tflite`, its record, and whether it came from the cache."""

    output: Path
    record: Conversion
    cached: bool


def convert(
    model: Path,
    *,
    profile: DeviceProfile,
    data: Path,
    output: Path,
    declaration: Declaration | None = None,
    samples: int = 200,
    seed: int = 0,
    trust_code: bool = False,
    allow_float: bool = False,
    max_drop: float | None = None,
    held_out: Path | None = None,
    truth: Path | None = None,
    foreground: int | None = None,
    cache: Path | None = None,
    progress: worker.Progress | None = None,
    log: Path | None = None,
) -> Conversion:
    """Write `output` (an INT8 `.tflite`) and the folder beside it, or nothing.

    At most `samples` samples of `data` set the ranges, chosen by `seed`: the same model, data, versions and seed give
    the same bytes. `trust_code` loads models that hold code; `allow_float` keeps operators that have no INT8 form in
    float. With `max_drop` (a share of 1) a model that loses more is repaired: see `repair`; it is judged on `held_out`,
    else on `data`, by what `truth` and `foreground` say is right (see `validate`).

    `cache` is a folder of earlier conversions (`edgekit.conversion_cache()` is the user's): one of the same content is
    taken from there, and a new one put there; nothing is when `data` are a Python function.

    TensorFlow runs in a process of its own; what it says goes to `log` (default: the user's log folder).

    `progress(stage, done, total)` is called with the stages load, float, calibrate, quantize, prove and examine, and
    for a detector original and compare.
    Raises UserError for inputs that do not fit and for a board that no interpreter does, CheckFailed for a model that
    was converted but does not run.
    """
    (made,) = convert_many(
        model,
        profiles=[profile],
        data=data,
        output=output,
        declaration=declaration,
        samples=samples,
        seed=seed,
        trust_code=trust_code,
        allow_float=allow_float,
        max_drop=max_drop,
        held_out=held_out,
        truth=truth,
        foreground=foreground,
        cache=cache,
        progress=progress,
        log=log,
    )
    return made.record


def convert_many(
    model: Path,
    *,
    profiles: Sequence[DeviceProfile],
    data: Path,
    output: Path,
    declaration: Declaration | None = None,
    samples: int = 200,
    seed: int = 0,
    trust_code: bool = False,
    allow_float: bool = False,
    max_drop: float | None = None,
    held_out: Path | None = None,
    truth: Path | None = None,
    foreground: int | None = None,
    cache: Path | None = None,
    accept: Callable[[Sequence[Made]], None] | None = None,
    progress: worker.Progress | None = None,
    log: Path | None = None,
) -> tuple[Made, ...]:
    """`convert` for several boards: the model is loaded, lowered and calibrated once. What is written is what `convert`
    would write for each, at `named(output, profiles)`; if any of them cannot be converted, nothing is.

    `accept` gets them all while they are not yet in their places: what it raises leaves everything as it was.
    """
    declaration = declaration or Declaration()
    interpreters = [resolve.choose(profile)[0] for profile in profiles]
    outputs = named(output, profiles)
    source = _checked(model, output, samples, trust_code=trust_code)
    order = Order(
        model=source,
        data=open_dataset(data, declaration.labels, run=False),
        declaration=declaration,
        samples=samples,
        seed=seed,
        trust_code=trust_code,
        allow_float=allow_float,
        max_drop=max_drop,
        held_out=None if held_out is None else open_dataset(held_out, declaration.labels, run=False),
        truth=truth,
        foreground=foreground,
    )
    if truth is not None:
        open_truth(truth, order.held_out or order.data)
    with _staging(output) as folder:
        boards = [
            Board(profile, interpreter, path, folder / str(number))
            for number, (profile, interpreter, path) in enumerate(zip(profiles, interpreters, outputs, strict=True))
        ]
        store = None if cache is None else Cache(cache)
        try:
            made = _made(order, boards, folder, store, log=log or default_log(), progress=progress)
            if accept is not None:
                staged = [board.finished / produce.MODEL for board in boards]
                accept([replace(one, output=path) for one, path in zip(made, staged, strict=True)])
            for board in boards:
                _publish(board)
        except OSError as error:
            if error.errno in worker.FULL:
                raise worker.no_room() from error
            raise UserError(f"{error.filename or output}: {error.strerror or error}", output=str(output)) from error
    return made


def named(output: Path, profiles: Sequence[DeviceProfile]) -> tuple[Path, ...]:
    """Where each profile's file goes: `output` itself for one, else NAME.PROFILE.SUFFIX. Raises UserError."""
    names = [profile.name for profile in profiles]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise UserError(f"profile given twice: {', '.join(twice)}" if twice else "no profile", profiles=names)
    if len(names) == 1:
        return (output,)
    return tuple(output.with_name(f"{output.stem}.{name}{output.suffix}") for name in names)


def default_log() -> Path | None:
    """The log of conversions in the user's log folder, begun anew when over 4 MB; None where there can be none."""
    try:
        path = platformdirs.user_log_path("edgekit", ensure_exists=True) / "convert.log"
        if path.exists() and path.stat().st_size > 4 * MB:
            path.unlink()
    except OSError:
        return None
    return path


def _made(
    order: Order,
    boards: Sequence[Board],
    folder: Path,
    cache: Cache | None,
    *,
    log: Path | None,
    progress: worker.Progress | None,
) -> tuple[Made, ...]:
    """Each board's files are in its `finished`, those that the cache has not freshly made."""
    wanted = {board: keys.key(order, board) for board in boards} if cache else {}
    records: dict[Board, Conversion] = {}
    for board, key in wanted.items():
        if cache and key and cache.take(key, board.finished):
            text = (board.finished / produce.FOLDER / RECORD).read_bytes()
            records[board] = schema.load_json(Conversion, text, RECORD)
    cached = set(records)
    missing = [board for board in boards if board not in cached]
    if missing:
        records |= zip(missing, produce.produce(order, missing, folder, log=log, progress=progress), strict=True)
    for board in missing if cache else ():
        key = wanted[board]
        # Files that have changed on the way are not those that the key was made of; an interpreter that could not be
        # fetched may be another time.
        tried = all(one.verdict != NOT_RUN for one in records[board].rehearsals)
        if cache and key and tried and keys.key(_again(order), board) == key:
            cache.keep(key, board.finished)
    return tuple(Made(board.output, records[board], board in cached) for board in boards)


def _again(order: Order) -> Order:
    """The same, looked at anew."""
    labels = order.declaration.labels
    return replace(
        order,
        model=replace(order.model, sha256=open_model(order.model.path).sha256),
        data=open_dataset(order.data.path, labels, run=False),
        held_out=None if order.held_out is None else open_dataset(order.held_out.path, labels, run=False),
    )


def _checked(model: Path, output: Path, samples: int, *, trust_code: bool) -> SourceModel:
    if output.suffix != ".tflite":
        raise UserError(f"{output}: the output must end in .tflite")
    if not output.parent.is_dir():
        raise UserError(f"{output}: the folder {output.parent} does not exist", hint=f"mkdir -p {output.parent}")
    if samples < 1:
        raise UserError(f"{samples} samples cannot set a range", hint="100 to 300 are usual")
    source = open_model(model)
    require_convertible(source)
    own = Files.of(output).folder.resolve()
    if output.resolve() == source.path.resolve() or own in source.path.resolve().parents:
        raise UserError(f"{output}: would overwrite the model that it is made from", hint="name another output")
    if source.form == "keras" and not trust_code:
        keras_model.refuse_code(source.path, keras_archive.code_in(keras_archive.read_config(source.path)))
    return source


@contextlib.contextmanager
def _staging(output: Path) -> Iterator[Path]:
    """A folder beside the output that is gone afterwards, whatever happens; what a killed one has left goes first."""
    held = None
    try:
        _sweep(output.parent)
        fresh = Path(tempfile.mkdtemp(prefix=f".{output.stem}-", suffix=".new", dir=output.parent))
        held = _hold(fresh)
        folder = fresh.rename(fresh.with_suffix(PART))  # only now, so that nobody sweeps it before it is held
    except OSError as error:
        raise UserError(f"{output.parent}: cannot write there: {error.strerror}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def _sweep(parent: Path) -> None:
    """Remove the staging folders that no living process holds."""
    for path in parent.glob(f".*-????????{PART}"):
        held = _hold(path) if path.is_dir() else None
        if held is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(held)


def _hold(folder: Path) -> int | None:
    """A lock on a folder that ends with this process, to be closed; None where another has it or none can be had."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return descriptor
    return None


def _publish(board: Board) -> None:
    """Put folder and model in their places by renames. Between the two, `Conversion.load` says what is wrong."""
    place = Files.of(board.output).folder
    if place.exists():
        place.rename(board.folder / "old")
    (board.finished / produce.FOLDER).rename(place)
    (board.finished / produce.MODEL).replace(board.output)
