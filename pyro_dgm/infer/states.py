"""Whether a saved state is that of the trainer it is loaded into."""

__all__ = ["check_state", "check_tensors"]

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def check_state(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Compares the state of a trainer with another one, before anything is changed.

    Raises:
        ValueError: they are of different programs, optimisers or schedules.
    """
    check_tensors("the trainer", own, state)
    check_tensors("modules", own["modules"], state["modules"])
    for name, tensors in own["modules"].items():
        check_tensors(name, tensors, state["modules"][name])
    check_tensors("store", own["store"], state["store"])
    _check_same_optimizer(own, state)
    if len(own["schedules"]) != len(state["schedules"]):
        raise ValueError(
            "the state of the schedules must come from as many; "
            f"got {len(state['schedules'])} for {len(own['schedules'])}. Anneal as it was done when it was saved."
        )


def check_tensors(name: str, expected: Mapping[str, Any], got: Mapping[str, Any]) -> None:
    """Raises a ``ValueError`` where the entries are others, or tensors have other shapes."""
    missing = [key for key in expected if key not in got]
    extra = [key for key in got if key not in expected]
    reshaped = [
        f"{key}: {tuple(expected[key].shape)} here, {tuple(got[key].shape)} there"
        for key in expected
        if key in got and isinstance(expected[key], Tensor) and expected[key].shape != got[key].shape
    ]
    if missing or extra or reshaped:
        raise ValueError(
            f"the state of {name!r} must come from the same program; got one without {missing[:5]}, with the unknown "
            f"{extra[:5]}, and with other shapes for {reshaped[:5]}. Build the programs as they were built when it was "
            "saved (programs with pyro.param, and AutoGuides, must have run once)."
        )


def _check_same_optimizer(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    groups = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    own_groups = [len(group["params"]) for group in own["optimizer"]["param_groups"]]
    kinds = own["optimizer_type"], state["optimizer_type"]
    if kinds[0] != kinds[1] or groups != own_groups:
        raise ValueError(
            f"the state of the optimiser must come from the same one; got that of {kinds[1]} with groups of {groups} "
            f"parameters for {kinds[0]} with {own_groups}. Build the optimiser as it was built when it was saved."
        )
