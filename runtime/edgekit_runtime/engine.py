"""The Engine: one model, warmed up and ready, for one sample or many."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Type

import numpy as np

from edgekit_runtime import batch, classify, manifest, quant
from edgekit_runtime.dataclass import dataclass
from edgekit_runtime.errors import InputError, UserError
from edgekit_runtime.integrity import ModelError, verify
from edgekit_runtime.interpreter import Answer, Interpreter, find
from edgekit_runtime.manifest import Detection, Manifest, Preprocess, TensorSpec
from edgekit_runtime.plan import GOALS, Plan, require_count, stored
from edgekit_runtime.pool import Lane, Pool, PoolRefused, refusal
from edgekit_runtime.preprocess import Preprocessor

if TYPE_CHECKING:
    from types import TracebackType

    from edgekit_runtime.classify import ClassScore
    from edgekit_runtime.detect import Detections, Heads
    from edgekit_runtime.golden import GoldenSamples
    from edgekit_runtime.integrity import Location
    from edgekit_runtime.preprocess import Source
    from edgekit_runtime.quant import Array, Floats
    from edgekit_runtime.stream import Result


@dataclass(frozen=True)
class Startup:
    """Milliseconds until ready: load and allocate, the first inference, and the mean of all warm-up runs."""

    init_ms: float
    first_ms: float
    warmup_avg_ms: float
    warmup_runs: int


class Engine:
    """A model ready to run. Safe to call from several threads: `num_interpreters` inferences run at a time.

    `inputs`, `outputs` describe the tensors; `batch_sizes` are the batches that were proven equal to single runs,
    `batch_size` is the largest (1 without any) and `batch_refused` the reason when one is missing that was asked for;
    `manifest` and `golden` are None for a bare model.
    """

    def __init__(
        self,
        model: Location,
        *,
        preprocess: Optional[Preprocess] = None,
        labels: Optional[Sequence[str]] = None,
        task: str = "raw",
        num_threads: int = 1,
        max_batch_size: int = 1,
        sha256: Optional[str] = None,
        crc32: Optional[int] = None,
        warmup_runs: int = 1,
        samples: Optional[GoldenSamples] = None,
        detector: Optional[Tuple[Detection, "Floats"]] = None,
        xnnpack: bool = True,
        num_interpreters: int = 1,
        max_ram_mb: Optional[int] = None,
        allowed_batch_sizes: Sequence[int] = (),
    ) -> None:
        if not isinstance(allowed_batch_sizes, (list, tuple)):
            raise InputError(f"allowed_batch_sizes is a list, not {allowed_batch_sizes!r}", hint="[4], also for one")
        for name, number in (
            ("warmup_runs", warmup_runs), ("max_batch_size", max_batch_size), ("num_interpreters", num_interpreters),
            ("num_threads", num_threads), *(("each of allowed_batch_sizes", size) for size in allowed_batch_sizes),
        ):  # fmt: skip
            require_count(name, number)
        self.model = os.fspath(model)
        self.manifest: Optional[Manifest] = None
        self.plan_note: Optional[str] = None
        self.golden = samples
        self.num_threads = num_threads
        self.xnnpack = xnnpack
        self.labels = tuple(labels) if labels is not None else None
        self.task = task
        self.package = find()
        before_kb = _resident_kb() if num_interpreters > 1 else 0
        self.model_sha256 = verify(self.model, sha256, crc32)
        first = Interpreter(self.model, num_threads=num_threads, xnnpack=xnnpack)
        self.signature = first.signature
        self.inputs: Tuple[TensorSpec, ...] = first.inputs
        self.outputs: Tuple[TensorSpec, ...] = first.outputs
        self._pictures = None if preprocess is None else Preprocessor(preprocess, self.inputs)
        if task == "classification" and self.labels is not None:
            classify.check_labels(self.labels, self.outputs[0])
        if (task == "detection") != (detector is not None):
            raise InputError("a detector, and nothing else, has the task 'detection'")
        self._heads: Optional[Heads] = None
        if detector is not None:
            from edgekit_runtime import detect

            self._heads = detect.heads(*detector, self.outputs, labels)
        if samples is not None:
            self.count(samples.inputs)
        self.startup = self._warm_up(first, warmup_runs)
        self._max_ram_mb = max_ram_mb
        self.batch_refused: Optional[batch.BatchRefused] = None
        batched = self._proven(first, sorted({max_batch_size, *allowed_batch_sizes} - {1}), warmup_runs)
        self.batch_sizes = tuple(batched)
        self.pool_refused: Optional[PoolRefused] = None
        self._pool = Pool()
        self._pool.add(Lane(first, batched))
        if num_interpreters > 1:
            # Memory that was freed before is used again and does not show: the weights are packed in any case.
            cost_kb = max(_resident_kb() - before_kb, os.path.getsize(self.model) // 1024)
            self._grow(num_interpreters, cost_kb, warmup_runs)

    @classmethod
    def open(
        cls,
        directory: Location,
        *,
        num_threads: Optional[int] = None,
        max_batch_size: Optional[int] = None,
        warmup_runs: int = 1,
        xnnpack: Optional[bool] = None,
        num_interpreters: Optional[int] = None,
        goal: Optional[str] = "latency",
        allowed_batch_sizes: Sequence[int] = (),
    ) -> "Engine":
        """Open a release directory; what is not given comes from its plan for `goal` ("latency", "throughput"; None for
        no plan), where tune has measured one here, else from its manifest. With `num_threads` given no plan is used.
        Of the batches, `allowed_batch_sizes` are proven beside `max_batch_size`. Returns when warmed up.

        Raises UserError (manifest, labels, golden samples, model), HashMismatch, DeviceError (no interpreter).
        """
        wanted = read_manifest(directory)
        chosen, note = _plan(directory, wanted, goal if num_threads is None else None)
        labels = None
        if wanted.labels is not None:
            path = os.path.join(directory, wanted.labels)
            labels = classify.parse_labels(_read(path), path)
        samples = None
        if wanted.golden is not None:
            from edgekit_runtime import golden

            samples = golden.read(os.path.join(directory, manifest.GOLDEN), len(wanted.inputs), len(wanted.outputs))
        detector = None
        if wanted.detection is not None:
            from edgekit_runtime import detect

            path = os.path.join(directory, manifest.ANCHORS)
            detector = (wanted.detection, detect.parse_anchors(_read(path), path))
        engine = cls(
            os.path.join(directory, manifest.MODEL),
            preprocess=wanted.preprocess,
            labels=labels,
            task=wanted.task,
            num_threads=num_threads if num_threads is not None else chosen.num_threads,
            max_batch_size=max_batch_size if max_batch_size is not None else chosen.batch_size,
            sha256=wanted.model_sha256,
            crc32=wanted.model_crc32,
            warmup_runs=warmup_runs,
            samples=samples,
            detector=detector,
            xnnpack=xnnpack if xnnpack is not None else chosen.xnnpack,
            num_interpreters=num_interpreters if num_interpreters is not None else chosen.num_interpreters,
            max_ram_mb=wanted.max_ram_mb,
            allowed_batch_sizes=allowed_batch_sizes,
        )
        if (engine.inputs, engine.outputs) != (wanted.inputs, wanted.outputs):
            raise ModelError(
                f"the model in '{directory}' does not have the tensors that its manifest states",
                hint="bundle it again",
                model=[str(spec) for spec in engine.inputs + engine.outputs],
                manifest=[str(spec) for spec in wanted.inputs + wanted.outputs],
            )
        engine.manifest = wanted
        engine.plan_note = note
        return engine

    @classmethod
    def load(
        cls,
        model: Location,
        *,
        preprocess: Optional[Preprocess] = None,
        labels: Optional[Sequence[str]] = None,
        task: str = "raw",
        num_threads: int = 1,
        max_batch_size: int = 1,
        sha256: Optional[str] = None,
        warmup_runs: int = 1,
        detector: Optional[Tuple[Detection, "Floats"]] = None,
        xnnpack: bool = True,
        num_interpreters: int = 1,
        allowed_batch_sizes: Sequence[int] = (),
    ) -> "Engine":
        """Load a bare `.tflite` file; warmed up with seeded noise. `detector` is a detection with its anchors
        (A, 4) float32. Raises as `open` does.
        """
        return cls(
            model,
            preprocess=preprocess,
            labels=labels,
            task=task,
            num_threads=num_threads,
            max_batch_size=max_batch_size,
            sha256=sha256,
            warmup_runs=warmup_runs,
            detector=detector,
            xnnpack=xnnpack,
            num_interpreters=num_interpreters,
            allowed_batch_sizes=allowed_batch_sizes,
        )

    def infer(self, arrays: Sequence[Array]) -> Tuple[Array, ...]:
        """Run N samples. One array (N, ...) for each input and output, in the tensors' stored dtypes.

        N may be anything, 0 too. Samples run in batches of `batch_size`; the last batch is padded and the padding
        cut off. Raises InputError for a wrong count, shape or dtype, InvokeError when the interpreter fails; the
        engine serves the next call either way.
        """
        count = self.count(arrays)
        if count == 0:
            return tuple(np.zeros((0, *batch.least_shape(spec)), spec.dtype) for spec in self.outputs)
        arrays = [np.asarray(array) for array in arrays]  # of a matrix no row is one
        shares = batch.shares(batch.chunks(count, self.batch_size), len(self._pool))
        done = self._pool.each(lambda lane, share: [lane.run([a[part] for a in arrays]) for part in share], shares)
        parts = [part for share in done for part in share]
        return tuple(batch.join([part[number] for part in parts]) for number in range(len(self.outputs)))

    def infer_real(self, arrays: Sequence[Any]) -> Tuple[Floats, ...]:
        """As `infer`, with real values: float32 in and out, quantised and dequantised as the tensors state."""
        self._check_list(arrays)
        stored = [_stored(array, spec) for array, spec in zip(arrays, self.inputs)]
        return tuple(quant.dequantize(out, spec) for out, spec in zip(self.infer(stored), self.outputs))

    def prepare(self, source: Source, *, format: str = "RGB") -> Array:
        """A frame, image file or its bytes as one stored input sample. Raises InputError, ImageError.

        `format` is that of a frame: RGB, BGR, RGBA, BGRA, GRAY, NV12, I420 or YUYV (frame.layout tells the shapes).
        """
        row: Array = self.rows([source], format=format)[0]
        return row

    def rows(self, sources: Sequence[Source], *, format: str = "RGB", out: Optional[Array] = None) -> Array:
        """At least one of what `prepare` takes, as rows (N, ...) in the stored dtype. Raises as that.

        `out`, an earlier answer for as many, is written and given back.
        """
        return self._preprocessor().rows(_listed(sources), format, out)

    def answer(self, source: Source, read: Callable[[List[Array]], Answer], *, format: str = "RGB") -> Answer:
        """What `read` makes of the stored outputs (1, ...) of one picture, which is written into the input tensor.

        The outputs are the interpreter's own memory: `read` keeps none of them. `format` and errors as in `prepare`.
        """
        pictures = self._preprocessor()
        pixels = pictures.pixels(source, format)
        batched = [batch.has_batch(spec) for spec in (*self.inputs, *self.outputs)]

        def write(tensors: List[Array]) -> None:
            pictures.write(pixels, tensors[0])

        def answered(tensors: List[Array]) -> Answer:
            return read([out if has else out[None] for out, has in zip(tensors, batched[1:])])

        shape = pixels.shape[: len(batch.sample_shape(self.inputs[0]))]
        with self._pool.lend() as lane:
            lane.single.resize([(1, *shape) if batched[0] else shape])
            return lane.single.run_within(write, answered)

    def classify(
        self, frames: Sequence[Source], top_k: int = 5, *, format: str = "RGB"
    ) -> Tuple[Tuple["ClassScore", ...], ...]:
        """The best `top_k` classes of each picture, best first; `format` as in `prepare`. Raises as that."""
        frames = _listed(frames)
        if len(frames) == 1:
            return self.answer(frames[0], lambda outputs: self.top_k(outputs[0], top_k), format=format)
        return self.top_k(self.infer([self.rows(frames, format=format)])[0], top_k) if frames else ()

    def top_k(self, scores: Array, k: int = 5) -> Tuple[Tuple["ClassScore", ...], ...]:
        """The best `k` classes of each sample's stored scores (N, ...)."""
        if self.task != "classification":
            raise InputError(f"the model's task is '{self.task}', not classification")
        return tuple(classify.top_k(row, self.outputs[0], k, self.labels) for row in scores)

    def detect(self, frames: Sequence[Source], *, format: str = "RGB") -> Tuple["Detections", ...]:
        """What is in each picture, best first; `format` as in `prepare`. Raises as that."""
        frames = _listed(frames)
        if len(frames) == 1:
            return self.answer(frames[0], self.detections, format=format)
        return self.detections(self.infer([self.rows(frames, format=format)])) if frames else ()

    def detections(self, outputs: Sequence[Array]) -> Tuple["Detections", ...]:
        """What `infer` has found in each sample, from all of its stored outputs."""
        if self._heads is None:
            raise InputError(f"the model's task is '{self.task}', not detection")
        return self._heads.find(outputs)

    @property
    def preprocess(self) -> Optional[Preprocess]:
        """How pictures become the model's input; None for a model that takes arrays alone."""
        return None if self._pictures is None else self._pictures.spec

    @property
    def batch_size(self) -> int:
        """The most samples in one inference."""
        return max(self.batch_sizes, default=1)

    @property
    def plan(self) -> Plan:
        """How it runs."""
        return Plan(self.num_threads, len(self._pool), self.batch_size, self.xnnpack)

    @property
    def num_interpreters(self) -> int:
        """How many inferences run at the same time."""
        return len(self._pool)

    @property
    def findings(self) -> Tuple[str, ...]:
        """Work that whoever gives the frames could spare, of the sizes and formats seen last."""
        return () if self._pictures is None else self._pictures.findings

    def stream(
        self, frames: Iterable[Source], *, top_k: int = 5, format: str = "RGB", in_flight: Optional[int] = None
    ) -> Iterator[Result]:
        """A result for each frame as it comes, in order, while the next ones are prepared: see stream.results."""
        from edgekit_runtime import stream

        return stream.results(self, frames, top_k=top_k, format=format, in_flight=in_flight)

    def class_names(self, found: "Detections") -> Tuple[Optional[str], ...]:
        """The label of each detection's class; None where there is none."""
        if self._heads is None:
            raise InputError(f"the model's task is '{self.task}', not detection")
        from edgekit_runtime import detect

        return tuple(detect.label(self.labels, self._heads.detection, int(kind)) for kind in found.classes)

    def samples(self, count: int) -> List[Array]:
        """`count` rows for each input: the golden samples in turn when there are any, else seeded noise."""
        if self.golden is not None:
            return [rows[np.arange(count) % len(rows)] for rows in self.golden.inputs]
        return batch.noise(self.inputs, count)

    def close(self) -> None:
        """Free the interpreters, once they have ended what they are at; the engine cannot be used afterwards."""
        self._pool.close()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        trace: Optional["TracebackType"],
    ) -> None:
        self.close()

    def _preprocessor(self) -> Preprocessor:
        if self._pictures is None:
            raise InputError("the model has no preprocessing: give arrays in its stored dtype to infer()")
        return self._pictures

    def _warm_up(self, interpreter: Interpreter, runs: int) -> Startup:
        rows = self.samples(max(1, min(runs, 8)))
        times = []
        for turn in range(runs):
            row = turn % len(rows[0])
            started = time.perf_counter()
            batch.run_one(interpreter, [array[row : row + 1] for array in rows])
            times.append((time.perf_counter() - started) * 1e3)
        interpreter.reset()
        return Startup(interpreter.init_ms, times[0], sum(times) / runs, runs)

    def _proven(self, single: Interpreter, sizes: Sequence[int], warmup_runs: int) -> Dict[int, Interpreter]:
        """A warm interpreter for each of the batch sizes; where one is missing, `batch_refused`."""
        proven = {}
        for size in sizes:
            batched = Interpreter(self.model, num_threads=self.num_threads, xnnpack=self.xnnpack)
            # Noise next to the golden samples: a few real ones may well be answered alike.
            some = zip(batch.noise(self.inputs, size), self.samples(size // 2))
            rows = [np.concatenate(both)[-size:] for both in some]
            try:
                batch.prove(single, batched, rows, size)
                batch.check_memory(size, self._max_ram_mb)
            except batch.BatchRefused as refused:
                self.batch_refused = refused
                continue
            finally:
                single.reset()
            for _ in range(warmup_runs - 1):
                batched.run(rows)
            batched.reset()
            proven[size] = batched
        return proven

    def _grow(self, wanted: int, cost_kb: int, warmup_runs: int) -> None:
        """More lanes like the first, warm, as far as there is memory for them."""
        for number in range(2, wanted + 1):
            self.pool_refused = refusal(number, wanted, cost_kb, self._max_ram_mb)
            if self.pool_refused is not None:
                return
            single = Interpreter(self.model, num_threads=self.num_threads, xnnpack=self.xnnpack)
            self._warm_up(single, warmup_runs)
            self._pool.add(Lane(single, self._proven(single, self.batch_sizes, warmup_runs)))

    def count(self, arrays: Sequence[Array]) -> int:
        """The number of samples in `arrays`, one array for each input. Raises InputError as `infer` does."""
        self._check_list(arrays)
        for array, spec in zip(arrays, self.inputs):
            wanted = batch.sample_shape(spec)
            shape = getattr(array, "shape", ())
            same = len(shape) == len(wanted) + 1 and all(w in (-1, g) for w, g in zip(wanted, shape[1:]))
            if not same or array.dtype != spec.dtype or 0 in shape[1:]:
                got = f"{array.dtype} {list(shape)}" if isinstance(array, np.ndarray) else type(array).__name__
                expected = ", ".join(["N", *("any" if size == -1 else str(size) for size in wanted)])
                raise InputError(
                    f"input '{spec.name}': expected {spec.dtype} [{expected}], got {got}",
                    name=spec.name,
                    expected=f"{spec.dtype} [{expected}]",
                    got=got,
                )
        counts = {len(array) for array in arrays}
        if len(counts) != 1:
            raise InputError(f"the inputs hold different numbers of samples: {sorted(counts)}")
        return counts.pop()

    def _check_list(self, arrays: Sequence[Any]) -> None:
        got = len(arrays) if hasattr(arrays, "__len__") else type(arrays).__name__
        if got != len(self.inputs) or isinstance(arrays, (str, bytes, dict, set)):
            names = ", ".join(f"'{spec.name}'" for spec in self.inputs)
            raise InputError(f"expected {len(self.inputs)} input array(s) ({names}), got {got}", got=got)


def _listed(frames: Sequence[Source]) -> Sequence[Source]:
    """Pictures as a list; an array of frames (N, H, W, C) is one, too."""
    if isinstance(frames, np.ndarray) and frames.ndim == 4:
        return list(frames)
    if not isinstance(frames, (list, tuple)):
        raise InputError(
            f"pictures are given as a list, not as {type(frames).__name__}", hint="[picture], also for a single one"
        )
    return frames


def read_manifest(directory: Location) -> Manifest:
    """The manifest of a release directory. Raises UserError (SchemaError when it is not a manifest)."""
    path = os.path.join(directory, manifest.MANIFEST)
    return manifest.loads(_read(path), path)


def _plan(directory: Location, wanted: Manifest, goal: Optional[str]) -> Tuple[Plan, Optional[str]]:
    """The plan to run with, and why a stored one is not used."""
    if goal not in (None, *GOALS):
        raise InputError(f"goal is one of {', '.join(GOALS)}, not '{goal}'")
    tuning, note = stored(directory, wanted.model_sha256) if goal is not None else (None, None)
    if goal is None or tuning is None:
        return Plan(wanted.num_threads, batch_size=wanted.max_batch_size), note
    return tuning.goal(goal), note


def _resident_kb() -> int:
    from edgekit_runtime import environment

    return environment.memory_kb()[0] or 0


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(
            f"cannot read '{path}': {error.strerror}", hint="is this a release directory?", path=path
        ) from error


def _stored(real: Any, spec: TensorSpec) -> Array:
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold saturates with the rest
            if np.iscomplexobj(real):
                raise ValueError("complex numbers")
            return quant.quantize(real, spec)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"input '{spec.name}' is not a regular array of real numbers: {error}") from error
