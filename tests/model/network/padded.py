"""The network the plain way: the truth that the packed one is held against."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import normalise

# B = jobs, L = padded length, D = dim, F = hidden width

VISION, TEXT = 0, 1


def norm(x_D: Tensor, module: torch.nn.Module, group: int) -> Tensor:
    return F.layer_norm(x_D, x_D.shape, module.weight[group], module.bias[group], module.eps)


class Padded:
    """The same parameters, used the plain way: a padded batch, masked attention, a loop over tokens."""

    def __init__(self, network: VLMoE) -> None:
        self.network, self.config = network, network.config
        self.groups = 2 if self.config.multiway_attention else 1

    def __call__(self, jobs: Sequence[Job]) -> list[Tensor]:
        embedded = [self.embed(job) for job in jobs]
        longest = max(len(x_LD) for x_LD, *_ in embedded)
        # the padding is full of noise: it must not matter
        x_BLD = torch.randn(len(jobs), longest, self.config.dim)
        real_BL = torch.zeros(len(jobs), longest, dtype=torch.bool)
        modality_BL = torch.zeros(len(jobs), longest, dtype=torch.int64)
        for b, (x_LD, modality_L, _) in enumerate(embedded):
            x_BLD[b, : len(x_LD)], real_BL[b, : len(x_LD)], modality_BL[b, : len(x_LD)] = (
                x_LD,
                True,
                modality_L,
            )
        for index, block in enumerate(self.network.encoder.blocks):
            x_BLD = x_BLD + self.attend(block, index, x_BLD, real_BL, modality_BL)
            x_BLD = x_BLD + self.feed_forward(block.ffn, block, index, x_BLD, real_BL, modality_BL)
        outputs = []
        for b, (job, (x_LD, modality_L, patches)) in enumerate(zip(jobs, embedded, strict=True)):
            states = list(x_BLD[b, : len(x_LD)])
            if self.network.encoder.norm is not None:
                states = [
                    norm(x_D, self.network.encoder.norm, min(int(m), self.groups - 1))
                    for x_D, m in zip(states, modality_L, strict=True)
                ]
            outputs.append(self.head(job, torch.stack(states), modality_L, patches))
        return outputs

    def embed(self, job: Job) -> tuple[Tensor, Tensor, Tensor | None]:
        config, parts = self.config, self.network.embeddings
        offset, patches = config.position_offset, None
        sides = {}
        if job.example.tokens is not None:
            rows = []
            for position, token in enumerate(job.example.tokens):
                x_D = parts.words[int(token)]
                if config.absolute_position:
                    x_D = x_D + parts.text_positions[offset + position]
                if config.text_embedding_norm:
                    x_D = F.layer_norm(x_D, x_D.shape, parts.text_norm.weight, parts.text_norm.bias, 1e-12)
                if config.type_embeddings:
                    x_D = x_D + parts.types[0]
                rows.append(x_D)
            sides["text"] = (torch.stack(rows), torch.full((len(rows),), TEXT))
        if job.example.image is not None:
            pixels = normalise(torch.from_numpy(job.example.image)[None], config, job.head)
            patches = parts.stem(pixels)[0]
            x_LD = torch.cat([parts.image_cls, patches])
            if config.absolute_position:
                x_LD = x_LD + parts.image_positions[offset:]
            if config.type_embeddings:
                x_LD = x_LD + parts.types[1]
            sides["image"] = (x_LD, torch.full((len(x_LD),), VISION))
        order = ("text", "image") if config.order == "text_first" else ("image", "text")
        present = [sides[side] for side in order if side in sides]
        return torch.cat([x for x, _ in present]), torch.cat([m for _, m in present]), patches

    def attend(
        self, block: torch.nn.Module, index: int, x_BLD: Tensor, real_BL: Tensor, modality_BL: Tensor
    ) -> Tensor:
        config, attn = self.config, block.attn
        num_jobs, longest, dim = x_BLD.shape
        group_BL = modality_BL.clamp_max(self.groups - 1)
        qkv = torch.zeros(num_jobs, longest, 3 * dim)
        for b in range(num_jobs):
            for i in range(longest):
                g = int(group_BL[b, i])
                k_bias = torch.zeros(dim) if attn.k_bias is None else attn.k_bias[g]
                bias = torch.cat([attn.q_bias[g], k_bias, attn.v_bias[g]])
                qkv[b, i] = attn.qkv.weight[g] @ norm(x_BLD[b, i], block.norm1, g) + bias
        q, k, v = (
            t.view(num_jobs, longest, config.num_heads, -1).transpose(1, 2) for t in qkv.split(dim, dim=2)
        )
        mask = torch.zeros(num_jobs, config.num_heads, longest, longest)
        mask.masked_fill_(~real_BL[:, None, None, :], -torch.inf)
        if config.relative_position:
            self.add_relative(mask, index, real_BL, modality_BL)
        y_BLD = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(x_BLD.shape)
        out = torch.zeros_like(x_BLD)
        for b in range(num_jobs):
            for i in range(longest):
                g, y_D = int(group_BL[b, i]), y_BLD[b, i]
                if attn.inner_norm is not None:
                    y_D = norm(y_D, attn.inner_norm, g)
                out[b, i] = attn.out.weight[g] @ y_D + attn.out_bias[g]
        return out if block.scale1 is None else out * block.scale1

    def add_relative(self, mask: Tensor, index: int, real_BL: Tensor, modality_BL: Tensor) -> None:
        """VLMo's rows, one pair of tokens at a time."""
        heads, grid, max_text = self.config.num_heads, self.config.grid, self.config.max_text
        table = self.network.encoder.relative.table[:, index * heads : (index + 1) * heads]
        num_image = (2 * grid - 1) ** 2 + 3
        total = num_image + 2 * max_text + 2
        for b, real_L in enumerate(real_BL):
            length = int(real_L.sum())
            first = {m: (modality_BL[b, :length] == m).int().argmax().item() for m in (VISION, TEXT)}
            for i in range(length):
                for j in range(length):
                    mi, mj = int(modality_BL[b, i]), int(modality_BL[b, j])
                    pi, pj = i - first[mi], j - first[mj]
                    if mi != mj:
                        row = num_image if mi == TEXT else num_image + 1
                    elif pi == 0 or pj == 0:
                        end = num_image if mi == VISION else total
                        row = end - (1 if pi == pj else 3 if pi == 0 else 2)
                    elif mi == VISION:
                        (yi, xi), (yj, xj) = divmod(pi - 1, grid), divmod(pj - 1, grid)
                        row = (yi - yj + grid - 1) * (2 * grid - 1) + xi - xj + grid - 1
                    else:
                        row = num_image + 2 + (pj - pi) + max_text - 2
                    mask[b, :, i, j] += table[row]

    def feed_forward(
        self,
        ffn: torch.nn.Module,
        block: torch.nn.Module,
        index: int,
        x_BLD: Tensor,
        real_BL: Tensor,
        modality_BL: Tensor,
    ) -> Tensor:
        config, y_BLD = self.config, torch.zeros_like(x_BLD)
        for b in range(len(x_BLD)):
            is_pair = len(modality_BL[b][real_BL[b]].unique()) == 2
            for i in real_BL[b].nonzero()[:, 0]:
                is_fused = config.vl_start is not None and index >= config.vl_start and is_pair
                pool_index = 2 if is_fused else int(modality_BL[b, i])
                name = ("V", "T", "VL")[pool_index]
                x_D = norm(x_BLD[b, i], block.norm2, pool_index)
                if index in config.moe_blocks and not is_fused:
                    probs_E = (ffn.routers[name].weight @ x_D).softmax(0)
                    chosen = probs_E.argsort(descending=True)[: config.top_k]
                    y_D = sum(probs_E[e] * self.expert(ffn.pools[name], int(e), x_D) for e in chosen)
                else:
                    y_D = self.expert(ffn.pools[name], 0, x_D)
                y_BLD[b, i] = y_D if block.scale2 is None else y_D * block.scale2
        return y_BLD

    def expert(self, pool: torch.nn.Module, e: int, x_D: Tensor) -> Tensor:
        h_F = pool.w1[e] @ x_D + pool.b1[e]
        h_F = h_F * 0.5 * (1 + torch.erf(h_F / math.sqrt(2)))
        if pool.mid_weight is not None:
            h_F = F.layer_norm(h_F, h_F.shape, pool.mid_weight[e], pool.mid_bias[e], self.config.norm_eps)
        return pool.w2[e] @ h_F + pool.b2[e]

    def head(self, job: Job, x_LD: Tensor, modality_L: Tensor, patches: Tensor | None) -> Tensor:
        config, head = self.config.head(job.head), self.network.heads[job.head]
        text, image = x_LD[modality_L == TEXT], x_LD[modality_L == VISION]

        def layer_norm(x: Tensor, module: torch.nn.Module) -> Tensor:
            return F.layer_norm(x, x.shape, module.weight, module.bias, self.config.norm_eps)

        def pooled() -> Tensor:
            if config.pool == "cls":
                return image[0] if self.config.final_norm else layer_norm(image[0], head.pool.norm)
            if config.pool == "mean":
                return layer_norm(image[1:].mean(0), head.pool.norm)
            return layer_norm(torch.cat([image[1:].flatten(), patches.flatten()]), head.pool.norm)

        if config.task == "vqa":
            pooled_D = torch.tanh(head.pooler.weight @ x_LD[0] + head.pooler.bias)
            hidden = layer_norm(head.up.weight @ pooled_D + head.up.bias, head.norm)
            return head.out.weight @ F.gelu(hidden) + head.out.bias
        if config.task == "image_classification":
            return head.out.weight @ pooled() + head.out.bias
        if config.task == "text_classification":
            return head.out.weight @ layer_norm(text[0], head.norm) + head.out.bias
        embedding = head.image_proj.weight @ pooled() if len(image) else head.text_proj.weight @ text[0]
        return embedding / embedding.norm()
