"""What holds for every test: one thread, no network, no screen."""

import ipaddress
import os
import socket
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch; subprocesses inherit it
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex


def _refuse_network(address: object) -> None:
    """Fail the test unless the address is a local socket or on loopback."""
    if not isinstance(address, tuple):
        return
    host = str(address[0])
    try:
        is_local = ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        is_local = host in ("localhost", "")
    if not is_local:
        pytest.fail(f"the network was tried: {host}")


def _guarded_connect(self: socket.socket, address):
    _refuse_network(address)
    return _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address):
    _refuse_network(address)
    return _connect_ex(self, address)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", _guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", _guarded_connect_ex)


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch = sys.modules.get("torch")  # not imported here: many tests need no torch
    if torch is not None:
        torch.manual_seed(0)
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)
