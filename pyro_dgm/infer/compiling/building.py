"""How a graph is made a function: at once, or in a thread while something else goes on."""

__all__ = ["Build", "Compiler", "is_busy", "wait_for_all"]

import importlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import GraphModule
from tqdm import tqdm

from pyro_dgm.infer.compiling.backends import BACKENDS, Function, prepare

ONE_BY_ONE = threading.Lock()  # for Inductor has state of its own
_THREADS: list[threading.Thread] = []
KEEPERS = ("torch._dynamo.utils", "torch._functorch.aot_autograd", "torch._inductor.select_algorithm")


def is_busy() -> bool:
    """Whether something is being compiled in a thread: nothing must be traced meanwhile, by whichever trainer.

    Tracing and compiling patch the same functions of torch, and would undo each other's patches.
    """
    _THREADS[:] = [thread for thread in _THREADS if thread.is_alive()]
    return bool(_THREADS)


def wait_for_all() -> None:
    """Waits for the end of all compiling in threads."""
    for thread in list(_THREADS):
        thread.join()


@dataclass(frozen=True)
class Compiler:
    """How steps are compiled.

    Arguments:
        backend: ``"inductor"``, or ``"graph"``: the traced graph as it is, without a compiler.
        wait: compile where a step is due, instead of in a thread while steps go on as written.
        quiet: say nothing of refusals and of compiling.

    Raises:
        ValueError: there is no such backend.
    """

    backend: str = "inductor"
    wait: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ValueError(
                f"the backend must be one of {BACKENDS}; got {self.backend!r}. 'inductor' makes the fastest steps."
            )


class Build:
    """The making of one function; it begins at once.

    Arguments:
        graph: what the function does.
        inputs: such as it will be called with.
        compiler: how, and whether to wait for the end.
        name: of what is compiled, for those who read along.
        is_whole: make one function of it, whatever is repeated in it.
    """

    def __init__(
        self, graph: GraphModule, inputs: Sequence[Tensor], compiler: Compiler, name: str, is_whole: bool = False
    ) -> None:
        self.function: Function | None = None  # as soon as it is there
        self._thread: threading.Thread | None = None
        self.error: Exception | None = None
        is_quiet = compiler.quiet or compiler.backend == "graph"
        try:
            make = prepare(graph, inputs, compiler.backend, is_whole)
        except Exception as error:  # of torch's, like those below
            self.error = error
            return
        if compiler.wait or compiler.backend == "graph":
            self._make(make, name, is_quiet)
            return
        if not is_quiet:
            tqdm.write(f"compiling {name}; until it is done, steps are taken as before", file=sys.stderr)
        self._thread = threading.Thread(target=self._make_aside, args=(make, name, is_quiet), name="compile")
        _THREADS.append(self._thread)
        self._thread.start()  # which the interpreter's end waits for

    @property
    def is_over(self) -> bool:
        """Whether it has come to its end, in a function or an error."""
        return self._thread is None or not self._thread.is_alive()

    def wait(self) -> None:
        """Waits for the end."""
        if self._thread is not None:
            self._thread.join()

    def _make_aside(self, *args: Any) -> None:
        """In a thread: one function after the other, and without a hand on torch's generator."""
        with ONE_BY_ONE, _generator_left_alone():
            self._make(*args)

    def _make(self, make: Callable[[], Function], name: str, is_quiet: bool) -> None:
        start = time.perf_counter()
        try:
            self.function = make()
        except Exception as error:  # of torch's, whose compiling may fail in any way; whoever looks for it sees it
            self.error = error
            return
        if not is_quiet:
            tqdm.write(f"compiled {name} in {time.perf_counter() - start:.0f} s", file=sys.stderr)


@contextmanager
def _generator_left_alone() -> Iterator[None]:
    """Keeps this thread from putting torch's generator back to where it was when compiling began.

    Others draw from it meanwhile, and would draw the same numbers again.
    """
    own, modules = threading.get_ident(), [importlib.import_module(name) for name in KEEPERS]
    keepers = [module.preserve_rng_state for module in modules]

    def keep() -> AbstractContextManager[None]:
        return nullcontext() if threading.get_ident() == own else keepers[0]()

    for module in modules:
        vars(module)["preserve_rng_state"] = keep
    try:
        yield
    finally:
        for module, function in zip(modules, keepers, strict=True):
            vars(module)["preserve_rng_state"] = function
