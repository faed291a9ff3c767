"""SIGKILL at any moment leaves a checkpoint from which the run goes on bitwise."""

import json
import subprocess
import sys

SCRIPT = """
import json, os, random, signal, sys, time
import torch
from pyro_dgm.training import fit, load_checkpoint

folder = sys.argv[1]
last, draft = folder + "/last.ckpt", folder + "/last.ckpt.tmp"


class Walk:
    "A random walk whose state is large enough for a save to take a while."

    def __init__(self):
        self.place, self.ballast = torch.zeros(3), torch.zeros(500_000)

    def step(self, x):
        self.place += torch.randn(3) * x.mean()
        return float(self.place.sum())

    def state_dict(self):
        return {"place": self.place, "ballast": self.ballast}

    def load_state_dict(self, state):
        self.place = state["place"]


def run(**options):
    trainer = Walk()
    fit(trainer, list(torch.ones(7, 2)), progress=False, **options)
    return trainer.place.tolist()


def child():
    pid = os.fork()
    if pid:
        return pid
    try:
        run(epochs=10**6, checkpoint=folder, checkpoint_every=1, resume=True)
    finally:
        os._exit(1)


torch.set_num_threads(1)  # a fork keeps no other threads
torch.manual_seed(0)
run(steps=1, checkpoint=folder)
steps, during = [], 0
for attempt in range(20):
    pid = child()
    time.sleep(random.uniform(0.0, 0.06))
    deadline = time.monotonic() + 5
    while attempt % 2 and not os.path.exists(draft) and time.monotonic() < deadline:
        pass
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    during += os.path.exists(draft)
    steps.append(load_checkpoint(last)["step"])
resumed = run(steps=steps[-1] + 3, checkpoint=folder, resume=True)
torch.manual_seed(0)
straight = run(steps=steps[-1] + 3)
print(json.dumps({"steps": steps, "during": during, "equal": resumed == straight, "left": sorted(os.listdir(folder))}))
"""


def test_a_run_killed_twenty_times_ends_as_if_it_had_not_been(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] == sorted(report["steps"])
    assert report["steps"][-1] > 1
    assert report["during"] >= 3
    assert report["equal"]
    assert report["left"] == ["last.ckpt"]
