"""The whole network: embeddings, encoder, heads."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from vlmoe_kernels import Backend, LearningBackend
from vlmoe_kernels.collectives import Group
from vlmoe_model.config import ModelConfig
from vlmoe_model.dispatch.expert_parallel import Split
from vlmoe_model.dispatch.holdings import Holdings
from vlmoe_model.embeddings import Embeddings
from vlmoe_model.encoder import Block, Encoder
from vlmoe_model.feed_forward import FeedForward, ObserveLoad
from vlmoe_model.heads import HEADS, States
from vlmoe_model.layers import Linear
from vlmoe_model.packing import Packed
from vlmoe_model.replay import Replay
from vlmoe_model.routing import AUX_LOSSES, Routing
from vlmoe_model.stems.gradient import GradientStem


class VLMoE(nn.Module):
    """VL-MoE (Shen et al. 2023): one Transformer for images and texts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.heads = nn.ModuleDict({head.name: HEADS[head.task](head, config) for head in config.heads})
        self.replay: Replay | None = None

    def pack(self, backend: Backend, dtype: torch.dtype) -> None:
        """Prepare for inference, for good: matrices are given up to a backend; stem and heads stay in float32."""
        self.encoder.pack(backend, dtype)
        for part in (self.embeddings, self.heads):
            for module in part.modules():
                if isinstance(module, Linear):
                    module.pack(backend, torch.float32)
                elif isinstance(module, GradientStem):
                    module.pack(backend)

    def record(self, backend: Backend, device: torch.device) -> None:
        """Play the encoder's launches from recordings, where the backend and the device can; once it is packed."""
        self.replay = Replay.of(self.encoder, self.config, backend, device)

    def quantise_experts(self) -> None:
        """Have the matrices of mixture blocks packed in int8."""
        for module in self.modules():
            if isinstance(module, FeedForward):
                module.int8 = module.is_moe

    def learn_with(self, backend: LearningBackend) -> None:
        """Train the feed-forward layers with a backend's kernels; plain torch does until then."""
        for module in self.modules():
            if isinstance(module, FeedForward):
                module.learn_with(backend)

    def share_experts(self, group: Group, holdings: Holdings, split: Split, *, movable: bool = False) -> None:
        """Keep one rank's part of the experts; before weights are loaded and packed.

        Args:
            group: the ranks.
            holdings: what each of them holds.
            split: of tokens over copies.
            movable: what is held may change later.

        Raises:
            ValueError: the holdings are for another network or other ranks.
        """
        holdings.check(self.config, group.size)
        for index, block in enumerate(self.encoder.blocks):
            if isinstance(block, Block) and block.ffn.is_moe:
                block.ffn.share_experts(group, holdings.layers[index], split, movable=movable)

    def observe_load(self, observe: ObserveLoad) -> None:
        """Have it told, for every mixture of every step, how many rows its routed groups get.

        A GPU that routes by itself counts by itself: see `take_load`.

        Args:
            observe: block, rows of each group, None; over several ranks block, [groups, ranks] rows of each rank, and
                [groups, from, to] where they went.
        """
        for index, block in enumerate(self.encoder.blocks):
            if isinstance(block, Block):
                block.ffn.observe_load(observe, index)

    def take_load(self) -> Iterator[tuple[int, list[int], int]]:
        """Of every mixture that routes on its device: block, rows of each routed group, steps; since the last time."""
        for index, block in enumerate(self.encoder.blocks):
            if isinstance(block, Block) and (taken := block.ffn.take_load()) is not None:
                yield index, *taken

    def take_part(self, device: torch.device | str) -> None:
        """Serve the experts of this rank in a step in which it has no sequences."""
        for block in self.encoder.blocks:
            if isinstance(block, Block):
                block.ffn.take_part(device)

    def encode(self, packed: Packed, log: list[Routing] | None = None) -> list[States]:
        """The encoder's states of every run; mixtures append their routings to `log`."""
        embedded = [self.embeddings(run) for run in packed.runs]
        x_TD = torch.cat([x for x, _ in embedded])
        played_TD = self.replay(x_TD, packed) if self.replay is not None and log is None else None
        x_TD = self.encoder(x_TD, packed, log) if played_TD is None else played_TD
        parts = x_TD.split([run.num_sequences * run.length for run in packed.runs])
        return [
            States(run, part.view(run.num_sequences, run.length, -1), patches)
            for run, part, (_, patches) in zip(packed.runs, parts, embedded, strict=True)
        ]

    def forward(self, packed: Packed, log: list[Routing] | None = None) -> list[Tensor]:
        """Per run [N, out_dim] of the run's head: logits, or unit embeddings."""
        return [self.heads[states.run.head](states) for states in self.encode(packed, log)]

    def aux_loss(self, log: list[Routing]) -> Tensor:
        """Weighted sum of the balance losses of all routings that saw tokens."""
        routings = [routing for routing in log if routing.logits_TE.shape[0]]
        if self.config.aux_loss == "none" or not routings:
            return torch.zeros(())
        loss = AUX_LOSSES[self.config.aux_loss]
        return self.config.aux_weight * torch.stack([loss(routing) for routing in routings]).sum()
