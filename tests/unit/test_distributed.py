"""One process without a launcher, and what launchers say."""

import pytest
import torch

from afno_forecast.distributed import Axis, Place, divide, first_host, first_to_tell, make_mesh, place, session, whole
from afno_forecast.errors import ConfigError
from afno_forecast.training.spatial import divide_rows


def test_work_is_divided_so_that_all_do_about_as_much() -> None:
    costs = [9.0, 1, 8, 2, 7, 3]
    owners = divide(costs, 2)
    done = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(2)]
    assert sorted(done) == [15, 15] and set(divide(costs, 9)) < set(range(9)) and divide([], 3) == [] and divide(costs, 1) == [0] * 6


def test_alone_everything_is_itself() -> None:
    axis, value = Axis("data"), torch.randn(3, 5, requires_grad=True)
    assert torch.equal(axis.exchange([value], [(5, 3)], "x")[0], value.view(5, 3))
    assert torch.equal(axis.gather(value, [(3, 5)], 0, "x"), value) and axis.sum(value, "x") is value and whole(value) is value
    assert axis.numbers([1.5, -2]) == [1.5, -2] and axis.texts("é") == ["é"] and axis.from_first(None) is None
    assert not axis.traffic and first_to_tell()
    with session() as here:
        assert here == Place() and make_mesh(1, 1, 1).first


def test_more_dimensions_than_processes_say_how_many_were_started() -> None:
    with pytest.raises(ConfigError, match="data 2 x spatial 3 x block 1 is 6 processes, but 1 were started") as error:
        make_mesh(2, 3, 1)
    assert "start 6 processes" in str(error.value)


def test_the_place_comes_from_torchrun_or_from_a_step_of_slurm() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    slurm = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "2"}
    assert place(torchrun) == place({**slurm, **torchrun}) == Place(3, 4, 1)
    assert place(slurm) == Place(5, 8, 2)
    assert place({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Place()  # the batch script itself, outside srun
    with pytest.raises(ConfigError, match="RANK, WORLD_SIZE and LOCAL_RANK must be numbers"):
        place({"RANK": "first", "WORLD_SIZE": "2"})


@pytest.mark.parametrize(("nodes", "first"), [("gpu[07-09,12],login1", "gpu07"), ("node1", "node1"), ("a,b", "a"), ("n[3,5]", "n3")])
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(("rows", "factors", "processes", "sizes"), [
    (721, (1, 8), 4, (176, 184, 184, 177)), (32, (1, 2, 4), 3, (8, 12, 12)), (11, (1, 2, 4), 2, (4, 7)), (9, (1, 3), 3, (3, 3, 3))])
def test_rows_are_whole_patches_and_add_up(rows: int, factors: tuple[int, ...], processes: int, sizes: tuple[int, ...]) -> None:
    divided = [divide_rows(rows, factors, Axis("spatial", processes, rank)) for rank in range(processes)]
    assert all(d.sizes == sizes for d in divided) and sum(sizes) == rows
    assert [d.own.start for d in divided] == [sum(sizes[:r]) for r in range(processes)]
    coarse = divided[0].level_with(-(-sizes[0] // factors[-1]))
    assert coarse == tuple(-(-n // factors[-1]) for n in sizes) and sum(coarse) == -(-rows // factors[-1])


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 rows in patches of 4 are too few for 2 processes"):
        divide_rows(5, (1, 4), Axis("spatial", 2, 0))
