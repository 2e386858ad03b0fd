"""Edge device deployment kit: every verb of the command line as a function.

    from pathlib import Path
    import edgekit

    pi = edgekit.find_profile("raspberry-pi-4b")
    edgekit.convert(Path("model.keras"), profile=pi, data=Path("pictures"), output=Path("model.tflite"),
                    declaration=edgekit.declare(range="-1..1"))
    edgekit.pack(Path("model.tflite"), pi, Path("model.ekb"))
    with edgekit.connect("pi@raspberrypi.local") as link:
        board = edgekit.open_board(link)
        pushed = edgekit.push(board, edgekit.open_bundle(Path("model.ekb")))
        edgekit.activate(board, pushed.release_id)
        print(edgekit.bench(board).latency.median_ms)

Modules are loaded when a name is first used, so that importing edgekit costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.board import Board as Board
    from edgekit.board import activate as activate
    from edgekit.board import bench as bench
    from edgekit.board import bench_file as bench_file
    from edgekit.board import facts as facts
    from edgekit.board import open_board as open_board
    from edgekit.board import predict as predict
    from edgekit.board import probe as probe
    from edgekit.board import push as push
    from edgekit.board import rollback as rollback
    from edgekit.board import status as status
    from edgekit.board import tune as tune
    from edgekit.bundles.bundle import Bundle as Bundle
    from edgekit.bundles.bundle import open_bundle as open_bundle
    from edgekit.bundles.packing import pack as pack
    from edgekit.conversion.cache import default as conversion_cache
    from edgekit.conversion.checkup import examine as examine_calibration
    from edgekit.conversion.convert import convert as convert
    from edgekit.conversion.convert import convert_many as convert_many
    from edgekit.conversion.record import Conversion as Conversion
    from edgekit.datasets.dataset import RepresentativeDataset as RepresentativeDataset
    from edgekit.datasets.dataset import open_dataset as open_dataset
    from edgekit.datasets.declaration import Declaration as Declaration
    from edgekit.datasets.declaration import declare as declare
    from edgekit.datasets.declaration import load as load_declaration
    from edgekit.deployment import Deployment as Deployment
    from edgekit.deployment import deliver as deliver
    from edgekit.deployment import prepare as prepare
    from edgekit.errors import CheckFailed as CheckFailed
    from edgekit.errors import DeviceError as DeviceError
    from edgekit.errors import EdgekitError as EdgekitError
    from edgekit.errors import UserError as UserError
    from edgekit.models.inspection import inspect as inspect
    from edgekit.profiles.profile import DeviceProfile as DeviceProfile
    from edgekit.profiles.profile import find as find_profile
    from edgekit.runtimes.resolve import fetch as fetch
    from edgekit.runtimes.resolve import resolve as resolve
    from edgekit.transport import connect as connect
    from edgekit.transport import host_key as host_key
    from edgekit.transport import remember as trust
    from edgekit.validation.validate import Thresholds as Thresholds
    from edgekit.validation.validate import Validation as Validation
    from edgekit.validation.validate import check as check_thresholds
    from edgekit.validation.validate import validate as validate
    from edgekit.validation.validate import validate_conversion as validate_conversion

__version__ = "0.1.0"

# Public name -> (module, name there).
_PUBLIC = {
    "Board": ("board", "Board"),
    "Bundle": ("bundles.bundle", "Bundle"),
    "CheckFailed": ("errors", "CheckFailed"),
    "Conversion": ("conversion.record", "Conversion"),
    "Declaration": ("datasets.declaration", "Declaration"),
    "Deployment": ("deployment", "Deployment"),
    "DeviceError": ("errors", "DeviceError"),
    "DeviceProfile": ("profiles.profile", "DeviceProfile"),
    "EdgekitError": ("errors", "EdgekitError"),
    "RepresentativeDataset": ("datasets.dataset", "RepresentativeDataset"),
    "Thresholds": ("validation.validate", "Thresholds"),
    "UserError": ("errors", "UserError"),
    "Validation": ("validation.validate", "Validation"),
    "activate": ("board", "activate"),
    "bench": ("board", "bench"),
    "bench_file": ("board", "bench_file"),
    "check_thresholds": ("validation.validate", "check"),
    "connect": ("transport", "connect"),
    "conversion_cache": ("conversion.cache", "default"),
    "convert": ("conversion.convert", "convert"),
    "convert_many": ("conversion.convert", "convert_many"),
    "declare": ("datasets.declaration", "declare"),
    "deliver": ("deployment", "deliver"),
    "examine_calibration": ("conversion.checkup", "examine"),
    "facts": ("board", "facts"),
    "fetch": ("runtimes.resolve", "fetch"),
    "find_profile": ("profiles.profile", "find"),
    "host_key": ("transport", "host_key"),
    "inspect": ("models.inspection", "inspect"),
    "load_declaration": ("datasets.declaration", "load"),
    "open_board": ("board", "open_board"),
    "open_bundle": ("bundles.bundle", "open_bundle"),
    "open_dataset": ("datasets.dataset", "open_dataset"),
    "pack": ("bundles.packing", "pack"),
    "predict": ("board", "predict"),
    "prepare": ("deployment", "prepare"),
    "probe": ("board", "probe"),
    "push": ("board", "push"),
    "resolve": ("runtimes.resolve", "resolve"),
    "rollback": ("board", "rollback"),
    "status": ("board", "status"),
    "tune": ("board", "tune"),
    "trust": ("transport", "remember"),
    "validate": ("validation.validate", "validate"),
    "validate_conversion": ("validation.validate", "validate_conversion"),
}


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    return getattr(import_module(f"edgekit.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
