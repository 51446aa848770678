"""The folder nn/ can be copied out and used alone: it needs torch and nothing of the package around it."""

import shutil
import subprocess
import sys
from pathlib import Path

import afno_forecast.nn

PROGRAM = """
import sys
import torch
from borrowed.backbone import HierarchicalConfig, PlainConfig, build_backbone
for config in (HierarchicalConfig(widths=(8, 16), num_blocks=4), PlainConfig(width=16, depth=1, num_blocks=4)):
    out = build_backbone(config, 3, 2, "sphere")(torch.randn(2, 3, 9, 14))
    assert out.shape == (2, 2, 9, 14)
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"afno_forecast", "xarray", "pydantic", "zarr"}, loaded
print("used alone")
"""


def test_the_folder_works_under_another_name(tmp_path: Path) -> None:
    shutil.copytree(Path(afno_forecast.nn.__file__).parent, tmp_path / "borrowed", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    alone = {"PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=alone, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "used alone"
