"""A profile is read strictly, and found along a search path."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path
from typing import Any

import pytest
from edgekit_runtime import schema
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import UserError
from edgekit.profiles import profile
from edgekit.profiles.profile import ABIS, DeviceProfile

PACKAGED = sorted(path.stem for path in profile.packaged().glob("*.toml"))


def toml(values: dict[str, Any]) -> str:
    """Flat TOML; JSON's strings and numbers are TOML's too."""
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items() if value is not None
    )


@pytest.fixture
def good() -> dict[str, Any]:
    plain: dict[str, Any] = schema.plain(profile.find("raspberry-pi-4b"))
    return plain


@pytest.fixture(autouse=True)
def no_user_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(profile.ENVIRONMENT, raising=False)


def write(folder: Path, values: dict[str, Any], name: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name or values['name']}.toml"
    path.write_text(toml(values), encoding="utf-8")
    return path


class TestPackaged:
    def test_there_are_boards_of_both_architectures_generic_ones_and_this_computer(self) -> None:
        raspberries = ["3b-plus", "3b-plus-32bit", "4b", "4b-32bit", "5", "zero-2-w"]
        others = ["beagleplay", "coral-dev-board", "imx8mp-evk", "jetson-orin-nano", "rock-5b"]
        generic = ["generic-aarch64", "generic-armv7", "host"]
        assert sorted([*(f"raspberry-pi-{name}" for name in raspberries), *others, *generic]) == PACKAGED

    @pytest.mark.parametrize("name", PACKAGED)
    def test_each_loads_and_gives_its_sources(self, name: str) -> None:
        loaded = profile.find(name)
        assert loaded.name == name
        bare = []
        for block in (profile.packaged() / f"{name}.toml").read_text("utf-8").split("\n\n"):
            lines = block.strip().split("\n")
            bare += [] if lines[0].startswith("#") else [line for line in lines if "#" not in line]
        assert bare == [], "facts have their source as a comment above or beside them"

    def test_the_dot_product_is_what_newer_cores_have(self) -> None:
        assert "dotprod" in profile.find("raspberry-pi-5").isa
        assert "dotprod" not in profile.find("raspberry-pi-4b").isa

    def test_host_is_read_from_this_computer(self) -> None:
        host = profile.find("host")
        assert host.architecture == {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
        assert host.python == ".".join(platform.python_version_tuple()[:2])
        assert host.glibc == ".".join(platform.libc_ver()[1].split(".")[:2])
        assert 1 <= host.num_threads <= host.cores


class TestStrict:
    def test_an_unknown_key_is_named_with_its_file_and_the_nearest_key(
        self, tmp_path: Path, good: dict[str, Any]
    ) -> None:
        path = write(tmp_path, {**good, "ram_md": 2048})
        with pytest.raises(UserError) as caught:
            profile.load(path)
        assert str(path) in caught.value.message
        assert "'ram_md'" in caught.value.message
        assert caught.value.hint == "did you mean 'ram_mb'?"

    @pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(DeviceProfile) if f.default is not None])
    def test_a_missing_key_is_named(self, tmp_path: Path, good: dict[str, Any], key: str) -> None:
        path = write(tmp_path, {k: v for k, v in good.items() if k != key}, "raspberry-pi-4b")
        with pytest.raises(UserError, match=f"missing key '{key}'"):
            profile.load(path)

    @pytest.mark.parametrize(
        ("key", "value", "says"),
        [
            ("cores", "4", "cores: expected a whole number"),
            ("cores", True, "cores: expected a whole number"),
            ("cores", 0, "cores 0 is not above 0"),
            ("isa", "neon", "isa: expected a list"),
            ("architecture", "armv6l", "architecture 'armv6l' is not one of"),
            ("abi", "arm-linux-gnueabihf", "does not belong to aarch64"),
            ("glibc", "2", "not of the form X.Y"),
            ("python", "3.11.2", "not of the form X.Y"),
            ("runtime", "onnxruntime", "not one of ai-edge-litert, tflite-runtime"),
            ("runtime_version", "latest", "is not a version"),
            ("numpy", "pip", "not one of auto, board, wheel"),
            ("input_dtype", "float32", "not one of uint8, int8"),
            ("output_dtype", "int16", "not one of uint8, int8, float32"),
            ("num_threads", 5, "more than the 4 cores"),
            ("max_ram_mb", 4000, "more than ram_mb"),
            ("max_accuracy_drop", 1.5, "not between 0 and 1"),
            ("max_latency_ms", 0, "not above 0"),
            ("sftp", "yes", "sftp: expected true or false"),
            ("thermal_zones", "cpu-thermal", "thermal_zones: expected a list"),
            ("governor", 1, "governor: expected text"),
            ("name", "Raspberry Pi", "not made of"),
            ("runtime", "host", "cannot be read from this computer"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused(
        self, tmp_path: Path, good: dict[str, Any], key: str, value: object, says: str
    ) -> None:
        path = write(tmp_path, {**good, key: value}, "raspberry-pi-4b")
        with pytest.raises(UserError) as caught:
            profile.load(path)
        assert says in caught.value.message
        assert str(path) in caught.value.message

    def test_name_and_file_agree(self, tmp_path: Path, good: dict[str, Any]) -> None:
        with pytest.raises(UserError, match="the profile is named 'raspberry-pi-4b', the file 'other'"):
            profile.load(write(tmp_path, good, "other"))

    @pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe", b"#" * 70_000])
    def test_what_is_no_small_toml_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "x.toml"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x\.toml"):
            profile.load(path)


class TestSearchPath:
    def test_the_flag_goes_before_the_environment_before_the_user_before_the_packaged(
        self, tmp_path: Path, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def ram() -> int:
            return profile.find("raspberry-pi-4b", [tmp_path / "flag"]).ram_mb

        assert ram() == good["ram_mb"]
        write(tmp_path / "config/edgekit/profiles", {**good, "ram_mb": 3001})
        assert ram() == 3001
        monkeypatch.setenv(profile.ENVIRONMENT, f"{tmp_path / 'none'}:{tmp_path / 'env'}")
        write(tmp_path / "env", {**good, "ram_mb": 3002})
        assert ram() == 3002
        write(tmp_path / "flag", {**good, "ram_mb": 3003})
        assert ram() == 3003

    def test_adding_a_board_is_one_file(self, tmp_path: Path, good: dict[str, Any]) -> None:
        write(tmp_path, {**good, "name": "my-board"})
        names = [file.name for file in profile.available([tmp_path])]
        assert names == sorted([*PACKAGED, "my-board"])
        assert profile.find("my-board", [tmp_path]).name == "my-board"

    def test_a_file_may_be_named(self, tmp_path: Path, good: dict[str, Any]) -> None:
        assert profile.find(str(write(tmp_path, good))).cpu == "BCM2711"

    def test_an_unknown_name_gets_the_nearest(self) -> None:
        with pytest.raises(UserError, match="unknown profile 'raspberrypi-5'") as caught:
            profile.find("raspberrypi-5")
        assert caught.value.hint == "did you mean 'raspberry-pi-5'?"

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot read the profile"):
            profile.find(str(tmp_path / "x.toml"))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=20).filter(lambda text: text != "host")


@given(
    description=TEXT,
    cpu=TEXT,
    architecture=st.sampled_from(sorted(ABIS)),
    isa=st.lists(TEXT, max_size=4),
    sizes=st.tuples(st.integers(1, 256), st.integers(1, 10**6), st.integers(1, 10**6)),
    drop=st.floats(0, 1),
    latency=st.none() | st.floats(0.001, 1e6),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    description: str,
    cpu: str,
    architecture: str,
    isa: list[str],
    sizes: tuple[int, int, int],
    drop: float,
    latency: float | None,
) -> None:
    wanted = dataclasses.replace(
        profile.find("generic-aarch64"),
        description=description,
        cpu=cpu,
        architecture=architecture,
        abi=ABIS[architecture],
        isa=tuple(isa),
        cores=sizes[0],
        num_threads=sizes[0],
        ram_mb=sizes[1],
        max_ram_mb=sizes[1],
        flash_free_mb=sizes[2],
        max_accuracy_drop=drop,
        max_latency_ms=latency,
    )
    assert profile.load(write(tmp_path_factory.mktemp("profiles"), schema.plain(wanted))) == wanted
