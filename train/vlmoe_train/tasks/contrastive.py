"""Images and captions of concepts into one space.

Each concept has a prototype, a vector that only training knows. Images and captions are both classified against all
prototypes, and against each other inside the batch. Before the first step the prototypes are the mean embeddings of
the concept's own drawings ("imprinting", Qi et al. 2018): from a random start the image side does not leave chance.
"""

# N = images of a batch, M = captions of a batch, C = concepts, D = width of the embedding

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmoe_model.config import ModelConfig
from vlmoe_model.packing import SequenceRun
from vlmoe_model.tokenizer import Tokenizer
from vlmoe_train.config import TaskRecipe
from vlmoe_train.data.samples import Samples
from vlmoe_train.tasks.base import Batch, Task, in_order

SCALE = 20.0
CHUNK = 256


class ContrastiveTask(Task):
    """Captions are `samples.labels`; the target of an image is its concept."""

    def __init__(
        self,
        recipe: TaskRecipe,
        samples: Samples,
        config: ModelConfig,
        tokenizer: Tokenizer,
        labels: Sequence[str],
    ) -> None:
        super().__init__(recipe, samples, config, tokenizer, labels)
        self.captions = tuple(samples.labels)
        self.tokens = {caption: tokenizer.encode(caption)[: self.head.max_text] for caption in self.captions}
        self.concepts = samples.targets
        self.prototypes = nn.Parameter(torch.randn(len(self.captions), self.head.out_dim))

    @torch.no_grad()
    def prepare(self, embed: Callable[[Sequence[SequenceRun]], list[Tensor]]) -> None:
        """Imprint the prototypes."""
        total = torch.zeros_like(self.prototypes)
        for start in range(0, len(self.samples), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(self.samples)))
            embeddings = embed([self.run(None, self.images(rows, augment=False))])[0]
            total.index_add_(0, torch.from_numpy(self.concepts[rows]), embeddings)
        seen = total.norm(dim=1) > 0
        centred = total[seen] / total[seen].norm(dim=1, keepdim=True)
        self.prototypes[seen] = F.normalize(centred, dim=1)
        self.prototypes[~seen] = F.normalize(self.prototypes[~seen], dim=1)

    def batch(self, seed: int, step: int) -> Batch:
        """See `Task.batch`."""
        rows = self.chosen(seed, step)
        images = self.images(rows)
        concepts = torch.from_numpy(self.concepts[rows])
        # captions: the concepts of the images once each, and others drawn at random
        drawn = torch.randint(len(self.captions), (self.recipe.texts,))
        of_texts: Tensor = torch.unique(torch.cat([concepts, drawn]))
        text_runs, order = self.runs([self.captions[i] for i in of_texts.tolist()], None)
        image_run = self.run(None, images)

        def loss(outputs: Sequence[Tensor]) -> dict[str, Tensor]:
            images_ND, texts_MD = outputs[0].float(), in_order(outputs[1:], order)
            prototypes_CD = F.normalize(self.prototypes, dim=1)
            to_prototype = F.cross_entropy(SCALE * images_ND @ prototypes_CD.T, concepts)
            text_logits = SCALE * texts_MD @ prototypes_CD.T
            text_loss = F.cross_entropy(text_logits, of_texts)
            place = torch.searchsorted(of_texts, concepts)
            to_text = F.cross_entropy(SCALE * images_ND @ texts_MD.T, place)
            with torch.no_grad():
                hits = (text_logits.argmax(dim=1) == of_texts).float().mean()
            total = to_prototype + text_loss + 0.5 * to_text
            return {
                "loss": total,
                "image": to_prototype,
                "text": text_loss,
                "pair": to_text,
                "text_accuracy": hits,
            }

        return Batch((image_run, *text_runs), loss)
