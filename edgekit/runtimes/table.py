"""Which interpreter runs on which board: one table, one lock per wheel.

Versions, architectures and Pythons are those of the wheels' names. glibc is read from the libraries, since names have
been seen to ask for less than these, and for more. NumPy's range is that of the metadata unless another was tried.
`keep` and `drop` are shell patterns over the names in a wheel: what inference needs was found by tracing an interpreter
that had nothing else (`tests/packaging`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Wheel:
    """One locked version of a package and the boards that its wheels fit.

    `glibc` is the oldest that the wheels' libraries load on; `pythons` and `architectures` are complete: every
    combination has a wheel. `numpy` is the range that an interpreter takes, as a version specifier, and
    `dense_per_channel` says whether it runs FULLY_CONNECTED with a scale for each channel everywhere.
    """

    package: str
    version: str
    architectures: tuple[str, ...]
    pythons: tuple[str, ...]
    glibc: str
    keep: tuple[str, ...]
    drop: tuple[str, ...] = ()
    numpy: str = ""
    dense_per_channel: bool = True

    @property
    def lock(self) -> str:
        """Name of the lock in `edgekit/wheels`."""
        return f"{self.package}-{self.version}.txt"


_LICENSES = ("*.dist-info/METADATA", "*.dist-info/licenses/*", "*.dist-info/LICENSE*")

_LITERT = Wheel(
    package="ai-edge-litert",
    version="2.3.0",
    architectures=("x86_64",),
    pythons=("3.10", "3.11", "3.12", "3.13", "3.14"),
    glibc="2.27",
    # libLiteRt.so is left out: __init__ loads it only where it lies, and no library here needs a symbol of it.
    keep=(
        "ai_edge_litert/__init__.py",
        "ai_edge_litert/interpreter.py",
        "ai_edge_litert/metrics_*.py",
        "ai_edge_litert/_pywrap_litert_interpreter_wrapper.so",
        "ai_edge_litert/libpywrap_litert_common.so",
        *_LICENSES,
    ),
    # Metadata say >=1.23.2, but NumPy 2's headers build for 1.19's interface; all rows were run with 1.19.5 or 1.21.6.
    numpy=">=1.19.5",
)

_LITERT_1 = replace(
    _LITERT,
    version="1.4.0",
    pythons=("3.9", "3.10", "3.11", "3.12"),
    glibc="2.17",
    keep=(
        "ai_edge_litert/__init__.py",
        "ai_edge_litert/interpreter.py",
        "ai_edge_litert/metrics_*.py",
        "ai_edge_litert/_pywrap_tensorflow_interpreter_wrapper.so",
        "ai_edge_litert/libpywrap_litert_common.so",
        "ai_edge_litert/libLiteRtRuntimeCApi.so",
        *_LICENSES,
    ),
)

# Built for NumPy 1: with NumPy 2, and 2.14 with NumPy before 1.23 too, an Interpreter dies with a bare SystemError.
_TFLITE = Wheel(
    package="tflite-runtime",
    version="2.14.0",
    architectures=("aarch64", "armv7l"),
    pythons=("3.8", "3.9", "3.10", "3.11"),
    glibc="2.27",  # the names say 2.34
    keep=(
        "tflite_runtime/__init__.py",
        "tflite_runtime/interpreter.py",
        "tflite_runtime/metrics_*.py",
        "tflite_runtime/_pywrap_tensorflow_interpreter_wrapper.so",
        *_LICENSES,
    ),
    numpy=">=1.23.2,<2",
    dense_per_channel=False,  # on the emulated Cortex-A72 2.14 dies of it
)

# Preferred first.
INTERPRETERS = (
    _LITERT,
    # The wheel's name says 2.27, but its library has symbols of glibc 2.34 (and of GCC 12's libstdc++).
    replace(_LITERT, architectures=("aarch64",), glibc="2.34"),
    _LITERT_1,
    # Likewise 2.17, but symbols of glibc 2.30 (and of GCC 9's libstdc++).
    replace(_LITERT_1, architectures=("aarch64",), glibc="2.30"),
    _TFLITE,
    replace(_TFLITE, architectures=("x86_64",), glibc="2.29"),
    replace(
        _TFLITE,
        version="2.11.0",
        architectures=("aarch64", "armv7l", "x86_64"),
        pythons=("3.7", "3.8", "3.9"),
        glibc="2.27",  # the names say 2.17
        numpy=">=1.16.2,<2",  # metadata say >=1.19.2; it was run with 1.16.2
    ),
)

_NUMPY_KEEP = ("numpy/*", "numpy.libs/*", *_LICENSES)
_NUMPY_DROP = (
    "*/tests/*",
    "numpy/*.pyi",
    "numpy/*.pxd",
    "numpy/*.pyx",
    "numpy/*.h",
    "numpy/*.a",
    "numpy/*/py.typed",
    "numpy/_core/include/*",
    "numpy/_core/lib/*",
    "numpy/_core/_*tests.*.so",
    "numpy/_core/_simd.*.so",
    "numpy/core/include/*",
    "numpy/core/lib/*",
    "numpy/core/_[!m]*_tests.*.so",  # NumPy 1 imports _multiarray_tests
    "numpy/core/_simd.*.so",
    "numpy/_pyinstaller/*",
    "numpy/conftest.py",
    "numpy/distutils/*",
    "numpy/doc/*",
    "numpy/f2py/*",
    "numpy/random/_examples/*",
    "numpy/random/lib/*",
    "numpy/testing/*",
)

_NUMPY = Wheel(
    package="numpy",
    version="2.2.6",
    architectures=("aarch64", "x86_64"),
    pythons=("3.10", "3.11", "3.12", "3.13"),
    glibc="2.17",
    keep=_NUMPY_KEEP,
    drop=_NUMPY_DROP,
)

# The first row that fits is taken: for each Python the newest in the interpreters' ranges. There is none for armv7l.
NUMPY = (
    _NUMPY,
    replace(_NUMPY, version="2.4.6", pythons=("3.14",), glibc="2.27"),
    replace(_NUMPY, version="1.26.4", pythons=("3.9", "3.10", "3.11")),
    replace(_NUMPY, version="1.24.4", pythons=("3.8",)),
    replace(_NUMPY, version="1.21.6", pythons=("3.7",)),
)

# What `edgekit-runtime serve` stands on; inference does not need it. For Pythons before 3.9 there are only releases
# with published vulnerabilities (CVE-2024-49768, CVE-2024-49769: fixed in 3.0.1): such boards do without.
SERVERS = (
    Wheel(
        package="waitress",
        version="3.0.2",
        architectures=("aarch64", "armv7l", "x86_64"),
        pythons=("3.9", "3.10", "3.11", "3.12", "3.13", "3.14"),
        glibc="2.17",
        keep=("waitress/*", *_LICENSES),
    ),
)

WHEELS = (*INTERPRETERS, *NUMPY, *SERVERS)
