"""Every key that can be written or read is explained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from edgekit_runtime.manifest import (
    Calibration,
    Detection,
    Distance,
    Golden,
    Manifest,
    Preprocess,
    Provenance,
    TensorSpec,
)

from edgekit.conversion.calibration import CalibrationRecord
from edgekit.conversion.candidate import RUNGS, Candidate
from edgekit.conversion.finding import Finding
from edgekit.conversion.record import Conversion
from edgekit.datasets.declaration import Declaration
from edgekit.datasets.heads import DeclaredHeads
from edgekit.models.delegation import Delegation
from edgekit.profiles import hostfacts, profile
from edgekit.profiles.profile import DeviceProfile
from edgekit.validation.metric import Metric

MANIFEST = [
    *(Calibration, Detection, Distance, Golden, Manifest, Preprocess, Provenance, TensorSpec),
    *(CalibrationRecord, Candidate, Conversion, Declaration, DeclaredHeads, Delegation, Finding, Metric),
]


@pytest.mark.parametrize(
    ("page", "schema"), [("profiles.md", DeviceProfile), *(("manifest.md", schema) for schema in MANIFEST)]
)
def test_keys(repository: Path, page: str, schema: Any) -> None:
    text = (repository / "docs" / page).read_text("utf-8")
    missing = [field.name for field in dataclasses.fields(schema) if f"`{field.name}`" not in text]
    assert missing == []


def test_profiles_and_facts_of_this_computer(repository: Path) -> None:
    text = (repository / "docs/profiles.md").read_text("utf-8")
    names = [path.stem for path in profile.packaged().glob("*.toml")]
    assert [name for name in [*names, *hostfacts.FACTS] if f"`{name}`" not in text] == []


def test_every_rung_of_a_repair_is_explained(repository: Path) -> None:
    text = (repository / "docs/manifest.md").read_text("utf-8")
    assert [name for name in RUNGS if f"`{name}`" not in text] == []
