"""The batch file of a cluster."""

import subprocess
from pathlib import Path

from afno_forecast.cli_launch import batch_file


def test_the_batch_file_is_sound_asks_for_its_signal_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "job.sh"
    path.write_text(batch_file(Path("my runs/a b.yaml"), ("name=x y",), nodes=2, gpus=4, tasks=4, seconds=36 * 3600))
    text = path.read_text()
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    for line in ("#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gpus-per-node=4", "#SBATCH --time=1-12:00:00", "#SBATCH --requeue",
                 "#SBATCH --signal=USR1@300"):
        assert line in text.splitlines()
    assert "srun --kill-on-bad-exit=0 afno-forecast train 'my runs/a b.yaml' 'name=x y' --resume" in text
    # what the job does with the exit codes: 75 queues it again and is passed on, 0 ends it
    for code, queued in ((75, "requeue 17"), (0, ""), (6, "")):
        (tmp_path / "srun").write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / "scontrol").write_text("#!/bin/sh\necho $@\n")
        for name in ("srun", "scontrol"):
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(["bash", str(path)], env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}, capture_output=True, text=True,
                              check=False)
        assert done.returncode == code and done.stdout.strip() == queued


def test_without_gpus_and_with_a_short_limit() -> None:
    text = batch_file(Path("a.yaml"), (), nodes=1, gpus=0, tasks=2, seconds=90)
    assert "gpus" not in text and "--time=0-00:02:00" in text and "USR1@45" in text
