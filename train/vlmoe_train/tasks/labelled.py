"""Classification of an image, a text, or an image with a question: cross-entropy."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_train.tasks.base import Batch, Task, in_order


class LabelledTask(Task):
    """One right label a sample."""

    def batch(self, seed: int, step: int) -> Batch:
        """See `Task.batch`."""
        rows = self.chosen(seed, step)
        images = None if self.head.image is None else self.images(rows)
        runs, order = self.runs([self.samples.texts[row] for row in rows], images)
        targets = torch.from_numpy(self.targets[rows])

        def loss(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
            logits = in_order(outputs, order)
            with torch.no_grad():
                hits = (logits.argmax(dim=-1) == targets).float().mean()
            return {"loss": F.cross_entropy(logits, targets), "accuracy": hits}

        return Batch(tuple(runs), loss)
