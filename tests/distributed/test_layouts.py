"""Every layout of the processes is the same training as one process alone: rollout, loss, gradients, updates, checkpoints."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(900)]
PROCESS = Path(__file__).with_name("layout_process.py")
TWO = ("data", "data, accumulated", "sharded", "spatial", "spatial, patches", "spatial, pole rows", "spatial, limited area", "spatial, periodic box",
       "spatial, checkpointed, equal cells", "spatial, ensemble", "spatial, advection", "block")
FOUR = ("data x spatial", "spatial x block", "data x block, sharded")
THREE = ("spatial 3",)


def run_processes(folder: Path, size: int, cases: tuple[str, ...]) -> dict[str, dict[str, object]]:
    done = subprocess.run([sys.executable, str(PROCESS), str(folder), str(size), "|".join(cases)], capture_output=True, text=True, timeout=800,
                          check=False)
    assert done.returncode == 0 and "Warning" not in done.stdout + done.stderr, done.stdout + done.stderr
    results = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(size)]
    return {case: {"ranks": [result[case] for result in results], **results[0][case]} for case in cases}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """One start of two processes for all their cases: starting costs more than what is tested."""
    return run_processes(tmp_path_factory.mktemp("two"), 2, TWO)


@pytest.fixture(scope="module")
def results_of_four(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    return run_processes(tmp_path_factory.mktemp("four"), 4, FOUR)


def assert_equal_to_one_process(result: dict[str, object]) -> None:
    for rank in result["ranks"]:  # type: ignore[attr-defined]
        assert rank["differences"].keys() == {"rollout", "loss", "gradients", "norm", "weights", "average"}
        assert max(rank["differences"].values()) < 1e-5, rank["differences"]


def assert_checkpoint_fits_all(result: dict[str, object]) -> None:
    """The same numbers on one process alone, and to the last bit in the layout that wrote it."""
    for rank in result["ranks"]:  # type: ignore[attr-defined]
        assert rank["restored"].keys() >= {"model", "optimizer", "average"} and max(rank["restored"].values()) == 0
        assert rank["resumed exactly"]
    parts = result["bytes of parts"]
    assert len(parts) == len(result["ranks"]) and max(parts) < 1.5 * min(parts), parts  # type: ignore[arg-type, type-var, operator]


@pytest.mark.parametrize("case", TWO)
def test_two_processes_equal_one(case: str, results: dict[str, dict[str, object]]) -> None:
    assert_equal_to_one_process(results[case])
    assert_checkpoint_fits_all(results[case])


@pytest.mark.parametrize("case", FOUR)
def test_four_processes_equal_one(case: str, results_of_four: dict[str, dict[str, object]]) -> None:
    assert_equal_to_one_process(results_of_four[case])
    assert_checkpoint_fits_all(results_of_four[case])


@pytest.mark.slow
def test_three_processes_equal_one(tmp_path: Path) -> None:
    """Five blocks and three patches of rows on three processes."""
    assert_equal_to_one_process(run_processes(tmp_path, 3, THREE)["spatial 3"])


def test_rows_are_divided_unevenly_along_patches(results: dict[str, dict[str, object]]) -> None:
    assert results["spatial"]["rows"] == [4, 7] and results["spatial, patches"]["rows"] == [6, 5]


def test_each_update_is_orthogonalised_once(results: dict[str, dict[str, object]]) -> None:
    """Muon's matrices are divided among the processes: together they send every matrix once an update, each about half of the work."""
    sent = [rank["traffic"]["world"]["orthogonalised updates"] for rank in results["data"]["ranks"]]  # type: ignore[attr-defined]
    assert sum(sent) == 3 * results["data"]["bytes of matrices"] and min(sent) > 0.3 * max(sent)
    assert not any("orthogonalised updates" in rank["traffic"]["world"] for rank in results["sharded"]["ranks"])  # type: ignore[attr-defined]


def test_a_mixer_takes_two_transposes(results: dict[str, dict[str, object]]) -> None:
    """What is sent, by hand. A filter dense in the channels takes four: spectrum to all channels and back, between the two.

    Tokens are 4 x 5 rows and columns of 20 channels in 5 blocks on a batch of 4: 2 + 2 rows, blocks 2 + 3, 4 bytes a number. Rank 0 sends its
    2 rows of rank 1's 12 channels there and rank 1's 2 rows of its own 8 channels back. Two layers, a rollout of 5 steps with 4 samples and
    3 updates of 2 steps with 4 samples.
    """
    for rank, (other_rows, other_channels, own_rows, own_channels) in enumerate(((2, 12, 2, 8), (2, 8, 2, 12))):
        there, back = own_rows * 5 * other_channels, other_rows * 5 * own_channels
        passes = 2 * 4 * (5 + 3 * 2)
        traffic = results["spatial, patches"]["ranks"][rank]["traffic"]["spatial"]  # type: ignore[index]
        assert traffic["transposes"] == passes * (there + back) * 4
        assert traffic["transposes, backward"] == 2 * 4 * 3 * 2 * (there + back) * 4
