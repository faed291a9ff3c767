"""Training by several processes, each with a part of the data: equal parameters, and mean gradients."""

__all__ = ["Processes"]

from collections.abc import Sequence

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.nn.utils import parameters_to_vector


class Processes:
    """Those who train together.

    Arguments:
        group: of ``torch.distributed``, whose backend must suit the parameters' device.

    Raises:
        ValueError: this process is not one of them.
    """

    def __init__(self, group: ProcessGroup) -> None:
        if not distributed.is_available() or not distributed.is_initialized() or distributed.get_rank(group) < 0:
            raise ValueError(
                "a process must be one of the group it trains with; got one that is not. Call "
                "torch.distributed.init_process_group first, and pass torch.distributed.group.WORLD."
            )
        self._group = group

    def __deepcopy__(self, memo: dict[int, object]) -> "Processes":
        return self

    def agree(self, parameters: Sequence[Tensor]) -> None:
        """Gives every process the parameters of the first.

        Raises:
            ValueError: the processes have parameters of other sizes.
        """
        own = torch.tensor([parameter.numel() for parameter in parameters], device=parameters[0].device)
        sizes = [torch.zeros_like(own.sum()) for _ in range(distributed.get_world_size(self._group))]
        distributed.all_gather(sizes, own.sum(), self._group)
        if len(set(map(int, sizes))) > 1:
            raise ValueError(
                f"all processes must train the same programs; got {list(map(int, sizes))} numbers in their parameters. "
                "Build model and guide in the same way in each."
            )
        flat = parameters_to_vector([parameter.detach() for parameter in parameters])
        distributed.broadcast(flat, distributed.get_global_rank(self._group, 0), self._group)
        with torch.no_grad():
            for parameter, part in zip(parameters, flat.split(own.tolist()), strict=True):
                parameter.copy_(part.view_as(parameter))

    def average(self, parameters: Sequence[Tensor], loss: float) -> float:
        """Makes every gradient the mean over the processes, and returns the mean loss.

        A process where a parameter has no gradient counts as zero, unless no process has one.
        """
        has_gradient = [parameter.grad is not None for parameter in parameters]
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        notes = torch.tensor([loss, *has_gradient], dtype=torch.float32, device=parts[0].device)
        flat = torch.cat([notes, *(part.flatten() for part in parts)])
        distributed.all_reduce(flat, group=self._group)
        flat /= distributed.get_world_size(self._group)
        mean, flags, *means = flat.split([1, len(parts), *(part.numel() for part in parts)])
        for parameter, part, flag in zip(parameters, means, flags.tolist(), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter) if flag else None
        return float(mean)
