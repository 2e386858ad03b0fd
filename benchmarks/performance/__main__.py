"""What edgekit's runtime costs beside bare inference, and beside other ways: writes docs/performance.md.

`.venv/bin/python -m benchmarks.performance` needs the models and data beside the repository in ../shared, and a package
index once: each of the other ways gets an environment of its own in ~/.cache/edgekit/peers. `--quick` prints a rough
page instead.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from edgekit_runtime import environment

from benchmarks.performance import sections, subjects
from edgekit.conversion.key import computer

PAGE = Path(__file__).parents[2] / "docs/performance.md"
SECTIONS = {
    "overhead": sections.overhead,
    "ends": sections.ends,
    "cameras": sections.cameras,
    "files": sections.files,
    "cold": sections.cold,
    "variance": sections.variance,
    "tuned": sections.tuned,
}


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    effort = sections.QUICK if quick else sections.FULL
    load, begun = os.getloadavg()[0], time.monotonic()
    versions = sections.versions()
    with tempfile.TemporaryDirectory() as folder:
        made = subjects.make(Path(folder))
        found = {}
        for name, section in SECTIONS.items():
            found[name] = section(made, effort)
            print(f"\n{time.monotonic() - begun:.0f} s: {name}\n{found[name]}", file=sys.stderr, flush=True)
    here = environment.read()
    page = TEXT.format(
        **found,
        cpu=here.cpu,
        cores=here.cores,
        load=load,
        python=".".join(map(str, sys.version_info[:3])),
        tensorflow=computer()["versions"]["tensorflow"],
        versions="\n".join(f"- {name}: {packages}" for name, packages in versions.items()),
        rounds=effort.rounds,
        runs=effort.runs,
        processes=effort.processes,
        minutes=(time.monotonic() - begun) / 60,
        mode="**A quick run, to see the page's shape: its figures are no evidence.** " if quick else "",
    )
    if quick:
        print(page)
    else:
        PAGE.write_text(page, "utf-8")


TEXT = """# What a frame costs beside bare inference, and beside other ways

<!-- Written by benchmarks/performance: change it there. -->

{mode}What counts are the ratios: each is the median over the rounds of one ratio of two medians, taken next to each
other. Milliseconds stand beside them for their size only. {rounds} rounds of {runs} runs each (a round before them
warms up), in each round every way in turn, forwards and then backwards; all in one run of {minutes:.0f} minutes. {cpu},
{cores} cores, a load of {load:.1f} before it began (above 0.5 others computed, too); Python {python}, TensorFlow
{tensorflow}.

```console
$ .venv/bin/python -m benchmarks.performance
```

Each way has a process and an environment of its own, and times itself there:

{versions}

edgekit runs in `litert`, and with OpenCV in `opencv`. Nobody is tuned beyond what its documentation shows, and
everything that can be made once is made before the clock runs (`benchmarks/performance/contestants.py`). MobileNetV2 is
the quantised file that Coral publishes, uint8 at both ends, and the same for all; the others were converted by edgekit,
int8 at both ends as its profiles say. MediaPipe and the Task Library refuse int8 inputs, and the script gives it
pixels: they and OpenVINO get these models from the same calibration, with uint8 in and float32 out. MediaPipe and the
Task Library want metadata besides, and get a copy that has them.

## A frame of the model's size

From a uint8 RGB frame to the best five classes (`engine.classify`) or the boxes (`engine.detect`), against `invoke()`
of another interpreter of the same model in the same process, by turns of ten; three processes each, one thread and all
cores. Goals: at most 1.02 for models above 2 ms, at most 60 us for smaller ones.

{overhead}

What edgekit adds is done in one thread, however many the interpreter has; right after an inference none of its code is
in the processor's caches, so that it takes several times what the parts named take in a loop of their own. The detector
as exported counts all boxes (a threshold of 1e-8); with one of 0.5 it does what a user asks for. Selecting boxes is not
part of its `invoke()`: [what that costs](detection.md).

## The ends of a model

A uint8 input costs an operator QUANTIZE, and a float32 output a DEQUANTIZE, which other converters often leave in.
Profiles ask for int8 at both ends instead: a frame's pixels are stored by flipping one bit, and only what is asked for
becomes a real number. Bare `invoke()` of the same models with either, one thread:

{ends}

## A camera's frame

From a frame of 1280x720 or 1920x1080 to the same answer, to `invoke()` in one thread. edgekit does it with NumPy alone
(what its filter `linear` needs), with OpenCV (the same bits), and with Pillow's `bilinear`, which reads every pixel.
MediaPipe, OpenVINO and the script take RGB only: of NV12 their user's `cv2.cvtColor` is counted. MediaPipe has no
setting for threads, and OpenCV keeps its own default for edgekit and for the others. OpenVINO and the script resize
with Pillow, as their examples do (the script with Pillow's own default, bicubic). The answer is the class's index (or
how many boxes of 0.5 or more), with the number of ways that gave it: where filters differ, so may it. Also with more
threads the figures are ratios to `invoke()` in one. Of the others only MediaPipe decodes a detector's raw heads: the
Task Library wants the operator TFLite_Detection_PostProcess in the file, and OpenVINO and the script come with nothing
that makes boxes. Goals are for MobileNetV2: at most 1.20 with NumPy, 1.05 with OpenCV. They are met or missed by
`linear`, which is not the default: convert declares `bilinear` unless told otherwise, because four pixels for each of
the model's cost accuracy where pictures shrink much ([how much](preprocessing.md)). Scaling costs the same however fast
a processor infers: an earlier run, where a bare `invoke()` took 3.2 ms, had 1.25 and 1.14, and MediaPipe 1.37.

{cameras}

## JPEG files

Real pictures scaled to the size and kept as JPEG (quality 90), four in turn, with MobileNetV1 0.25 224. The seed
pipeline is `tf.io.read_file`, `decode_jpeg`, `tf.image.resize`, `/255` and a SavedModel in float32, in TensorFlow. The
way from there to edgekit has three steps, and each one's part is named: preprocessing (a JPEG decoded no larger than
needed, `linear`), INT8 in a TFLite interpreter, and the plan that `tune` finds for throughput on that computer, with
`stream`, which prepares the next pictures beside it.

{files}

## From nothing to the first result

From the start of a process to its first class, `Engine.open` and `classify` against the smallest script that does the
same: one interpreter, one warm-up run, one frame, `argsort`. Both peaks are of resident memory. {processes} fresh
processes of each, in turns. Goals: at most 1.10, and at most 4 MiB more.

{cold}

The script needs NumPy, ai-edge-litert, an interpreter and a frame, too; the rest is edgekit's: the manifest is read
strictly, the model compared with its CRC-32 (its SHA-256 was when the release was installed), and the golden inputs are
there to be warmed up with and replayed.

## How even the times are

The first runs of fresh processes, medians of them.

{variance}

## The plan

`edgekit-runtime tune` beside the interpreter's default (one thread), `num_threads` = all cores, and the best of every
plan with no more threads than cores: samples a second, each plan measured by turns. A batch counts only where it was
proven.

{tuned}
"""


if __name__ == "__main__":
    main()
