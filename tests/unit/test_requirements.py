"""The exact versions of constraints.txt cover what pyproject.toml asks for, and fit it."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def test_every_requirement_has_a_version_that_fits_it():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    versions = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for texts in (project["dependencies"], *project["optional-dependencies"].values()) for text in texts]
    unmet = [str(need) for need in wanted if versions.get(canonicalize_name(need.name), "0") not in need.specifier]
    assert len(wanted) > 30 and not unmet, f"constraints.txt has no fitting version for {unmet}"
