"""Commands of the program for tests that run many of them: each a process of its own, forked from one that has imported the package.

Starting Python and importing torch, xarray and matplotlib takes longer than most commands. A launcher connects to the server and hands it arguments,
folder, environment and its three files; the server forks a child that becomes the command, and sends its exit status back.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLIENT = """
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    message = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(connection, [len(message).to_bytes(8, "big")], [0, 1, 2])
    connection.sendall(message)
    status = connection.recv(8)
sys.exit(int(status) if status else "the command died")
"""


@contextlib.contextmanager
def launcher() -> Iterator[Path]:
    """A folder for the PATH with an `afno-forecast` in it, for the time of the context; in a short folder, as sockets need."""
    with tempfile.TemporaryDirectory() as name:
        address, client, path = (Path(name) / part for part in ("server", "client.py", "bin/afno-forecast"))
        client.write_text(CLIENT.format(address=str(address)))
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -SE "{client}" "$@"\n')
        path.chmod(0o755)
        server = subprocess.Popen([sys.executable, __file__, str(address)], env={**os.environ, "PYTHONPATH": str(ROOT)})
        try:
            for _ in range(1200):
                if address.exists():
                    break
                assert server.poll() is None, "the server did not start"
                time.sleep(0.05)
            yield path.parent
        finally:
            server.kill()
            server.wait()


def _serve(address: str) -> None:
    import afno_forecast

    for module in pkgutil.walk_packages(afno_forecast.__path__, "afno_forecast."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    importlib.import_module("matplotlib.pyplot")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address + ".new")
        listener.listen()
        Path(address + ".new").rename(address)
        while True:
            connection, _ = listener.accept()
            with connection:
                length, files, _, _ = socket.recv_fds(connection, 8, 3)
                message = connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
                child = os.fork()
                if child == 0:
                    listener.close()
                    _become(*json.loads(message), files)
                for file in files:
                    os.close(file)
                connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def _become(arguments: list[str], folder: str, environment: dict[str, str], files: list[int]) -> None:
    """The command, from here to its end."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - numbers of files, open to the end
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["afno-forecast", *arguments]
    from afno_forecast.cli import main

    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - as Python itself ends a process
        sys.excepthook(*sys.exc_info())
        status = 1
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1])
