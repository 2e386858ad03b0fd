"""Everything that crosses a boundary is read strictly."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from edgekit_runtime import manifest, schema
from edgekit_runtime.errors import CheckFailed, DeviceError, EdgekitError, UserError
from hypothesis import given
from hypothesis import strategies as st


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    ratio: float = 1.0
    tags: tuple[str, ...] = ()
    pair: tuple[int, int] | None = None
    notes: dict[str, int] | None = None


GOOD = {"name": "a", "inner": {"size": 3}}


def test_reads_nested_data_with_defaults() -> None:
    assert schema.read(Outer, GOOD, "file") == Outer("a", Inner(3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nmae": "a"}, "unknown key 'nmae'"),
        ({"inner": {"sizes": 3}}, "inner: unknown key 'sizes'"),
        ({"inner": {}}, "inner: missing key 'size'"),
        ({"inner": 3}, "inner: expected a table"),
        ({"name": 3}, "name: expected text, got a whole number (3)"),
        ({"inner": {"size": True}}, "expected a whole number, got true or false"),
        ({"inner": {"size": 3.0}}, "expected a whole number"),
        ({"ratio": "1"}, "expected a number"),
        ({"ratio": float("nan")}, "not finite"),
        ({"tags": "abc"}, "expected a list"),
        ({"tags": ["a", 1]}, "tags[1]: expected text"),
        ({"pair": [1]}, "expected 2 items, got 1"),
        ({"notes": {"a": "b"}}, "notes.a: expected a whole number"),
    ],
)
def test_refuses_and_says_where(change: dict[str, object], said: str) -> None:
    with pytest.raises(schema.SchemaError) as caught:
        schema.read(Outer, {**GOOD, **change}, "file")
    assert said in caught.value.message
    assert caught.value.message.startswith("file: ")


def test_an_unknown_key_names_the_nearest_one() -> None:
    with pytest.raises(schema.SchemaError) as caught:
        schema.read(Outer, {**GOOD, "ratoi": 1}, "file")
    assert caught.value.hint == "did you mean 'ratio'?"
    assert caught.value.fields == {"where": "file", "key": "ratoi", "nearest": "ratio"}


@pytest.mark.parametrize("text", ["", "[", "nul", '{"size": NaN}', '{"size": 1, "size": 2}', "[" * 100_000, b"\xff"])
def test_text_that_is_no_strict_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(schema.SchemaError):
        schema.load_json(Inner, text, "file")


@pytest.mark.parametrize(("kind", "code"), [(CheckFailed, 1), (UserError, 2), (DeviceError, 3)])
def test_an_error_carries_its_exit_code_fields_and_hint(kind: type[EdgekitError], code: int) -> None:
    error = kind("no", hint="do", path=("a", 1), size=3)
    assert kind.exit_code == code
    data = json.loads(json.dumps(error.to_dict()))
    assert data["message"] == "no"
    assert data["hint"] == "do"
    assert data["fields"] == {"path": ["a", 1], "size": 3}


names = st.text(min_size=1, max_size=20)
numbers = st.floats(min_value=-1e6, max_value=1e6)
specs = st.builds(
    manifest.TensorSpec,
    name=names,
    shape=st.lists(st.integers(1, 4096), min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(manifest.DTYPES),
    scale=st.just(None),
    zero_point=st.just(None),
) | st.builds(
    manifest.TensorSpec,
    name=names,
    shape=st.just((1, 4)),
    dtype=st.just("int8"),
    scale=st.floats(1e-6, 1e3),
    zero_point=st.integers(-128, 127),
)
manifests = st.builds(
    manifest.Manifest,
    name=names,
    task=st.just("raw"),
    profile=names,
    model_sha256=st.just("0" * 64),
    model_crc32=st.none() | st.integers(0, 2**32 - 1),
    model_size=st.integers(0, 1 << 31),
    inputs=st.lists(specs, min_size=1, max_size=3).map(tuple),
    outputs=st.lists(specs, min_size=1, max_size=3).map(tuple),
    preprocess=st.none()
    | st.builds(
        manifest.Preprocess,
        width=st.integers(1, 8192),
        height=st.integers(1, 8192),
        color=st.sampled_from(["RGB", "BGR"]),
        mean=st.tuples(numbers, numbers, numbers),
        std=st.tuples(*[st.floats(1e-3, 1e3)] * 3),
        resize=st.sampled_from(manifest.RESIZES),
        filter=st.sampled_from(manifest.FILTERS),
        pad=st.integers(0, 255),
    ),
    labels=st.sampled_from([None, manifest.LABELS]),
    runtime=names,
    num_threads=st.integers(1, 64),
    provenance=st.builds(
        manifest.Provenance,
        source=names,
        source_format=names,
        source_sha256=st.just("0" * 64),
        versions=st.dictionaries(names, names, max_size=3),
        calibration=st.builds(
            manifest.Calibration,
            samples=st.integers(1, 999),
            seed=st.integers(0, 9),
            digest=st.just("0" * 64),
        ),
    ),
    golden=st.none()
    | st.builds(
        manifest.Golden,
        count=st.integers(1, 8),
        distance=st.lists(
            st.builds(
                manifest.Distance,
                output=names,
                max_abs=numbers,
                mean_abs=numbers,
                cosine=st.floats(-1, 1),
                sqnr_db=st.none() | numbers,
            ),
            max_size=2,
        ).map(tuple),
    ),
)


@given(manifests)
def test_a_manifest_survives_writing_and_reading_byte_for_byte(value: manifest.Manifest) -> None:
    text = manifest.dumps(value)
    assert manifest.loads(text) == value
    assert manifest.dumps(manifest.loads(text)) == text
    text.encode("ascii")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema 2"),
        ({"task": "detect"}, "task 'detect'"),
        ({"labels": "/etc/passwd"}, "labels.txt"),
        ({"num_threads": 0}, "at least 1"),
    ],
)
def test_a_manifest_with_impossible_facts_is_refused(change: dict[str, object], said: str) -> None:
    value = manifest.Manifest(
        "a", "raw", "p", "0" * 64, 3, (manifest.TensorSpec("x", (1, 4), "int8", 0.1, 0),),
        (manifest.TensorSpec("y", (1, 4), "int8", 0.1, 0),), None, None, "r", 1,
        manifest.Provenance("a", "keras", "0" * 64, {}, manifest.Calibration(1, 0, "0" * 64)), None,
    )  # fmt: skip
    with pytest.raises(schema.SchemaError, match=said):
        schema.read(manifest.Manifest, {**schema.plain(value), **change}, "manifest.json")
