"""A test file run as a script by two processes at once, which talk by gloo."""

__all__ = ["RANKS", "join", "start_two_processes"]

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import torch

RANKS = 2
SECONDS = 120  # how long the processes may take before they count as stuck; they need about ten


def join(rank: int, folder: Path) -> None:
    """Makes this process one of the two."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=SECONDS),
    )


def start_two_processes(script: str, folder: Path) -> None:
    """Runs a script with rank and folder as its arguments, and waits for both."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    if any(name == "lo" for _, name in socket.if_nameindex()):
        environment["GLOO_SOCKET_IFNAME"] = "lo"  # the machine's own name may resolve to nothing
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, output in zip(processes, said, strict=True):
        assert process.returncode == 0, output
