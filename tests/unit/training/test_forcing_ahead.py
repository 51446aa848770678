"""The loader's thread computes the forcing of every step of a batch; the loss is the one of a forcing computed between the steps."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from afno_forecast import model_folder
from afno_forecast.data.loader import Batch, Delivery, Loader
from afno_forecast.data.store import Store
from afno_forecast.errors import DataError
from afno_forecast.forcing import Forcing
from afno_forecast.forecast.rollout import rollout
from afno_forecast.forecaster import Forecaster
from afno_forecast.training.loss import LossConfig, RolloutLoss
from afno_forecast.training.parallel import Layout, pieces

STEP = 21600


@pytest.fixture(scope="module")
def forecaster(tiny_model: Path) -> Forecaster:
    """One whose forcing changes from step to step."""
    made = model_folder.load(tiny_model)
    made.forcing.names = ("toa_radiation", "sin_local_time")  # as many as it has: the network takes them
    return made


def batch_of(store: Path, forecaster: Forecaster, **delivery) -> Batch:
    loader = Loader(Store.open(store), forecaster.channels, time_step=STEP, history=1, batch_size=4, seed=1,
                    delivery=Delivery(**delivery))
    batches = loader.batches(3, stage=0)
    batch = next(batches)
    batches.close()
    return batch


def test_a_batch_brings_the_forcing_of_the_instants_it_steps_from(tiny_store, forecaster, monkeypatch):
    threads: set[str] = set()
    forward = Forcing.forward

    def watched(self, *args):
        threads.add(threading.current_thread().name)
        return forward(self, *args)

    monkeypatch.setattr(Forcing, "forward", watched)
    delivery = Layout().delivery(forecaster, cache_bytes=0)
    batch = batch_of(tiny_store, forecaster, forcing=delivery.forcing)
    assert threads == {"loader_0"}
    assert batch.forcing.shape == (4, 3, 3, 7, 12) and not batch.forcing.requires_grad
    for lead in range(3):
        assert torch.equal(batch.forcing[:, lead], forecaster.forcing(batch.seconds[:, lead], STEP))
    assert not torch.equal(batch.forcing[:, 0], batch.forcing[:, 1])


@pytest.mark.parametrize("num_steps", [1, 3])
def test_the_loss_is_the_same_to_the_last_bit_and_hangs_on_the_forcing(tiny_store, forecaster, monkeypatch, num_steps):
    brought = batch_of(tiny_store, forecaster, forcing=forecaster.forcing)
    alone = batch_of(tiny_store, forecaster)
    loss = RolloutLoss(LossConfig(), forecaster)
    expected = loss(alone, num_steps)
    with monkeypatch.context() as patch:
        patch.setattr(Forcing, "forward", lambda *args: pytest.fail("computed between the steps"))
        assert torch.equal(loss(brought, num_steps), expected)
        halves = torch.stack([loss(piece, num_steps) for piece in pieces(brought, 2)])
    torch.testing.assert_close(halves.mean(), expected)
    other = Batch(brought.states, brought.seconds, brought.forcing.flip(1) if num_steps > 1 else -brought.forcing)
    assert not torch.equal(loss(other, num_steps), expected)


def test_a_network_without_computed_forcing_is_brought_none(forecaster):
    forecaster.forcing.names, names = (), forecaster.forcing.names
    assert Layout().delivery(forecaster, cache_bytes=0).forcing is None
    forecaster.forcing.names = names


def test_an_error_in_the_forcing_reaches_the_consumer(tiny_store, forecaster):
    def broken(seconds, step):
        raise DataError("no sun")

    with pytest.raises(DataError, match="no sun"):
        batch_of(tiny_store, forecaster, forcing=broken)


@pytest.mark.parametrize(("shape", "steps"), [((4, 2), (STEP,)), ((3, 3), (STEP,)), ((4, 3), (STEP, 2 * STEP))])
def test_a_forcing_of_other_steps_is_refused(forecaster, shape, steps):
    history = torch.zeros(4, 1, 3, 7, 12)
    with pytest.raises(DataError, match=r"forcing of shape .* does not fit 4 init times and 3 equal steps"):
        next(rollout(forecaster, history, np.zeros(4, np.int64), 3, time_steps=steps, forcing_BLFHW=torch.zeros(*shape, 3, 7, 12)))
