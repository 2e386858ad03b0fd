"""The Engine: one model, warmed up and ready, for one sample or many."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Callable, Iterable, Iterator, List, Optional, Sequence, Tuple, Type

import numpy as np

from edgekit_runtime import batch, classify, manifest, quant
from edgekit_runtime.errors import InputError
from edgekit_runtime.integrity import ModelError, verify
from edgekit_runtime.interpreter import Answer, find
from edgekit_runtime.manifest import Detection, Manifest, Preprocess, TensorSpec
from edgekit_runtime.plan import Plan, choose, require_count, require_sizes
from edgekit_runtime.pool import Maker, Pool, PoolRefused, refusal
from edgekit_runtime.preprocess import Preprocessor, listed
from edgekit_runtime.resize import Scratch

if TYPE_CHECKING:
    from types import TracebackType

    from edgekit_runtime.classify import ClassScore
    from edgekit_runtime.detect import Detections, Heads
    from edgekit_runtime.golden import GoldenSamples
    from edgekit_runtime.integrity import Location
    from edgekit_runtime.preprocess import Source
    from edgekit_runtime.quant import Array, Floats
    from edgekit_runtime.stream import Result


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
        require_count("num_threads", num_threads)
        require_count("max_batch_size", max_batch_size)
        require_count("warmup_runs", warmup_runs)
        require_count("num_interpreters", num_interpreters)
        require_sizes(allowed_batch_sizes)
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
        maker = Maker(self.model, num_threads, xnnpack, warmup_runs, max_ram_mb, self.samples)
        first = maker.interpreter()
        self.signature = first.signature
        self.inputs: Tuple[TensorSpec, ...] = first.inputs
        self.outputs: Tuple[TensorSpec, ...] = first.outputs
        self._pictures = None if preprocess is None else Preprocessor(preprocess, self.inputs)
        self._scratch = Scratch()
        self._heads = self._detector(detector)
        if samples is not None:
            self.count(samples.inputs)
        self.startup = maker.warm_up(first)
        lane, self.batch_refused = maker.lane(first, sorted({max_batch_size, *allowed_batch_sizes} - {1}))
        self.batch_sizes = tuple(lane.batched)
        self.pool_refused: Optional[PoolRefused] = None
        self._pool = Pool()
        self._pool.add(lane)
        if num_interpreters > 1:
            # Memory that was freed before is used again and does not show: the weights are packed in any case.
            cost_kb = max(_resident_kb() - before_kb, os.path.getsize(self.model) // 1024)
            self._grow(maker, num_interpreters, cost_kb)

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
        wanted = manifest.read(directory)
        default = Plan(wanted.num_threads, batch_size=wanted.max_batch_size)
        chosen, note = choose(directory, default, wanted.model_sha256, goal if num_threads is None else None)
        labels, samples, detector = _members(directory, wanted)
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
        batch.require_list(arrays, self.inputs)
        stored = [quant.store(array, spec) for array, spec in zip(arrays, self.inputs)]
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
        return self._preprocessor().rows(listed(sources), format, out)

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
        require_count("top_k", top_k, None)
        return self._answers(frames, lambda outputs: self.top_k(outputs[0], top_k), format)

    def top_k(self, scores: Array, k: int = 5) -> Tuple[Tuple["ClassScore", ...], ...]:
        """The best `k` classes of each sample's stored scores (N, ...)."""
        if self.task != "classification":
            raise InputError(f"the model's task is '{self.task}', not classification")
        return tuple(classify.top_k(row, self.outputs[0], k, self.labels) for row in scores)

    def detect(self, frames: Sequence[Source], *, format: str = "RGB") -> Tuple["Detections", ...]:
        """What is in each picture, best first; `format` as in `prepare`. Raises as that."""
        return self._answers(frames, self.detections, format)

    def _answers(
        self, frames: Sequence[Source], read: Callable[[Sequence[Array]], Tuple[Answer, ...]], format: str
    ) -> Tuple[Answer, ...]:
        """What `read` makes of each picture, as many at once as there are places, in a buffer of this thread."""
        frames, places = listed(frames), self.batch_size * len(self._pool)
        found: List[Answer] = []
        for start in range(0, len(frames), places):
            part = frames[start : start + places]
            if len(part) == 1:
                found += self.answer(part[0], read, format=format)
            else:
                rows = self._scratch.once("rows", lambda: self._preprocessor().empty(places))[: len(part)]
                found += read(self.infer([self.rows(part, format=format, out=rows)]))
        return tuple(found)

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

    def _detector(self, detector: Optional[Tuple[Detection, "Floats"]]) -> Optional[Heads]:
        """What reads a detector's outputs. Raises UserError when labels or outputs do not fit the task."""
        if self.task == "classification" and self.labels is not None:
            classify.check_labels(self.labels, self.outputs[0])
        if detector is not None and self.preprocess is not None and self.preprocess.resize != "stretch":
            raise InputError(
                f"a detector whose pictures are made to fit by '{self.preprocess.resize}': its boxes would be shares "
                "of what the model sees, not of the picture",
                hint="convert it with resize = 'stretch'",
            )
        if (self.task == "detection") != (detector is not None):
            raise InputError("a detector, and nothing else, has the task 'detection'")
        if detector is None:
            return None
        from edgekit_runtime import detect

        return detect.heads(*detector, self.outputs, self.labels)

    def _preprocessor(self) -> Preprocessor:
        if self._pictures is None:
            raise InputError("the model has no preprocessing: give arrays in its stored dtype to infer()")
        return self._pictures

    def _grow(self, maker: Maker, wanted: int, cost_kb: int) -> None:
        """More lanes like the first, warm, as far as there is memory for them."""
        for number in range(2, wanted + 1):
            self.pool_refused = refusal(number, wanted, cost_kb, maker.max_ram_mb)
            if self.pool_refused is not None:
                return
            single = maker.interpreter()
            maker.warm_up(single)
            lane, refused = maker.lane(single, self.batch_sizes)
            self.batch_refused = refused or self.batch_refused
            self._pool.add(lane)

    def count(self, arrays: Sequence[Array]) -> int:
        """The number of samples in `arrays`, one array for each input. Raises InputError as `infer` does."""
        return batch.count_samples(arrays, self.inputs)


def _members(
    directory: Location, wanted: Manifest
) -> Tuple[Optional[Sequence[str]], Optional[GoldenSamples], Optional[Tuple[Detection, "Floats"]]]:
    """Labels, golden samples and the detector of a release, as far as its manifest has them. Raises UserError."""
    labels = samples = detector = None
    if wanted.labels is not None:
        labels = classify.parse_labels(*manifest.member(directory, wanted.labels))
    if wanted.golden is not None:
        from edgekit_runtime import golden

        samples = golden.read(os.path.join(directory, manifest.GOLDEN), len(wanted.inputs), len(wanted.outputs))
    if wanted.detection is not None:
        from edgekit_runtime import detect

        detector = (wanted.detection, detect.parse_anchors(*manifest.member(directory, manifest.ANCHORS)))
    return labels, samples, detector


def _resident_kb() -> int:
    from edgekit_runtime import environment

    return environment.memory_kb()[0] or 0
