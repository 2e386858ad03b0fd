"""A repeated conversion is taken from the cache, which never gives anything but what would be made anew."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.conversion import convert, key
from edgekit.conversion.cache import INDEX, Cache
from edgekit.conversion.convert import Made
from edgekit.conversion.order import Board, Order
from edgekit.conversion.record import Files
from edgekit.datasets import content
from edgekit.datasets.dataset import open_dataset
from edgekit.datasets.declaration import declare
from edgekit.errors import CheckFailed, UserError
from edgekit.models.source import open_model
from edgekit.profiles import profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.runtimes import resolve
from tests.model.conftest import Converted


def files_in(folder: Path) -> dict[str, str]:
    """The hash of every file below."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def board_of(facts: DeviceProfile) -> Board:
    return Board(facts, resolve.choose(facts)[0], Path("m.tflite"), Path("folder"))


@pytest.fixture
def order(models: Path, pictures: Path, tmp_path: Path) -> Order:
    """The colour model and copies of its pictures."""
    shutil.copytree(pictures, tmp_path / "pictures")
    shutil.copytree(pictures, tmp_path / "held-out")
    shutil.copy(models / "colours.keras", tmp_path)
    return Order(
        model=open_model(tmp_path / "colours.keras"),
        data=open_dataset(tmp_path / "pictures"),
        declaration=declare(range="-1..1"),
        samples=40,
        seed=0,
        trust_code=False,
        allow_float=False,
        max_drop=None,
        held_out=open_dataset(tmp_path / "held-out"),
    )


class TestKey:
    def test_where_things_lie_is_no_part_of_it(self, order: Order, board: DeviceProfile, tmp_path: Path) -> None:
        away = tmp_path / "away"
        for name in ("pictures", "held-out"):
            shutil.copytree(tmp_path / name, away / name)
        moved = replace(
            order,
            model=open_model(Path(shutil.copy(tmp_path / "colours.keras", away))),
            data=open_dataset(away / "pictures"),
            held_out=open_dataset(away / "held-out"),
        )
        assert key.key(moved, board_of(board)) == key.key(order, board_of(board)) is not None

    @pytest.mark.parametrize(
        "change",
        [
            {"samples": 41},
            {"seed": 1},
            {"trust_code": True},
            {"allow_float": True},
            {"max_drop": 0.0},
            {"held_out": None},
            {"declaration": declare(range="0..1")},
            {"declaration": declare(range="-1..1", name="hues")},
            {"declaration": declare(range="-1..1", labels=("b", "g", "r"))},
        ],
        ids=str,
    )
    def test_each_argument_counts(self, change: dict[str, Any], order: Order, board: DeviceProfile) -> None:
        assert key.key(replace(order, **change), board_of(board)) != key.key(order, board_of(board))

    @pytest.mark.parametrize(
        "change",
        [
            {"name": "other"},
            {"input_dtype": "uint8"},
            {"output_dtype": "uint8"},
            {"int8_only": True},
            {"max_model_mb": 1.0},
            {"max_ram_mb": 100},
            {"flash_free_mb": 1},
            {"max_accuracy_drop": 0.5},
            {"num_threads": 2},
            {"runtime": "tflite-runtime", "runtime_version": "2.14.0"},
        ],
        ids=str,
    )
    def test_so_do_a_profile_s_facts(self, change: dict[str, Any], order: Order, board: DeviceProfile) -> None:
        board = replace(board, num_threads=1)
        assert key.key(order, board_of(replace(board, **change))) != key.key(order, board_of(board))

    def test_a_profile_s_description_does_not(self, order: Order, board: DeviceProfile) -> None:
        other = replace(board, description="mine", governor="performance", max_latency_ms=3.0)
        assert key.key(order, board_of(other)) == key.key(order, board_of(board))

    @pytest.mark.parametrize("file", ["colours.keras", "pictures/red/000.png", "held-out/red/000.png"])
    def test_so_does_the_content_of_files(self, file: str, order: Order, board: DeviceProfile, tmp_path: Path) -> None:
        before = key.key(order, board_of(board))
        with (tmp_path / file).open("ab") as end:
            end.write(b"\0")
        again = replace(order, model=open_model(tmp_path / "colours.keras"))
        assert key.key(again, board_of(board)) != before

    def test_versions_source_and_processor_count(self, order: Order, board: DeviceProfile) -> None:
        found = key.facts(order, board_of(board))
        assert found is not None
        assert {"tensorflow", "numpy", "keras", "ai-edge-litert", "edgekit"} <= set(found["versions"])
        assert found["versions"]["numpy"] == np.__version__
        for name in ("versions", "python", "source", "processor"):
            assert key.of({**found, name: "another"}) != key.of(found)

    def test_what_a_function_gives_nobody_can_tell(self, order: Order, board: DeviceProfile, tmp_path: Path) -> None:
        (tmp_path / "data.py").write_text("def samples():\n    yield [0.0]\n")
        made = open_dataset(tmp_path / "data.py:samples", run=False)
        assert key.key(replace(order, data=made), board_of(board)) is None
        assert key.key(replace(order, held_out=made), board_of(board)) is None

    def test_data_that_are_their_own_held_out_are_not_a_copy_of_them(self, order: Order, board: DeviceProfile) -> None:
        """The doctor finds leakage in the copy alone."""
        assert key.key(replace(order, held_out=order.data), board_of(board)) != key.key(order, board_of(board))

    @settings(max_examples=50)
    @given(st.dictionaries(st.text(max_size=3), st.none() | st.booleans() | st.integers(), min_size=1), st.data())
    def test_any_changed_fact_is_another_key_and_their_order_is_none(
        self, facts: dict[str, Any], data: st.DataObject
    ) -> None:
        assert key.of(dict(reversed(facts.items()))) == key.of(facts)
        name = data.draw(st.sampled_from(sorted(facts)))
        assert key.of({**facts, name: [facts[name]]}) != key.of(facts)
        assert key.of({other: value for other, value in facts.items() if other != name}) != key.of(facts)


class TestContent:
    def test_pictures_that_are_not_read_count_by_their_names(self, pictures: Path, tmp_path: Path) -> None:
        folder = shutil.copytree(pictures, tmp_path / "pictures")
        data = open_dataset(folder)
        before = content.digest(data, (0, 10))
        order = data.order(0)
        (folder / data.names[order[20]]).write_bytes(b"another")
        assert content.digest(data, (0, 10)) == before != content.digest(data, (0, 30))
        (folder / data.names[order[5]]).write_bytes(b"another")
        assert content.digest(data, (0, 10)) != before
        shutil.copy(folder / data.names[0], folder / "red/more.png")
        assert content.digest(open_dataset(folder), (0, 10)) not in (before, content.digest(data, (0, 10)))

    def test_arrays_and_tables_count_whole(self, pictures: Path, tmp_path: Path) -> None:
        values = np.zeros((20, 4), np.float32)
        np.save(tmp_path / "x.npy", values)
        before = content.digest(open_dataset(tmp_path / "x.npy"), (0, 1))
        values[19, 3] = 1
        np.save(tmp_path / "x.npy", values)
        assert content.digest(open_dataset(tmp_path / "x.npy"), (0, 1)) != before
        shutil.copy(pictures / "red/000.png", tmp_path / "a.png")
        digests = set()
        for label in ("red", "blue"):
            (tmp_path / "labels.csv").write_text(f"file,label\na.png,{label}\n")
            digests |= {content.digest(open_dataset(path), (0, 1)) for path in (tmp_path, tmp_path / "labels.csv")}
        assert len(digests) == 2


class TestStore:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Path:
        """What a conversion leaves."""
        folder = tmp_path / "made"
        (folder / "edgekit").mkdir(parents=True)
        (folder / "model.tflite").write_bytes(b"a model" * 1000)
        (folder / "edgekit/conversion.json").write_text("{}")
        return folder

    def test_what_is_kept_is_given_again(self, made: Path, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache")
        assert not cache.take("k", tmp_path / "out")
        cache.keep("k", made)
        cache.keep("k", made)
        assert cache.take("k", tmp_path / "out")
        assert files_in(tmp_path / "out") == files_in(made)
        assert os.listdir(cache.root) == ["k"]

    @pytest.mark.parametrize(
        "damage",
        [
            lambda entry: (entry / "model.tflite").write_bytes(b"another"),
            lambda entry: (entry / "edgekit/conversion.json").unlink(),
            lambda entry: (entry / "edgekit/more").touch(),
            lambda entry: (entry / INDEX).write_bytes((entry / INDEX).read_bytes()[:-9]),
            lambda entry: (entry / INDEX).write_text(json.dumps([])),
            lambda entry: (entry / INDEX).unlink(),
        ],
        ids=["changed", "lost", "added", "index cut", "index of something else", "no index"],
    )
    def test_a_damaged_entry_was_never_there(self, damage: Callable[[Path], None], made: Path, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache")
        cache.keep("k", made)
        damage(cache.root / "k")
        assert not cache.take("k", tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert os.listdir(cache.root) == []

    def test_what_was_not_used_for_longest_goes_first(self, made: Path, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache", limit=25_000)
        for number, name in enumerate("abc"):
            cache.keep(name, made)
            os.utime(cache.root / name, (number, number))
        assert cache.take("a", tmp_path / "out")
        cache.keep("d", made)
        assert sorted(os.listdir(cache.root)) == ["a", "c", "d"]
        Cache(cache.root, limit=5_000).keep("e", made)
        assert sorted(os.listdir(cache.root)) == ["a", "c", "d"], "what fits into no cache pushes nothing out"

    def test_what_a_killed_process_has_left_goes_after_a_day(self, made: Path, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache")
        for name in (".part-old", ".part-new"):
            (cache.root / name).mkdir(parents=True)
        os.utime(cache.root / ".part-old", (0, 0))
        cache.keep("k", made)
        assert sorted(os.listdir(cache.root)) == [".part-new", "k"]

    def test_many_at_once_give_whole_entries_or_none(self, made: Path, tmp_path: Path) -> None:
        cache = Cache(tmp_path / "cache", limit=15_000)
        wanted = files_in(made)

        def work(number: int) -> bool:
            out = tmp_path / f"out-{number}"
            cache.keep("abc"[number % 3], made)
            taken = cache.take("abc"[number % 2], out)
            assert not taken or files_in(out) == wanted
            return taken

        with ThreadPoolExecutor(8) as executor:
            assert any(executor.map(work, range(60)))

    def test_a_cache_that_cannot_be_written_is_none(self, made: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        cache = Cache(tmp_path / "file")
        cache.keep("k", made)
        assert not cache.take("k", tmp_path / "out")


@dataclass(frozen=True)
class Both:
    """The colour model converted for two boards at once, with a cache, and the stages that that took."""

    board: DeviceProfile
    other: DeviceProfile
    cache: Path
    made: tuple[Made, ...]
    stages: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def both(models: Path, pictures: Path, board: DeviceProfile, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder, stages = tmp_path_factory.mktemp("both"), []
    other = replace(profile.find("generic-armv7"), input_dtype="uint8", output_dtype="float32")
    made = convert.convert_many(
        models / "colours.keras",
        profiles=[board, other],
        data=pictures,
        output=folder / "colours.tflite",
        declaration=declare(range="-1..1"),
        samples=40,
        cache=folder / "cache",
        progress=lambda *step: stages.append(step),
    )
    return Both(board, other, folder / "cache", made, stages)


class TestSeveralBoards:
    def test_each_has_files_of_its_own_from_one_calibration(self, both: Both) -> None:
        folder = both.cache.parent
        names = [f"colours.{facts.name}" for facts in (both.board, both.other)]
        assert [made.output for made in both.made] == [folder / f"{name}.tflite" for name in names]
        assert {path.name for path in folder.iterdir()} - {"cache"} == {
            f"{name}{suffix}" for name in names for suffix in (".tflite", ".edgekit")
        }
        assert both.stages.count(("load", 1, 1)) == both.stages.count(("calibrate", 40, 40)) == 1
        assert [made.record.inputs[0].dtype for made in both.made] == ["int8", "uint8"]
        assert [made.record.profile for made in both.made] == [both.board.name, both.other.name]
        assert not any(made.cached for made in both.made)

    def test_they_are_what_convert_alone_makes(self, both: Both, colours: Converted) -> None:
        one, alone = Files.of(both.made[0].output), Files.of(colours.path)
        assert one.model.read_bytes() == alone.model.read_bytes()
        assert files_in(one.folder) == files_in(alone.folder)

    def test_one_that_cannot_be_leaves_nothing_of_the_others(
        self, both: Both, models: Path, pictures: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        out.mkdir()
        small = replace(both.other, name="small", max_model_mb=0.0001)
        with pytest.raises(CheckFailed, match="does not fit small"):
            convert.convert_many(
                models / "colours.keras",
                profiles=[both.board, small],
                data=pictures,
                output=out / "m.tflite",
                declaration=declare(range="-1..1"),
                samples=40,
                cache=both.cache,
            )
        assert list(out.iterdir()) == []

    def test_the_same_twice_or_none_is_refused(self, board: DeviceProfile) -> None:
        with pytest.raises(UserError, match="profile given twice: generic-aarch64"):
            convert.named(Path("m.tflite"), [board, board])
        with pytest.raises(UserError, match="no profile"):
            convert.named(Path("m.tflite"), [])


class TestRepeated:
    def again(self, both: Both, model: Path, data: Path, out: Path, **options: Any) -> list[tuple[str, int, int]]:
        """Convert for the one board with the same cache; gives the stages."""
        stages: list[tuple[str, int, int]] = []
        out.mkdir()
        convert.convert(
            model,
            profile=both.board,
            data=data,
            output=out / "m.tflite",
            declaration=declare(range="-1..1"),
            samples=40,
            cache=both.cache,
            progress=lambda *step: stages.append(step),
            log=out.parent / "log",
            **options,
        )
        return stages

    def test_it_starts_no_worker_and_gives_the_same_bytes(
        self, both: Both, models: Path, pictures: Path, tmp_path: Path
    ) -> None:
        elsewhere = shutil.copytree(pictures, tmp_path / "elsewhere")
        assert self.again(both, models / "colours.keras", elsewhere, tmp_path / "out") == []
        assert not (tmp_path / "log").exists(), "every worker opens its log"
        first, second = Files.of(both.made[0].output), Files.of(tmp_path / "out/m.tflite")
        assert second.model.read_bytes() == first.model.read_bytes()
        assert files_in(second.folder) == files_in(first.folder)
        assert sorted(path.name for path in second.model.parent.iterdir()) == ["m.edgekit", "m.tflite"]

    def test_data_that_change_on_the_way_are_not_remembered(
        self, both: Both, models: Path, pictures: Path, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(pictures, tmp_path / "pictures")
        (folder / "red/000.png").unlink()
        before = sorted(os.listdir(both.cache))

        def change(stage: str, _done: int, _total: int) -> None:
            if stage == "prove":
                shutil.copy(folder / "red/001.png", folder / "red/002.png")

        convert.convert(
            models / "colours.keras",
            profile=both.board,
            data=folder,
            output=tmp_path / "m.tflite",
            declaration=declare(range="-1..1"),
            samples=40,
            cache=both.cache,
            progress=change,
        )
        assert sorted(os.listdir(both.cache)) == before
