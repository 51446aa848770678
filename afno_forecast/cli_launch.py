"""Batch files for clusters."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

_SIGNAL_SECONDS = 300


def batch_file(config: Path, overrides: Sequence[str], *, nodes: int, gpus: int, tasks: int, seconds: int) -> str:
    """A SLURM batch file that trains an experiment in as many jobs as it takes.

    Args:
        config, overrides: the experiment, as for `train`.
        nodes: machines.
        gpus: on each, one process a GPU; 0 for none.
        tasks: processes on each.
        seconds: limit of one job. SLURM signals 5 minutes before it (half-way in a shorter one): the training saves and exits with 75, and the
            job queues itself again.
    """
    minutes = max(1, -(-seconds // 60))
    days, rest = divmod(minutes, 24 * 60)
    command = " ".join(["afno-forecast", "train", shlex.quote(str(config)), *map(shlex.quote, overrides), "--resume"])
    lines = [
        "#!/bin/bash",
        f"#SBATCH --job-name={shlex.quote(config.stem)}",
        f"#SBATCH --nodes={nodes}",
        f"#SBATCH --ntasks-per-node={tasks}",
        *([f"#SBATCH --gpus-per-node={gpus}"] if gpus else []),
        f"#SBATCH --time={days}-{rest // 60:02d}:{rest % 60:02d}:00",
        f"#SBATCH --signal=USR1@{min(_SIGNAL_SECONDS, seconds // 2)}",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "",
        "# One process a task; each finds the others by SLURM's variables, and ends by itself when another one does.",
        "# Exit code 75: everything is saved, the same command goes on.",
        f"srun --kill-on-bad-exit=0 {command}",
        "code=$?",
        'if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"
