"""When to stop a training that no longer gets better, and which of its steps is the best."""

from collections.abc import Iterable, Sequence


class EarlyStopping:
    """The losses of a run's evaluations, and what follows from them.

    Attributes:
        losses: The step and the loss of each evaluation so far.
    """

    def __init__(self, patience: int = 0, losses: Iterable[Sequence[int | float]] = ()):
        """Continues from earlier evaluations.

        Args:
            patience: The number of evaluations without a better one that stop the training; 0
                never stops it.
            losses: The step and the loss of each evaluation before.
        """
        self.losses = [(int(step), float(loss)) for step, loss in losses]
        self._patience = patience

    def add(self, step: int, loss: float) -> None:
        """Adds the loss of an evaluation."""
        self.losses.append((step, loss))

    @property
    def best(self) -> int | None:
        """The step with the lowest loss, the last of equals, as checkpoints are kept."""
        if not self.losses:
            return None
        return min(reversed(self.losses), key=lambda pair: pair[1])[0]

    @property
    def is_over(self) -> bool:
        """Whether as many evaluations as `patience` came after the best one."""
        best = self.best
        if not self._patience or best is None:
            return False
        return sum(step > best for step, _ in self.losses) >= self._patience
