"""The chain from Python: a Keras model and a folder of pictures to a measured release on a board.

    python examples/deploy.py MODEL PICTURES [BOARD [PROFILE]]

BOARD is `embedded` unless given; its host key must be trusted (`edgekit trust BOARD`).
"""

import sys
from pathlib import Path

import edgekit


def main(model: str, pictures: str, board_name: str = "embedded", profile_name: str = "host") -> None:
    prepared = edgekit.prepare(
        Path(model),
        profile=edgekit.find_profile(profile_name),
        data=Path(pictures),
        output=Path("example-output"),
        declaration=edgekit.declare(task="classification", range="-1..1"),
    )
    print(f"INT8 is {prepared.conversion.float_size / prepared.conversion.model_size:.1f} times smaller than float")
    with edgekit.connect(board_name) as link:
        done = edgekit.deliver(prepared, edgekit.open_board(link))
    latency = done.bench.latency
    print(f"{done.board}: release {done.release[:12]}, median {latency.median_ms:.3f} ms, p99 {latency.p99_ms:.3f} ms")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except edgekit.EdgekitError as error:
        sys.exit(f"{error.message}\nhint: {error.hint}" if error.hint else error.message)
