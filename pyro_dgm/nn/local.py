"""The ground under every model and guide here: a PyroModule whose parameters are its own."""

__all__ = ["LocalModule"]

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK, Message, am_i_wrapped
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn


class LocalModule(PyroModule):
    """A ``PyroModule`` that never shares parameters through Pyro's global store.

    A plain ``PyroModule`` is filled from the global store when an earlier one had the same names, unless
    ``module_local_params`` was set before it was built; and with that setting on, ``pyro.infer.SVI`` cannot find
    an ``nn.Parameter``. This class keeps its parameters local whatever the setting is, and announces them to
    whoever listens, so stock ``SVI`` trains them either way.

    A part of somebody else's ``PyroModule`` follows the setting that module was built with, and is announced
    all the same.

    Arguments:
        name: optional name of a root module, as in ``PyroModule``.
    """

    def __init__(self, name: str = "") -> None:
        with pyro.settings.context(module_local_params=True):
            super().__init__(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs ``forward`` with local parameters."""
        context = self._pyro_context
        if "param_state" not in vars(context):  # part of a module that was built with the setting off
            return super().__call__(*args, **kwargs)
        with nullcontext() if context.active else _local_parameters():
            if not am_i_wrapped() or any(isinstance(handler, _AnnounceParameters) for handler in _PYRO_STACK):
                return super().__call__(*args, **kwargs)
            with _AnnounceParameters():
                return super().__call__(*args, **kwargs)

    def _pyro_set_supermodule(self, name: str, context: Any) -> None:
        """Becomes a part of another module, also after it has run alone: its names stand in no store."""
        self._pyro_context.used = False
        super()._pyro_set_supermodule(name, context)

    def sample_globals(self) -> None:
        """Draws every ``PyroSample`` below this module now, so that it stands outside the plates opened later."""
        if any(isinstance(m, PyroModule) and m._pyro_samples for m in self.modules()):
            _read_samples(self)


class _AnnounceParameters(Messenger):
    """Makes a local param statement one that SVI can read: its own name, and the attribute ``unconstrained``."""

    def _pyro_param(self, msg: Message) -> None:
        if getattr(msg["fn"], "__self__", None) is pyro.get_param_store():
            return
        value = msg["fn"]()
        if isinstance(value, nn.Parameter):
            alias = value.view_as(value)  # an unconstrained PyroParam is used by this value, with its gradient
            alias.unconstrained = weakref.ref(value)  # type: ignore[attr-defined]
            msg["value"] = value = alias
            msg["done"] = True
        elif getattr(value, "unconstrained", None) is None:  # a parameter that is being made, not read
            return
        msg["name"] = _free_name(str(msg["name"]), value.unconstrained())


def _free_name(name: str, parameter: nn.Parameter) -> str:
    """The name, primed if needed: of two modules with like names, a trace would keep only the last one's parameters."""
    traces = [handler.trace.nodes for handler in _PYRO_STACK if isinstance(handler, TraceMessenger)]
    while any(_is_other(nodes.get(name), parameter) for nodes in traces):
        name += "'"
    return name


def _is_other(site: Mapping[str, Any] | None, parameter: nn.Parameter) -> bool:
    return site is not None and site["type"] == "param" and site["value"].unconstrained() is not parameter


@contextmanager
def _local_parameters() -> Iterator[None]:
    """Switches module-local parameters on; Pyro then strips the global ones of ``unconstrained``, which is put back."""
    store = pyro.get_param_store()
    try:
        with pyro.settings.context(module_local_params=True):
            yield
    finally:
        for name in store:
            store[name]


def _read_samples(module: nn.Module) -> None:
    if isinstance(module, PyroModule):
        for name in module._pyro_samples:
            getattr(module, name)
    for name in module._modules:
        _read_samples(getattr(module, name))  # getattr names the children that were converted in place
