"""What must hold between the two players of a game, said in plain words when it does not."""

__all__ = ["check_apart", "check_averaged", "check_covered", "check_penalties"]

from collections.abc import Mapping, Sequence

from torch import nn

from pyro_dgm.adversarial.contrasts import AdversarialTerm
from pyro_dgm.adversarial.player import Player


def check_apart(player: Player, critic: Player) -> None:
    """Raises a ``ValueError`` where the two players share parameters."""
    own = {id(p): name for name, p in player.parameters.items()}
    own.update({id(p): own.get(id(p), "a parameter of optim") for p in player.optimized})
    others = [*critic.parameters.values(), *critic.optimized]
    shared = sorted({own[id(p)] for p in others if id(p) in own})
    if shared:
        raise ValueError(
            f"model and guide on one side and critics on the other must have parameters of their own; got "
            f"{shared[:3]} in both. Give the critic a network, and its optimiser parameters, of its own."
        )


def check_covered(player: Player, critic: Player) -> None:
    """Raises a ``ValueError`` where a parameter has a gradient and no optimiser."""
    held = {id(parameter) for one in (player, critic) for parameter in one.optimized}
    named = {**player.parameters, **critic.parameters}
    stray = [name for name, p in named.items() if p.grad is not None and id(p) not in held]
    if stray:
        raise ValueError(
            f"every parameter with a gradient must be one player's; got {stray[:3]} in no optimiser. Pass a "
            "callable such as functools.partial(torch.optim.Adam, lr=1e-4), which is given all of them."
        )


def check_averaged(programs: Mapping[str, nn.Module]) -> None:
    """Raises a ``ValueError`` where there is nothing to average, or not yet."""
    if not programs:
        raise ValueError("an average is taken of modules; got functions. Write the model as a module, or ema=None.")
    for name, program in programs.items():
        if any(getattr(part, "prototype_trace", 0) is None for part in program.modules()):
            raise ValueError(
                f"an average is taken of parameters that are there; got a {name} whose AutoGuide has not run. Call it "
                "once on a batch first."
            )


def check_penalties(terms: Sequence[AdversarialTerm]) -> None:
    """Raises a ``ValueError`` where two terms share what counts their steps."""
    penalties = [part for term in terms for name, part in term.critic_parts().items() if name.startswith("penalty")]
    if len({id(penalty) for penalty in penalties}) < len(penalties):
        raise ValueError(
            f"each contrast has penalties of its own, which count its steps; got one in two of {len(terms)}. Make "
            "another."
        )
