"""The Engine: ready only when warmed up, any number of samples, typed errors, and it goes on after them."""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edgekit_runtime import batch, check, classify, golden
from edgekit_runtime.batch import BatchRefused
from edgekit_runtime.batcher import Batcher
from edgekit_runtime.classify import LabelsError
from edgekit_runtime.engine import Engine
from edgekit_runtime.errors import CheckFailed, InputError, UserError
from edgekit_runtime.golden import GoldenError
from edgekit_runtime.integrity import HashMismatch, ModelError, verify
from edgekit_runtime.interpreter import InvokeError, UnsupportedOperator
from edgekit_runtime.manifest import Preprocess, TensorSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as stnp


@pytest.fixture(scope="module")
def engine(release: Path) -> Engine:
    return Engine.open(release)


def restate(folder: Path, **changed: Any) -> None:
    """Change what a release's manifest states."""
    data = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**data, **changed}))


class TestInference:
    @settings(max_examples=25)
    @given(count=st.integers(0, 11), size=st.integers(2, 5))
    def test_n_samples_at_once_are_n_samples_alone(self, count: int, size: int, models: Path) -> None:
        rows = np.random.default_rng(count).integers(-128, 128, (count, 8, 8, 3)).astype(np.int8)
        with Engine.load(models / "classifier_int8.tflite", max_batch_size=size) as batched:
            assert batched.batch_size == size
            (together,) = batched.infer([rows])
        with Engine.load(models / "classifier_int8.tflite") as single:
            alone = [single.infer([rows[i : i + 1]])[0] for i in range(count)]
        assert together.shape == (count, 4)
        assert together.dtype == np.int8
        assert np.array_equal(together, np.concatenate([together[:0], *alone]))

    def test_real_values_in_and_out(self, models: Path) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (3, 8, 8, 3)).astype(np.float32)
        with Engine.load(models / "classifier_int8.tflite") as int8:
            (quantised,) = int8.infer_real([pixels])
        with Engine.load(models / "classifier_float.tflite") as real:
            (exact,) = real.infer_real([pixels])
        assert quantised.dtype == np.float32
        assert np.abs(quantised - exact).max() < 0.05
        assert exact.sum(axis=1) == pytest.approx(1, abs=1e-5)

    def test_several_inputs_and_outputs(self, models: Path) -> None:
        left, right = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones((3, 2), np.float32)
        with Engine.load(models / "two_inputs.tflite", max_batch_size=2) as engine:
            assert [spec.name for spec in engine.inputs] == ["left", "right"]
            assert engine.batch_size == 2
            outputs = {out.shape: out for out in engine.infer([left, right])}
        assert np.array_equal(outputs[3, 4], left + 2)
        assert np.array_equal(outputs[3, 1], left[:, 3:] + 2)

    def test_results_stay_what_they_were(self, engine: Engine) -> None:
        rows = engine.samples(2)[0]
        (first,) = engine.infer([rows[:1]])
        kept = first.copy()
        engine.infer([rows[1:]])
        assert np.array_equal(first, kept)

    def test_threads_may_share_it(self, engine: Engine) -> None:
        rows = engine.samples(6)[0]
        (wanted,) = engine.infer([rows])
        results: dict[int, np.ndarray] = {}

        def work(number: int) -> None:
            for _ in range(50):
                results[number] = engine.infer([rows[number : number + 1]])[0]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert np.array_equal(np.concatenate([results[number] for number in range(6)]), wanted)


class TestBadInput:
    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((1, 8, 8, 3), np.uint8), r"expected int8 \[N, 8, 8, 3\], got uint8 \[1, 8, 8, 3\]"),
            (np.zeros((1, 8, 8, 3), ">i2"), r"expected int8 .* got >i2"),
            (np.zeros((8, 8, 3), np.int8), r"got int8 \[8, 8, 3\]"),
            (np.zeros((1, 8, 9, 3), np.int8), r"got int8 \[1, 8, 9, 3\]"),
            (np.zeros((1, 8, 8, 3), np.float64), r"got float64"),
            (np.full((1, 8, 8, 3), None), r"got object"),
            (np.zeros((1, 0, 8, 3), np.int8), r"got int8 \[1, 0, 8, 3\]"),
            ([[1]], "got list"),
            (None, "got NoneType"),
        ],
    )
    def test_is_named_with_what_was_expected(self, engine: Engine, array: np.ndarray, message: str) -> None:
        with pytest.raises(InputError, match=message):
            engine.infer([array])
        # and the next one is served
        assert engine.infer(engine.samples(1))[0].shape == (1, 4)

    @pytest.mark.parametrize("arrays", [None, 5, "a", {"image": 1}, (), np.zeros((4, 8, 8, 3), np.int8)])
    def test_what_is_no_list_of_arrays(self, engine: Engine, arrays: Any) -> None:
        for infer in (engine.infer, engine.infer_real):
            with pytest.raises(InputError, match=r"expected 1 input array\(s\) \('image'\), got "):
                infer(arrays)

    @pytest.mark.parametrize("real", ["abc", [[1], [1, 2]], np.ones((1, 8, 8, 3), complex), [{}], [10**400]])
    def test_what_is_no_real_number(self, engine: Engine, real: Any) -> None:
        with pytest.raises(InputError, match="'image' is not a regular array of real numbers"):
            engine.infer_real([real])
        assert engine.infer(engine.samples(1))[0].shape == (1, 4)

    def test_values_beyond_float32_saturate_without_a_word(self, engine: Engine) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            (huge,) = engine.infer_real([np.full((1, 8, 8, 3), 1e300)])
        assert np.array_equal(huge, engine.infer_real([np.full((1, 8, 8, 3), 255.0)])[0])

    def test_no_samples_are_no_results(self, engine: Engine) -> None:
        assert engine.infer([np.zeros((0, 8, 8, 3), np.int8)])[0].shape == (0, 4)
        assert engine.infer_real([np.zeros((0, 8, 8, 3))])[0].shape == (0, 4)
        assert engine.classify([]) == engine.top_k(np.zeros((0, 4), np.int8)) == ()

    @settings(max_examples=100)
    @given(
        stnp.arrays(
            st.sampled_from(["int8", "uint8", "int16", "float16", "float32", "float64", "bool", "complex64", "U2"]),
            st.one_of(
                stnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
                st.tuples(st.integers(0, 5), st.just(8), st.just(8), st.just(3)),
            ),
        )
    )
    def test_whatever_comes_is_answered_or_refused_and_the_next_is_served(
        self, engine: Engine, array: np.ndarray
    ) -> None:
        good = engine.samples(3)
        (wanted,) = engine.infer(good)
        fits = array.dtype == np.int8 and array.shape[1:] == (8, 8, 3)
        try:
            (found,) = engine.infer([array])
        except InputError:
            assert not fits
        else:
            assert fits
            assert found.shape == (len(array), 4)
            assert found.dtype == np.int8
        with suppress(InputError):
            (found,) = engine.infer_real([array])
            assert array.shape[1:] == (8, 8, 3)
            assert np.isfinite(found).all()
        assert np.array_equal(engine.infer(good)[0], wanted)

    @given(st.data())
    @settings(max_examples=30)
    def test_nan_in_a_float_batch_stays_in_its_row(self, models: Path, data: st.DataObject) -> None:
        rows = np.random.default_rng(5).uniform(0, 255, (5, 8, 8, 3)).astype(np.float32)
        bad = sorted(data.draw(st.sets(st.integers(0, 4), min_size=1)))
        with Engine.load(models / "classifier_float.tflite", max_batch_size=3) as engine:
            (wanted,) = engine.infer([rows])
            rows[bad, data.draw(st.integers(0, 7)), 2, 1] = np.nan
            (found,) = engine.infer([rows])
        rest = [row for row in range(5) if row not in bad]
        assert np.array_equal(found[rest], wanted[rest])
        assert not np.isfinite(found[bad]).any()

    def test_what_a_kernel_refuses_is_named_and_the_next_is_served(self, models: Path) -> None:
        with Engine.load(models / "lookup.tflite", max_batch_size=4) as engine:
            assert engine.batch_size == 4
            for count in (1, 3, 6):
                with pytest.raises(InvokeError, match="failed to run"):
                    engine.infer([np.full((count, 3), 8, np.int32)])
                assert (engine.infer([np.full((count, 3), 4, np.int32)])[0] == 11).all()

    def test_count_of_inputs_and_of_samples(self, models: Path) -> None:
        with Engine.load(models / "two_inputs.tflite") as engine:
            left, right = np.zeros((2, 4), np.float32), np.zeros((3, 2), np.float32)
            with pytest.raises(InputError, match=r"2 input array\(s\) \('left', 'right'\), got 1"):
                engine.infer([left])
            with pytest.raises(InputError, match="got 1"):
                engine.infer_real([left])
            with pytest.raises(InputError, match=r"different numbers of samples: \[2, 3\]"):
                engine.infer([left, right])

    def test_nan_is_refused_and_the_next_is_served(self, engine: Engine, frames: list[np.ndarray]) -> None:
        with pytest.raises(InputError, match="NaN"):
            engine.infer_real([np.full((1, 8, 8, 3), np.nan)])
        assert len(engine.classify(frames)) == 6

    def test_whoever_keeps_an_error_keeps_nothing_of_the_interpreter(
        self, engine: Engine, frames: list[np.ndarray]
    ) -> None:
        def read(outputs: list[np.ndarray]) -> None:
            view = outputs[0][:, :2]
            raise KeyError(view.shape)

        with pytest.raises(KeyError) as kept:
            engine.answer(frames[0], read)
        with pytest.raises(InputError, match="top_k") as kept_too:
            engine.classify(frames[:1], top_k=0)
        assert len(engine.classify(frames)) == 6
        assert kept.value.args == ((1, 2),)
        assert kept_too.value.__traceback__ is not None

    def test_a_failing_run_leaves_the_engine_whole(self, models: Path) -> None:
        with Engine.load(models / "refusing.tflite") as engine:
            (first,) = engine.infer_real([np.ones((2, 6))])
            with engine._pool.lend() as lane, pytest.raises(InvokeError):
                lane.single.run([np.ones((3, 6), np.float32)])
            assert np.array_equal(engine.infer_real([np.ones((2, 6))])[0], first)

    def test_a_closed_engine_says_so(self, models: Path) -> None:
        with Engine.load(models / "fixed.tflite") as engine:
            pass
        with pytest.raises(UserError, match="closed"):
            engine.infer([np.zeros((1, 6), np.float32)])

    @pytest.mark.parametrize("options", [
        {"num_threads": 0}, {"warmup_runs": 0}, {"max_batch_size": 0}, {"num_threads": 2**31}, {"max_batch_size": 1.5},
        {"num_interpreters": 10**9}, {"num_threads": True}, {"num_threads": "2"}, {"allowed_batch_sizes": [4, 0]},
    ])  # fmt: skip
    def test_options_that_no_engine_has(self, models: Path, options: dict[str, Any]) -> None:
        with pytest.raises(InputError, match="is 1 to 1024, not"):
            Engine.load(models / "fixed.tflite", **options)

    @pytest.mark.parametrize("sizes", [4, "4", None, {4: 1}])
    def test_batch_sizes_are_a_list(self, release: Path, sizes: Any) -> None:
        with pytest.raises(InputError, match="allowed_batch_sizes is a list, not"):
            Engine.open(release, allowed_batch_sizes=sizes)

    @pytest.mark.parametrize("sources", [[], (), np.zeros((0, 8, 8, 3), np.uint8)])
    def test_no_picture_is_no_row(self, engine: Engine, frames: list[Any], sources: Any) -> None:
        with pytest.raises(InputError, match="no picture"):
            engine.rows(sources)
        with pytest.raises(InputError, match="given as a list"):
            engine.rows(frames[0])
        assert engine.rows(frames).shape == (6, 8, 8, 3)

    @pytest.mark.parametrize(
        "out",
        [
            np.zeros((3, 8, 8, 3), np.int8),
            np.zeros((2, 8, 24), np.int8),
            np.zeros((2, 8, 8, 3), np.uint8),
            np.zeros((2, 8, 8, 3), np.float32),
            np.zeros((4, 8, 8, 3), np.int8)[::2],
            np.broadcast_to(np.int8(0), (2, 8, 8, 3)),
            np.frombuffer(bytes(2 * 8 * 8 * 3), np.int8).reshape(2, 8, 8, 3),
            [[0]],
            3,
        ],
    )
    def test_rows_are_written_only_where_they_fit(self, engine: Engine, frames: list[Any], out: Any) -> None:
        with pytest.raises(InputError, match=r"out is a contiguous, writable int8 \[2, 8, 8, 3\], not"):
            engine.rows(frames[:2], out=out)
        wanted = engine.rows(frames[:2])
        held = np.zeros_like(wanted)
        assert engine.rows(frames[:2], out=held) is held
        assert np.array_equal(held, wanted)

    @pytest.mark.parametrize("name", ["fixed", "two_inputs"])
    def test_a_matrix_is_the_array_that_it_holds(self, models: Path, name: str) -> None:
        with Engine.load(models / f"{name}.tflite") as engine, closing(Batcher(engine)) as batcher:
            rows = batch.noise(engine.inputs, 3)
            wanted = engine.infer(rows)
            for infer in (engine.infer, batcher.infer, engine.infer_real):
                for one, other in zip(infer([row.view(np.matrix) for row in rows]), wanted, strict=True):
                    assert type(one) is np.ndarray
                    assert np.array_equal(one, other)

    def test_pictures_are_given_as_a_list_or_as_an_array_of_them(self, engine: Engine, frames: list[Any]) -> None:
        many, none, one = np.stack(frames), np.zeros((0, 8, 8, 3), np.uint8), frames[0]
        assert engine.classify(many) == engine.classify(frames)  # type: ignore[arg-type]  # numpy is no Sequence
        assert engine.classify(none) == ()  # type: ignore[arg-type]  # as above
        for wrong in (one, "photo.jpg", b"photo"):
            with pytest.raises(InputError, match="given as a list"):
                engine.classify(wrong)  # type: ignore[arg-type]  # what a caller may do

    @pytest.mark.parametrize("top_k", [0, 2.5, None, True])
    def test_classes_are_counted(self, engine: Engine, frames: list[Any], top_k: Any) -> None:
        with pytest.raises(InputError, match="top_k is a whole number of at least 1"):
            engine.classify(frames, top_k)

    @pytest.mark.parametrize("wrong", [None, 3, ["photo.jpg"], object()])
    def test_what_is_no_picture_is_named(self, engine: Engine, wrong: Any) -> None:
        with pytest.raises(InputError, match="a file's name, its bytes or an array of pixels, not"):
            engine.classify([wrong])

    def test_a_format_is_text(self, engine: Engine, frames: list[Any]) -> None:
        with pytest.raises(InputError, match="a format is text"):
            engine.classify(frames, format=["RGB"])  # type: ignore[arg-type]  # what a caller may do

    def test_how_it_prepares_pictures_is_not_to_be_set(self, engine: Engine) -> None:
        with pytest.raises(AttributeError):
            engine.preprocess = None  # type: ignore[misc]  # what a caller may do

    def test_what_the_reader_of_outputs_raises_is_its_own(self, engine: Engine) -> None:
        def read(_outputs: list[Any]) -> None:
            raise ValueError("mine")

        frame = np.zeros((8, 8, 3), np.uint8)
        with pytest.raises(ValueError, match="mine"):
            engine.answer(frame, read)
        assert len(engine.classify([frame])) == 1


class TestBatchProof:
    @pytest.mark.parametrize(
        ("model", "reason"),
        [
            ("fixed", r"input 'values' has the fixed shape \[1, 6\]"),
            ("truncating", r"came back as \[1, 6\], not \[4, 6\]"),
            ("mixing", "differs from single runs"),
            ("refusing", "failed to run"),
            ("constant", "nothing would be proven"),
        ],
    )
    def test_what_cannot_be_proven_is_refused_and_runs_singly(self, models: Path, model: str, reason: str) -> None:
        rows = np.arange(30, dtype=np.float32).reshape(5, 6)
        with Engine.load(models / f"{model}.tflite", max_batch_size=4) as engine:
            assert engine.batch_size == 1
            assert isinstance(engine.batch_refused, BatchRefused)
            assert engine.batch_refused.exit_code == CheckFailed.exit_code
            with pytest.raises(BatchRefused, match=reason):
                raise engine.batch_refused
            (together,) = engine.infer([rows])
            alone = [engine.infer([rows[i : i + 1]])[0] for i in range(5)]
        assert np.array_equal(together, np.concatenate(alone))
        assert len(together) == 5

    @pytest.mark.parametrize("model", ["classifier_int8", "classifier_uint8", "classifier_float", "two_inputs"])
    def test_what_is_equal_is_proven(self, models: Path, model: str) -> None:
        with Engine.load(models / f"{model}.tflite", max_batch_size=3) as engine:
            assert engine.batch_refused is None
            assert engine.batch_size == 3

    @given(st.integers(0, 40), st.integers(1, 9))
    def test_split_pad_and_cut_is_the_identity(self, count: int, size: int) -> None:
        rows = np.arange(count * 2).reshape(count, 2)
        parts = []
        for part in batch.chunks(count, size):
            padded = batch.pad(rows[part], size)
            assert padded.shape == (size, 2)
            parts.append(padded[: part.stop - part.start])
        if count:
            assert np.array_equal(batch.join(parts), rows)
        else:
            assert parts == []


class TestOpen:
    def test_a_release_is_ready_when_opened(self, release: Path) -> None:
        with Engine.open(release, warmup_runs=3) as engine:
            assert engine.startup.warmup_runs == 3
            assert engine.startup.init_ms > 0
            assert engine.startup.first_ms > 0
            assert engine.golden is not None
            assert engine.golden.count == 6
            assert engine.labels == ("ash", "birch", "cedar", "dogwood")

    def test_an_altered_model_is_refused_before_it_is_loaded(self, release: Path, tmp_path: Path) -> None:
        folder = tmp_path / "r"
        shutil.copytree(release, folder)
        content = bytearray((folder / "model.tflite").read_bytes())
        content[len(content) // 2] ^= 1
        (folder / "model.tflite").write_bytes(content)
        with pytest.raises(HashMismatch) as caught:
            Engine.open(folder)
        assert caught.value.exit_code == 1
        assert caught.value.fields["expected"] != caught.value.fields["actual"]
        restate(folder, model_crc32=None)
        with pytest.raises(HashMismatch, match="SHA-256"):
            Engine.open(folder)

    def test_a_crc_alone_is_compared_too(self, models: Path) -> None:
        path = models / "classifier_int8.tflite"
        found = verify(path, crc32=zlib.crc32(path.read_bytes()))
        assert found == verify(path) == hashlib.sha256(path.read_bytes()).hexdigest()
        with pytest.raises(HashMismatch, match="CRC-32"):
            verify(path, crc32=1)

    def test_a_check_does_not_rely_on_the_crc_of_a_start(self, release: Path, tmp_path: Path) -> None:
        folder = tmp_path / "r"
        shutil.copytree(release, folder)
        with (folder / "model.tflite").open("ab") as file:
            file.write(bytes(8))
        restate(folder, model_crc32=zlib.crc32((folder / "model.tflite").read_bytes()))
        Engine.open(folder).close()
        with pytest.raises(HashMismatch, match="SHA-256"):
            check.check(folder)

    def test_a_manifest_of_other_tensors_is_refused(self, release: Path, tmp_path: Path) -> None:
        folder = tmp_path / "r"
        shutil.copytree(release, folder)
        data = json.loads((folder / "manifest.json").read_text())
        data["outputs"][0]["zero_point"] = 3
        (folder / "manifest.json").write_text(json.dumps(data))
        with pytest.raises(ModelError, match="tensors"):
            Engine.open(folder)

    @pytest.mark.parametrize(
        ("member", "content", "error"),
        [
            ("manifest.json", None, UserError),
            ("manifest.json", b"{}", UserError),
            ("labels.txt", b"one\ntwo\n", LabelsError),
            ("labels.txt", b"\xff\xfe\n", LabelsError),
            ("labels.txt", None, UserError),
            ("golden.npy", b"PK", GoldenError),
            ("golden.npy", b"\x93NUMPY", GoldenError),
            ("golden.npy", None, GoldenError),
            ("model.tflite", None, ModelError),
        ],
    )
    def test_a_broken_member_is_a_typed_error(
        self, release: Path, tmp_path: Path, member: str, content: bytes | None, error: type[UserError]
    ) -> None:
        folder = tmp_path / "r"
        shutil.copytree(release, folder)
        (folder / member).unlink()
        if content is not None:
            (folder / member).write_bytes(content)
        with pytest.raises(error, match=r"labels|manifest|golden|model"):
            Engine.open(folder)

    def test_golden_outputs_are_float32(self, release: Path, tmp_path: Path) -> None:
        folder = tmp_path / "r"
        shutil.copytree(release, folder)
        held = golden.read(folder / "golden.npy", 1, 1)
        for kind in ("int8", "float64", "complex64", "U4"):
            golden.write(folder / "golden.npy", replace(held, outputs=(held.outputs[0].astype(kind),)))
            with pytest.raises(GoldenError, match="float32"):
                Engine.open(folder)

    def test_golden_samples_are_never_unpickled(self, release: Path, tmp_path: Path) -> None:
        folder = tmp_path / "r"
        shutil.copytree(release, folder)
        np.save(folder / "golden.npy", np.array([{}]))
        with pytest.raises(GoldenError, match="allow_pickle"):
            Engine.open(folder)


class TestModelFiles:
    @pytest.mark.parametrize("content", [b"", b"TFL3", b"not a model at all", b"\x1c\0\0\0TFL2" + b"\0" * 64])
    def test_what_is_no_model_never_reaches_the_interpreter(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "m.tflite"
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"m\.tflite.*not a TFLite model"):
            Engine.load(path)

    def test_a_missing_file_and_a_folder(self, tmp_path: Path) -> None:
        for path in (tmp_path / "m.tflite", tmp_path):
            with pytest.raises(ModelError, match="cannot read the model"):
                Engine.load(path)

    def test_a_cut_model_is_refused_by_its_hash(self, models: Path, tmp_path: Path) -> None:
        content = (models / "classifier_int8.tflite").read_bytes()
        (tmp_path / "m.tflite").write_bytes(content[: len(content) // 2])
        with pytest.raises(HashMismatch):
            Engine.load(tmp_path / "m.tflite", sha256="0" * 64)
        with pytest.raises(ModelError, match="cannot load"):
            Engine.load(tmp_path / "m.tflite")

    def test_an_unknown_operator_is_named(self, models: Path) -> None:
        with pytest.raises(UnsupportedOperator) as caught:
            Engine.load(models / "custom.tflite")
        assert caught.value.fields["operator"] == "BesselI0e"

    @pytest.mark.shared
    @pytest.mark.parametrize("folder", ["mlperf_tiny_tflite", "ai_edge_quantizer_tflite", "mediapipe_selfie_tflite"])
    def test_published_models_of_every_shape_run_any_number_of_samples(self, shared: Path, folder: str) -> None:
        batched = 0
        files = sorted((shared / "reference" / folder).rglob("*.tflite"))
        for path in files:
            if path.name == "single_slice.tflite":  # its begin and size come as inputs that noise cannot guess
                continue
            with Engine.load(path, max_batch_size=4) as engine:
                rows = engine.samples(5)
                together = engine.infer(rows)
                alone = [engine.infer([array[i : i + 1] for array in rows]) for i in range(5)]
                batched += engine.batch_size == 4
            for number, out in enumerate(together):
                singles = np.concatenate([one[number] for one in alone])
                assert out.shape == singles.shape
                assert np.allclose(out, singles, rtol=1e-5, atol=1e-5, equal_nan=True), path.name
        assert files
        assert batched or folder == "mediapipe_selfie_tflite"

    def test_tensorflows_interpreter_is_the_last_resort(self, models: Path, tmp_path: Path) -> None:
        for name in ("ai_edge_litert", "tflite_runtime"):
            (tmp_path / f"{name}.py").write_text("raise ImportError")
        code = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from pathlib import Path; from edgekit_runtime import Engine\n"
            "engine = Engine.load(Path(sys.argv[2]))\n"
            "print(engine.package.name, engine.infer(engine.samples(2))[0].shape)"
        )
        argv = [str(tmp_path), str(models / "classifier_int8.tflite")]
        done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "tensorflow (2, 4)"

    @pytest.mark.shared
    def test_hostile_and_odd_files_are_typed_errors(self, shared: Path) -> None:
        """Each in a process of its own: one of the shared files corrupts the heap of any runtime."""
        folder = shared / "reference/malformed_or_hostile_tflite_dev"
        program = (
            "import sys; from pathlib import Path; from edgekit_runtime import Engine\n"
            "from edgekit_runtime.errors import EdgekitError\n"
            "for name in sys.argv[1:]:\n"
            "    try: Engine.load(Path(name), warmup_runs=1)\n"
            "    except EdgekitError as error: print(type(error).__name__)\n"
            "    else: print('loaded')\n"
        )
        files = [
            str(path)
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".tflite", ".bin") and "scrambled" not in path.name
        ]
        assert len(files) > 15
        done = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
        kinds = done.stdout.split()
        assert len(kinds) == len(files)
        assert set(kinds) <= {"ModelError", "UnsupportedOperator", "InvokeError"}


class TestClassify:
    def test_the_best_classes_of_the_stored_scores(self, engine: Engine, frames: list[np.ndarray]) -> None:
        found = engine.classify(frames, top_k=2)
        reals = engine.infer_real([np.stack(frames).astype(np.float32)])[0]
        for classes, row in zip(found, reals, strict=True):
            assert [item.score for item in classes] == sorted(row, reverse=True)[:2]
            assert classes[0].index == int(row.argmax())
            assert classes[0].label == ("ash", "birch", "cedar", "dogwood")[classes[0].index]

    def test_a_frame_written_into_the_tensor_is_answered_as_an_array(
        self, models: Path, engine: Engine, frames: list[np.ndarray]
    ) -> None:
        for frame, together in zip(frames, engine.classify(frames), strict=True):
            assert engine.classify([frame]) == (together,)
        with Engine.load(
            models / "classifier_int8.tflite", preprocess=engine.preprocess, task="classification"
        ) as other:
            wanted = engine.top_k(other.infer([np.stack([other.prepare(frame) for frame in frames])])[0])
            assert tuple(engine.classify(frames)) == wanted

    def test_frames_in_any_format_and_a_bad_one_between(self, engine: Engine, frames: list[np.ndarray]) -> None:
        wanted = engine.classify(frames[:1])
        bgra = np.concatenate([frames[0][..., ::-1], frames[0][..., :1]], 2)
        assert engine.classify([bgra], format="BGRA") == wanted
        with pytest.raises(InputError, match="NV12"):
            engine.classify([np.zeros((7, 6), np.uint8)], format="NV12")
        with pytest.raises(InputError, match="top_k"):
            engine.classify(frames[:1], top_k=0)
        assert engine.classify([np.full((12, 8), 128, np.uint8)], format="NV12") == engine.classify(
            [np.full((8, 8, 3), 130, np.uint8)]
        )
        assert engine.classify(frames[:1]) == wanted
        assert any("alpha is dropped" in finding for finding in engine.findings)

    def test_findings_of_several_formats_are_told_once(self, models: Path, spec: Preprocess) -> None:
        frame = np.zeros((30, 30, 3), np.uint8)
        with Engine.load(models / "classifier_int8.tflite", preprocess=spec, task="classification") as engine:
            engine.classify([frame])
            wanted = engine.findings
            engine.classify([frame], format="BGR")
            assert wanted
            assert engine.findings == wanted

    @pytest.mark.parametrize(("height", "width"), [(8, 8), (1080, 1920)])
    def test_a_frame_costs_no_memory_whatever_its_size(
        self, models: Path, spec: Preprocess, height: int, width: int
    ) -> None:
        linear = replace(spec, filter="linear")
        frame = np.zeros((height, width, 3), np.uint8)
        with Engine.load(models / "classifier_int8.tflite", preprocess=linear, task="classification") as engine:
            engine.classify([frame])
            tracemalloc.start()
            try:
                engine.classify([frame])
                gc.collect()
                before, _ = tracemalloc.get_traced_memory()
                tracemalloc.reset_peak()
                for _ in range(20):
                    engine.classify([frame])
                _, peak = tracemalloc.get_traced_memory()
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak - before <= 32 << 10
        assert after - before <= 1 << 10

    @given(st.lists(st.integers(-128, 127), min_size=1, max_size=40), st.integers(1, 50))
    def test_ties_go_to_the_lower_index(self, scores: list[int], k: int) -> None:
        spec = TensorSpec("scores", (1, len(scores)), "int8", 0.5, -128)
        found = classify.top_k(np.array(scores, np.int8), spec, k)
        wanted = sorted(range(len(scores)), key=lambda index: (-scores[index], index))[:k]
        assert [item.index for item in found] == wanted
        assert [item.score for item in found] == [(scores[index] + 128) / 2 for index in wanted]

    def test_only_for_classifiers_and_only_with_fitting_labels(self, models: Path, spec: Preprocess) -> None:
        path = models / "classifier_int8.tflite"
        with Engine.load(path, preprocess=spec) as raw, pytest.raises(InputError, match="task is 'raw'"):
            raw.classify([np.zeros((8, 8, 3), np.uint8)])
        with pytest.raises(LabelsError, match="3 labels for the 4 classes"):
            Engine.load(path, preprocess=spec, task="classification", labels=["a", "b", "c"])

    def test_preprocessing_must_fit_the_input(self, models: Path) -> None:
        with pytest.raises(InputError, match="9x8x3 do not fit"):
            Engine.load(models / "classifier_int8.tflite", preprocess=Preprocess(8, 9))
        with Engine.load(models / "classifier_int8.tflite") as bare, pytest.raises(InputError, match="no preproc"):
            bare.prepare(np.zeros((8, 8, 3), np.uint8))

    @pytest.mark.parametrize("model", ["classifier_int8", "classifier_uint8", "classifier_float"])
    def test_every_input_dtype_sees_the_same_picture(self, models: Path, spec: Preprocess, model: str) -> None:
        frame = np.random.default_rng(5).integers(0, 256, (8, 8, 3)).astype(np.uint8)
        with Engine.load(models / f"{model}.tflite", preprocess=spec, task="classification") as engine:
            (classes,) = engine.classify([frame], top_k=4)
        with Engine.load(models / "classifier_float.tflite") as engine:
            exact = engine.infer_real([frame[None].astype(np.float32)])[0][0]
        assert {item.index: item.score for item in classes} == pytest.approx(dict(enumerate(exact)), abs=0.05)

    @pytest.mark.shared
    def test_a_real_classifier_on_real_pictures(self, shared: Path) -> None:
        folder = shared / "reference/coral_tflite_dev"
        labels = classify.parse_labels((folder / "imagenet_labels.txt").read_bytes(), "labels")
        wants = {"parrot.jpg": "macaw", "cat_720p.jpg": "Egyptian cat", "grace_hopper.bmp": "military uniform"}
        with Engine.load(
            folder / "mobilenet_v2_1.0_224_quant.tflite",
            preprocess=Preprocess(224, 224, mean=(128.0,) * 3, std=(128.0,) * 3),
            labels=labels,
            task="classification",
            num_threads=2,
        ) as engine:
            found = engine.classify([shared / "data/coral_images" / name for name in wants], top_k=1)
        assert [classes[0].label for classes in found] == list(wants.values())
