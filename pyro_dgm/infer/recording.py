"""What a program has drawn, and in which plates, for another program that goes on from there."""

__all__ = ["Recording", "record"]

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, final

from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor

from pyro_dgm.infer.data_plate import same_plate
from pyro_dgm.infer.forward import is_same_data
from pyro_dgm.infer.programs import DATA_PLATE, Program, Site, data_frame_of, is_data, plates_of, sample_sites


class Recording(NamedTuple):
    """A run of a program inside of another.

    Arguments:
        trace: its sample sites, with the plates that the program opened itself.
        returned: what it returned.
    """

    trace: Trace
    returned: Any

    @property
    def sites(self) -> dict[str, Site]:
        """The sample sites by name, in the order they were drawn."""
        return sample_sites(self.trace)

    def data_plate_around(self, names: Sequence[str]) -> AbstractContextManager[Any]:
        """Opens the plate of the data again, in which all the sites named must stand, and in no other plate.

        A run that observes nothing has the plate named ``data``, or else the outermost one of the first site named.

        Raises:
            ValueError: there is no such plate, or a site stands outside of it or in another one as well.
        """
        stacks = {name: plates_of(self.trace.nodes[name]) for name in names}
        frame = data_frame_of(self.trace)
        if not any(is_data(site) or site_is_factor(site) for site in self.sites.values()):
            first = next(iter(stacks.values()), [])
            frame = next((own for own in first if own.name == DATA_PLATE), next(iter(first), None))
        wrong = {name: [own.name for own in stack] for name, stack in stacks.items() if stack != [frame]}
        if frame is None or wrong:
            raise ValueError(
                "an auxiliary variable of each datum is given latents that stand in the plate of the data alone; got "
                f"the plates {wrong}, and the data in {None if frame is None else frame.name!r}. Name latents of the "
                "datum, and open pyro.plate('data', len(x)) around them."
            )
        return same_plate(frame)

    def seen_by(self, argument: Tensor) -> Tensor:
        """What an argument of the program stands for in this run.

        That is the argument, unless a site that observes it, or a reshaped view of all of it, was made to draw instead
        (``poutine.uncondition``): then it is the draw, of the argument's shape behind the dimensions of particles.
        """
        for site in self.sites.values():
            observed = site["infer"].get("obs")
            if site["infer"].get("was_observed") and is_same_data(argument, observed):
                drawn = site["value"]
                shape = *drawn.shape[: drawn.dim() - observed.dim()], *argument.shape
                return drawn.reshape(shape).to(argument.dtype)
        return argument


def record(program: Program, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Recording:
    """Runs a program as a part of another, and keeps what it has drawn."""
    with _Recorder() as recorder:
        returned = program(*args, **kwargs)
    return Recording(recorder.trace, returned)


@final
class _Recorder(Messenger):
    """Keeps each site when its value is known, with the plates that were opened inside of this handler.

    Handlers see a site from the inside outwards before it has a value, so that outer plates have not yet left their
    mark then; and they are done with it from the outside inwards, so that its value is then what all of them made it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trace = Trace()
        self._plates: dict[str, tuple[CondIndepStackFrame, ...]] = {}

    def _pyro_sample(self, msg: Message) -> None:
        self._plates[str(msg["name"])] = msg["cond_indep_stack"]

    def _pyro_post_sample(self, msg: Message) -> None:
        if not site_is_subsample(msg):
            name = str(msg["name"])
            self.trace.add_node(name, **{**msg, "cond_indep_stack": self._plates[name]})
