"""Batches of tensors in memory, in an order that a checkpoint can hold."""

__all__ = ["Batches"]

from collections.abc import Callable, Iterator
from typing import Any, final

import torch
from torch import Tensor

Transform = Callable[[Tensor, torch.Generator], Tensor]


@final
class Batches:
    """Minibatches of one or several tensors, by one `index_select` each: no Python per datum.

    Iterating goes through the data once. With one tensor it yields tensors, with several tuples. The order and the
    draws of `transform` come from a generator of its own, on the tensors' device, never from torch's global one.

    `state_dict` tells which batches were yielded. After `load_state_dict` the first iteration continues the
    interrupted epoch with exactly the batches that were left, transforms included, and later ones are the epochs that
    would have followed. If the state was taken after the last batch of an epoch but before its loop had ended, nothing
    is left and the first iteration is empty. Without `load_state_dict` every iteration begins a new epoch, also after
    a `break`.

    Arguments:
        tensors: Tensors with the same number of rows, on one device.
        batch_size: Rows of a batch.
        shuffle: Draw a new order for every epoch; else keep the order of the rows.
        seed: Seed of the generator.
        transform: Applied to the batch of the first tensor, with the generator: `transform(batch, generator)`;
            `binarize` is one.
        drop_last: Leave out the last batch of an epoch if it has fewer rows.

    Raises:
        TypeError: If something else than tensors is given.
        ValueError: If there are no rows, their numbers or devices differ, or batch_size is not a positive integer, or
            larger than the data with drop_last.

    Example:
        >>> [batch.tolist() for batch in Batches(torch.arange(5), batch_size=2, shuffle=False)]
        [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        *tensors: Tensor,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        transform: Transform | None = None,
        drop_last: bool = False,
    ):
        _check_tensors(tensors)
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer; got {batch_size!r}. Use 1 for single data.")
        if drop_last and batch_size > len(tensors[0]):
            raise ValueError(
                f"batch_size must be at most the number of rows with drop_last; got {batch_size} for "
                f"{len(tensors[0])} rows, which leaves no batch. Use drop_last=False or a smaller batch_size."
            )
        self.tensors = tensors
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.transform = transform
        self.drop_last = drop_last
        self._generator = torch.Generator(device=tensors[0].device).manual_seed(seed)
        self._epoch_begin = self._generator.get_state()
        self._position = 0  # batches yielded in the present epoch
        self._resuming = False

    @property
    def num_rows(self) -> int:
        """Number of data, the first dimension of every tensor."""
        return len(self.tensors[0])

    def __len__(self) -> int:
        """Number of batches of an epoch."""
        return self.num_rows // self.batch_size if self.drop_last else -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        order = self._continue_epoch() if self._resuming else self._begin_epoch()
        for position in range(self._position, len(self)):
            rows = order[position * self.batch_size : (position + 1) * self.batch_size]
            batch = [tensor.index_select(0, rows) for tensor in self.tensors]
            if self.transform is not None:
                batch[0] = self.transform(batch[0], self._generator)
            self._position = position + 1
            yield tuple(batch) if len(batch) > 1 else batch[0]
        self._position = 0

    def state_dict(self) -> dict[str, Any]:
        """What is needed to go on from here: plain integers and the generator's states as CPU byte tensors."""
        return {
            **self._layout(),
            "position": self._position,
            "epoch_begin": self._epoch_begin,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` gave for the same data and arguments.

        Arguments:
            state: The state; its tensors may have been moved to another device by `torch.load`.

        Raises:
            ValueError: If the state is of other data or arguments, of another device's generator, or incomplete; the
                order is then left as it was.
        """
        expected = self._layout()
        got = {key: state.get(key) for key in expected}
        missing = {"position", "epoch_begin", "generator"} - state.keys()
        if got != expected or missing:
            raise ValueError(
                f"the state of Batches must be of the same data and arguments, {expected}; got {got}"
                f"{f' without {sorted(missing)}' if missing else ''}. Make Batches as in the run that saved the state."
            )
        epoch_begin, now = state["epoch_begin"].cpu(), state["generator"].cpu()  # torch keeps such states on the CPU
        try:
            self._generator.set_state(now)
        except (RuntimeError, TypeError) as err:
            raise ValueError(
                f"the state of Batches must be of a generator on {self._generator.device}; got one that torch refuses "
                f"({err}). Put the data on the device of the run that saved the state."
            ) from err
        self._epoch_begin = epoch_begin
        self._position = int(state["position"])
        self._resuming = self._position > 0

    def _layout(self) -> dict[str, int]:
        return {
            "num_rows": self.num_rows,
            "batch_size": self.batch_size,
            "shuffle": int(self.shuffle),
            "drop_last": int(self.drop_last),
        }

    def _begin_epoch(self) -> Tensor:
        self._position = 0
        self._epoch_begin = self._generator.get_state()
        return self._order()

    def _continue_epoch(self) -> Tensor:
        """Draws the interrupted epoch's order again, and puts the generator back to where it was."""
        self._resuming = False
        now = self._generator.get_state()
        self._generator.set_state(self._epoch_begin)
        order = self._order()
        self._generator.set_state(now)
        return order

    def _order(self) -> Tensor:
        device = self._generator.device
        if self.shuffle:
            return torch.randperm(self.num_rows, generator=self._generator, device=device)
        return torch.arange(self.num_rows, device=device)


def _check_tensors(tensors: tuple[Tensor, ...]) -> None:
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        kinds = [type(tensor).__name__ for tensor in tensors]
        raise TypeError(f"Batches needs one or more tensors; got {kinds}. Use torch.as_tensor for arrays and lists.")
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if any(tensor.dim() == 0 or len(tensor) == 0 for tensor in tensors):
        raise ValueError(f"every tensor of Batches must have rows; got shapes {shapes}. Pass data of shape (N, ...).")
    if len({len(tensor) for tensor in tensors}) > 1:
        raise ValueError(
            f"the tensors of Batches must have the same number of rows; got shapes {shapes}. "
            "Pass data, labels and lengths of one split."
        )
    devices = {str(tensor.device) for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"the tensors of Batches must be on one device; got {sorted(devices)}. Move them to one.")
