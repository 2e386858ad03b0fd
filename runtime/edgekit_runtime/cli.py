"""`edgekit-runtime run | serve | bench | tune | check | info`.

Standard output is data, standard error is talk. NumPy and the interpreter are imported by the commands that need them.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from edgekit_runtime import __version__, environment, manifest, schema
from edgekit_runtime.errors import DeviceError, EdgekitError, UserError

if TYPE_CHECKING:
    from edgekit_runtime.benchreport import BenchReport
    from edgekit_runtime.engine import Engine

PROGRAM = "edgekit-runtime"
# Whoever waits for a long soak hears of it so often, and does not take the board for dead.
SOAK_SAYS_S = 30.0


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the command line; the exit code: 0, 1 check failed, 2 wrong input, 3 board."""
    arguments = _parser().parse_args(argv)
    if arguments.command is None:
        _parser().print_help(sys.stderr)
        return 2
    try:
        arguments.command(arguments)
        return 0
    except EdgekitError as error:
        print(f"{PROGRAM}: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        if getattr(arguments, "json", False):
            print(json.dumps(error.to_dict()))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has left; say nothing more, at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Run, serve, measure and check TFLite releases.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="COMMAND")

    run = _command(commands, "run", _run, "classify pictures, or run them through the model")
    run.add_argument("sources", nargs="+", metavar="FILE", help="a picture, or an .npy of frames or real samples")
    _flag(run, "top_k", type=int, default=5, help="classes to show (5)")
    run.add_argument("--raw", type=Path, metavar="OUT.npz", help="write the outputs' real values here")
    _flag(run, "num_threads", type=int, help="threads (the release's)")
    _flag(run, "batch_size", type=int, help="samples for each inference (the release's)")

    serve = _command(commands, "serve", _serve, "answer TensorFlow Serving's REST requests")
    serve.add_argument("--socket", type=Path, metavar="PATH", help="listen on a Unix socket")
    serve.add_argument("--host", default="127.0.0.1", help="listen on this address (127.0.0.1)")
    serve.add_argument("--port", type=int, default=8501, help="and port; 0 takes a free one (8501)")
    serve.add_argument("--name", help="the model's name in the paths (the release's)")
    _flag(serve, "allow_remote", action="store_true", help="permit an address that others can reach")
    _flag(serve, "max_request_mb", type=float, default=32.0, help="largest request in MiB (32)")
    _flag(serve, "num_threads", type=int, help="threads of one inference (the release's)")
    _flag(serve, "batching_parameters_file", type=Path, metavar="FILE", help="as tensorflow_model_server has it")

    bench = _command(commands, "bench", _bench, "measure latency, throughput and memory")
    bench.add_argument("--model", "--graph", type=Path, metavar="FILE.tflite", help="a bare model, not a release")
    _flag(bench, "num_threads", type=int, help="threads (the release's, or 1)")
    _flag(bench, "num_runs", type=int, default=50, help="at least so many runs (50)")
    _flag(bench, "min_secs", type=float, default=1.0, help="and at least so long (1)")
    _flag(bench, "max_secs", type=float, default=150.0, help="but not longer (150)")
    _flag(bench, "warmup_runs", type=int, default=1, help="warm-up runs, likewise (1)")
    _flag(bench, "warmup_min_secs", type=float, default=0.5, help="(0.5)")
    _flag(bench, "batch_size", type=int, default=1, help="samples for each run (1)")
    _flag(bench, "frame", metavar="WxH[:FORMAT]", help="the frames that come in, as 1920x1080:NV12 (the model's, RGB)")
    _flag(bench, "soak", type=int, default=0, metavar="N", help="then N inferences: does memory grow?")
    _flag(bench, "result_json", type=Path, metavar="FILE", help="write the report here too")

    tune = _command(commands, "tune", _tune, "measure threads, interpreters, batch and delegate; keep the best plan")
    tune.add_argument("--model", type=Path, metavar="FILE.tflite", help="a bare model: nothing is kept")
    _flag(tune, "max_secs", type=float, default=40.0, help="not much longer than this (40)")

    check = _command(commands, "check", _check, "load the release, replay its golden inputs, compare")
    _flag(check, "batch_size", type=int, help="prove this batch (the release's)")
    _flag(check, "no_xnnpack", action="store_true", help="with TFLite's own kernels only")
    _command(commands, "info", _info, "this board, its software and the release")
    return parser


def _command(commands: Any, name: str, call: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(command=call)
    parser.add_argument("--release", type=Path, metavar="DIR", help="the release's folder (or $EDGEKIT_RELEASE)")
    parser.add_argument("--json", action="store_true", help="answer in JSON")
    return parser


def _flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """A flag that may be spelt with - or, as TFLite's tools do, with _."""
    parser.add_argument(f"--{name.replace('_', '-')}", f"--{name}", dest=name, **options)


def _release(arguments: argparse.Namespace) -> Path:
    found = _release_or_none(arguments)
    if found is None:
        raise UserError("which release?", hint="say --release DIR or set EDGEKIT_RELEASE")
    return found


def _release_or_none(arguments: argparse.Namespace) -> Optional[Path]:
    named: Optional[Path] = arguments.release
    from_environment = os.environ.get("EDGEKIT_RELEASE")
    return named or (Path(from_environment) if from_environment else None)


def _need_numpy() -> None:
    try:
        import numpy  # noqa: F401 - only to see whether it is there
    except ImportError as error:
        raise DeviceError(f"NumPy cannot be imported: {error}", hint="bundle with NumPy, or install it") from error


def _open(arguments: argparse.Namespace) -> Engine:
    _need_numpy()
    from edgekit_runtime.engine import Engine

    return Engine.open(_release(arguments), num_threads=arguments.num_threads, max_batch_size=arguments.batch_size)


def _run(arguments: argparse.Namespace) -> None:
    with _open(arguments) as engine:
        from edgekit_runtime import runner

        if engine.batch_refused is not None:
            _say(f"one sample at a time: {engine.batch_refused.message}")
        if engine.plan_note is not None:
            _say(engine.plan_note)
        results = runner.run(engine, arguments.sources, arguments.top_k)
        if arguments.raw is not None:
            results = iter(runner.write_npz(arguments.raw, results))
        if arguments.json:
            print(json.dumps([runner.to_dict(result) for result in results]))
            return
        for result in results:
            for line in runner.lines(result, arguments.top_k):
                print(line)


def _serve(arguments: argparse.Namespace) -> None:
    _need_numpy()
    from edgekit_runtime import batcher, serve
    from edgekit_runtime.engine import Engine

    if not 0 <= arguments.port <= 65535:
        raise UserError(f"--port {arguments.port} is not between 0 and 65535")
    if not arguments.max_request_mb > 0:
        raise UserError("--max-request-mb is above 0")
    directory = _release(arguments)
    wanted = manifest.read(directory)
    name = arguments.name or wanted.name
    file = arguments.batching_parameters_file
    batching = batcher.Parameters() if file is None else batcher.read_parameters(file)

    def open_engine() -> Engine:
        engine = Engine.open(
            directory,
            num_threads=arguments.num_threads,
            max_batch_size=batching.max_batch_size,
            allowed_batch_sizes=batching.allowed_batch_sizes,
            goal="throughput",
        )
        if engine.plan_note is not None:
            _say(engine.plan_note)
        _settle()
        if engine.batch_refused is not None and file is not None:
            raise engine.batch_refused
        if engine.batch_refused is not None:
            _say(f"one sample at a time: {engine.batch_refused.message}")
        return engine

    serve.serve(
        name,
        open_engine,
        serve.Address(arguments.socket, arguments.host, arguments.port, arguments.allow_remote),
        batching=None if file is None else batching,
        max_request_bytes=int(arguments.max_request_mb * (1 << 20)),
        listening=lambda where: _say(f"listening on {where}, warming up '{name}'"),
        ready=lambda: _say(f"'{name}' is available"),
    )
    _say("drained, bye")


def _bench(arguments: argparse.Namespace) -> None:
    _need_numpy()
    from edgekit_runtime import bench, benchreport

    options = bench.Options(
        num_runs=arguments.num_runs,
        min_secs=arguments.min_secs,
        max_secs=arguments.max_secs,
        warmup_runs=arguments.warmup_runs,
        warmup_min_secs=arguments.warmup_min_secs,
        batch_size=arguments.batch_size,
        num_threads=arguments.num_threads,
        soak=arguments.soak,
        frame=arguments.frame,
    )
    if arguments.model is not None and arguments.release is not None:
        raise UserError("give either --release or --model")
    release = None if arguments.model is not None else _release(arguments)
    said = time.monotonic()

    def soaking(done: int) -> None:
        nonlocal said
        if time.monotonic() - said >= SOAK_SAYS_S:
            said = time.monotonic()
            _say(f"soak: {done} of {options.soak}")

    _settle()
    report = bench.run(options, release=release, model=arguments.model, soaking=soaking)
    text = benchreport.dumps(report)
    if arguments.result_json is not None:
        _write(arguments.result_json, text)
    if arguments.json:
        print(text, end="")
        return
    for line in _bench_lines(report):
        print(line)


def _bench_lines(report: BenchReport) -> List[str]:
    latency, memory = report.latency, report.memory
    average = latency.avg_ms * 1e3
    lines = [
        f"{report.model}: {report.num_threads} thread(s), batch {report.batch_size}, {latency.num_runs} runs, "
        f"{report.inputs} inputs",
        f"Inference timings in us: Init: {latency.init_ms * 1e3:.0f}, First inference: {latency.first_ms * 1e3:.0f}, "
        f"Warmup (avg): {latency.warmup_avg_ms * 1e3:.1f}, Inference (avg): {average:.1f}",
        f"latency in ms: min {latency.min_ms:.3f}, median {latency.median_ms:.3f}, p90 {latency.p90_ms:.3f}, "
        f"p99 {latency.p99_ms:.3f}, max {latency.max_ms:.3f}, std {latency.std_ms:.3f}",
        f"throughput: {report.throughput_per_s:.1f} samples/s",
    ]
    if memory.init_footprint_kb is not None and memory.overall_footprint_kb is not None:
        lines.append(
            f"Memory footprint delta from the start of the tool (MB): init={memory.init_footprint_kb / 1024:.2f} "
            f"overall={memory.overall_footprint_kb / 1024:.2f}"
        )
    if report.stages.preprocess_ms is not None:
        lines.append(f"a frame of {report.frame or 'its size'} to the input: {report.stages.preprocess_ms:.3f} ms")
    lines += [f"finding: {finding}" for finding in report.findings]
    if report.plan is not None:
        lines.append(f"plan {report.plan}")
    if report.throughput_plan is not None:
        lines.append(f"throughput plan, a sample {report.throughput_plan}")
    if report.soak is not None:
        lines.append(f"memory {report.soak}")
    lines += [f"INVALID: {reason}" for reason in report.validity.reasons]
    return lines + [f"warning: {warning}" for warning in report.validity.warnings]


def _tune(arguments: argparse.Namespace) -> None:
    _need_numpy()
    from edgekit_runtime import plan, tune
    from edgekit_runtime.engine import Engine

    if arguments.model is not None and arguments.release is not None:
        raise UserError("give either --release or --model")
    directory = None if arguments.model is not None else _release(arguments)
    default = plan.Plan(1)
    if directory is not None:
        wanted = manifest.read(directory)
        default = plan.Plan(wanted.num_threads, batch_size=wanted.max_batch_size)

    def open_engine(one: plan.Plan) -> Engine:
        how: Any = {"num_threads": one.num_threads, "max_batch_size": one.batch_size, "xnnpack": one.xnnpack}
        if directory is None:
            return Engine.load(arguments.model, num_interpreters=one.num_interpreters, **how)
        return Engine.open(directory, num_interpreters=one.num_interpreters, goal=None, **how)

    found = tune.tune(open_engine, default, max_secs=arguments.max_secs, progress=lambda one: _say(str(one)))
    for warning in found.warnings:
        _say(f"warning: {warning}")
    if found.invalid is not None:
        _say(f"no plan is kept: {found.invalid}")
    elif directory is not None:
        plan.store(directory, found)
    if arguments.json:
        print(schema.dump_json(found), end="")
        return
    for goal in plan.GOALS:
        print(f"{goal}: {found.of(found.goal(goal))} (default {found.of(found.default)})")


def _check(arguments: argparse.Namespace) -> None:
    _need_numpy()
    from edgekit_runtime import check

    found = check.check(_release(arguments), max_batch_size=arguments.batch_size, xnnpack=not arguments.no_xnnpack)
    if arguments.json:
        print(schema.dump_json(found), end="")
        return
    print(f"model {found.model}\nruntime {found.runtime}\ninit_ms {found.init_ms}\ngolden {found.golden}")
    for output in found.outputs:
        board, host = output.board, output.host
        steps = "-" if output.max_steps is None else f"{output.max_steps:g}"
        print(
            f"output {board.output} cosine {board.cosine:.6f} host {host.cosine:.6f} mean_abs {board.mean_abs:.6g} "
            f"host {host.mean_abs:.6g} max_abs {board.max_abs:.6g} steps {steps}"
        )
    print(f"batch_size {found.batch_size}" + (f" {found.batch_refused}" if found.batch_refused else ""))
    if found.top1_agreement is not None:
        print(f"top1_agreement {found.top1_agreement:.4f}")
    print("result ok")


def _info(arguments: argparse.Namespace) -> None:
    facts = schema.plain(environment.read())
    facts["sensors"] = schema.plain(environment.sensors())
    facts["edgekit_runtime"] = __version__
    directory = _release_or_none(arguments)
    if directory is not None:
        wanted = manifest.read(directory)
        facts["release"] = {"name": wanted.name, "task": wanted.task, "profile": wanted.profile}
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            for inner, item in value.items():
                print(f"{key}.{inner} {'-' if item is None else item}")
        else:
            print(f"{key} {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return " ".join(value) or "-"
    return "-" if value is None else str(value)


def _settle() -> None:
    """What is there now stays: the garbage collector need not look through it again between two frames."""
    gc.collect()
    gc.freeze()


def _say(sentence: str) -> None:
    print(f"{PROGRAM}: {sentence}", file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        os.replace(str(part), str(path))
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}", path=str(path)) from error
