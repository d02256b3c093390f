"""The packed network against a padded one written out below, and the contract that an answer ignores its batch."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vlmoe_kernels import backend
from vlmoe_kernels.choice import why_not_native
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.inputs import Job
from vlmoe_model.network import VLMoE
from vlmoe_model.packing import normalise, pack

# B = jobs, L = padded length, D = dim, F = hidden width

VISION, TEXT = 0, 1

# name: what is changed in the tiny configuration
VARIANTS = {
    "plain": {},
    "patch stem, dense": {"moe_blocks": (), "num_experts": 1},
    "two choices": {"top_k": 2, "moe_blocks": (0, 1)},
    "no vl pool": {"vl_start": None},
    "vl pool everywhere": {"vl_start": 0, "moe_blocks": (0, 1), "top_k": 2},
    "image first": {"order": "image_first"},
    "multiway attention": {"multiway_attention": True},
    "sub-norms": {"sub_ln": True},
    "multiway sub-norms": {"sub_ln": True, "multiway_attention": True, "vl_start": None},
    "layer scale": {"layer_scale": 0.1},
    "key bias": {"key_bias": True},
    "multiway key bias": {"key_bias": True, "multiway_attention": True},
    "types": {"type_embeddings": True},
    "text norm": {"text_embedding_norm": True, "type_embeddings": True},
    "position offset": {"position_offset": 2},
    "no positions": {"absolute_position": False},
    "relative positions": {"relative_position": True, "absolute_position": False},
    "relative positions, image first": {"relative_position": True, "order": "image_first"},
    "no final norm": {"final_norm": False},
    "drop path at rest": {"drop_path": 0.5, "capacity_train": 0.5},
    "conv stem": {"stem": "conv"},
    "gradient stem": {"stem": "gradient"},
    "pools": {"pools": ("mean", "flatten")},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest, config: ModelConfig) -> ModelConfig:
    changes = dict(VARIANTS[request.param])
    pools = changes.pop("pools", ("cls", "cls"))
    heads = []
    for head in config.heads:
        kind = {"shapes": pools[0], "matching": pools[1]}.get(head.name, "cls")
        heads.append(dataclasses.replace(head, pool=kind))
    return dataclasses.replace(config, heads=tuple(heads), num_layers=2, **changes)


@pytest.fixture(params=["cpu", "cpu_native"])
def name(request: pytest.FixtureRequest) -> str:
    """The backends that serve on CPU."""
    if request.param == "cpu_native" and (reason := why_not_native()):
        pytest.skip(reason)
    return str(request.param)


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


def answers(network: VLMoE, jobs: Sequence[Job]) -> list[Tensor]:
    """One packed forward, outputs in the order of the jobs."""
    packed = pack(jobs, network.config)
    rows = [row for output in network(packed) for row in output]
    by_job = dict(zip(packed.jobs, rows, strict=True))
    return [by_job[i] for i in range(len(jobs))]


@torch.no_grad()
def test_the_packed_network_is_the_padded_one(
    variant: ModelConfig,
    name: str,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    network, jobs = build_network(variant), mixed_jobs(variant)
    expected = Padded(network)(jobs)
    for actual in (answers(network, jobs), answers(packed_for(name, network), jobs)):
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-4, atol=2e-5)


def packed_for(name: str, network: VLMoE, dtype: torch.dtype = torch.float32) -> VLMoE:
    """Give the network's weights to a backend."""
    network.requires_grad_(False).pack(backend(name), dtype)
    return network


def assert_independent_of_the_batch(network: VLMoE, jobs: Sequence[Job]) -> None:
    """Bit for bit: alone, in part of the batch, in another order, and twice."""
    whole = answers(network, jobs)
    for indices in (*([i] for i in range(len(jobs))), [3, 1, 2], [*range(len(jobs))][::-1], [0, 0, 5, 0]):
        part = answers(network, [jobs[i] for i in indices])
        assert all(torch.equal(a, whole[i]) for a, i in zip(part, indices, strict=True)), indices


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_an_answer_does_not_depend_on_its_batch(
    variant: ModelConfig,
    name: str,
    dtype: torch.dtype,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    network = packed_for(name, build_network(variant), dtype)
    assert_independent_of_the_batch(network, mixed_jobs(variant))


@pytest.fixture
def three_threads() -> Iterator[None]:
    """An uneven number: chunks of work end in the middle of a row."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
@pytest.mark.usefixtures("three_threads")
def test_nor_does_it_with_several_threads(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    network = packed_for("cpu", build_network(dataclasses.replace(config, stem="gradient")))
    assert_independent_of_the_batch(network, mixed_jobs(config))


@torch.inference_mode()
@pytest.mark.parametrize("router", ["top_k", "batch_priority"])
def test_with_a_capacity_an_answer_does_depend_on_its_batch(
    config: ModelConfig,
    router: str,
    build_network: Callable[..., VLMoE],
    mixed_jobs: Callable[[ModelConfig], list[Job]],
) -> None:
    config = dataclasses.replace(config, router=router, capacity_eval=1.0)
    network, jobs = packed_for("cpu", build_network(config)), mixed_jobs(config)
    whole = answers(network, jobs)
    assert not all(torch.equal(answers(network, [job])[0], w) for job, w in zip(jobs, whole, strict=True))


@torch.inference_mode()
def test_bf16_is_near_fp32(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    jobs = mixed_jobs(config)
    fp32, bf16 = (
        answers(packed_for("cpu", build_network(config), dtype), jobs)
        for dtype in (torch.float32, torch.bfloat16)
    )
    distance = torch.stack([(a - b).norm() / a.norm() for a, b in zip(fp32, bf16, strict=True)])
    # a token at the border between two experts may change sides, so not every answer is near
    assert distance.median() < 0.05


@torch.no_grad()
def test_position_interpolation_serves_a_head_of_another_size(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    large = HeadConfig(
        name="large", task="image_classification", out_dim=3, image=ImageSpec(size=16), max_text=0
    )
    config = dataclasses.replace(config, heads=(*config.heads, large))
    network = build_network(config)
    jobs = [build_job(config, "large"), build_job(config, "shapes")]
    assert [len(a) for a in answers(network, jobs)] == [3, 2]


@torch.no_grad()
def test_drop_path_is_for_training_only(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    config = dataclasses.replace(config, drop_path=0.5, router_noise=0.0, heads=config.heads)
    network, jobs = build_network(config), mixed_jobs(config)
    first, again = (torch.cat(answers(network, jobs)) for _ in range(2))
    assert torch.equal(first, again)
    network.train()
    first, again = (torch.cat(answers(network, jobs)) for _ in range(2))
    assert not torch.equal(first, again)


def gradients(network: VLMoE, jobs: Sequence[Job]) -> dict[str, float]:
    network.zero_grad(set_to_none=True)
    # uneven weights: the length of an embedding has no gradient
    y = torch.cat(answers(network, jobs))
    (y * torch.linspace(0.5, 2.0, len(y))).sum().backward()
    return {
        name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
        for name, parameter in network.named_parameters()
    }


@pytest.mark.parametrize(
    ("head", "num_text", "used", "unused"),
    [
        ("shapes", 0, {"V"}, {"T", "VL"}),
        ("entailment", 7, {"T"}, {"V", "VL"}),
        ("matching", 0, {"V"}, {"T", "VL"}),
        ("matching", 6, {"T"}, {"V", "VL"}),
    ],
    ids=["image", "text", "image to embed", "text to embed"],
)
def test_one_modality_reaches_its_own_pools_only(
    config: ModelConfig,
    build_network: Callable[..., VLMoE],
    build_job: Callable[..., Job],
    head: str,
    num_text: int,
    used: set[str],
    unused: set[str],
) -> None:
    found = gradients(build_network(config), [build_job(config, head, num_text)])
    for name, size in found.items():
        if ".ffn." in name:
            pool = name.split(".ffn.")[1].split(".")[1]
            if pool in unused:
                assert size == 0.0, name
    for block in range(config.num_layers):
        for pool in used:
            assert found[f"encoder.blocks.{block}.ffn.pools.{pool}.w1"] > 0


def test_a_pair_uses_v_and_t_below_vl_start_and_vl_alone_from_there(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0, 1))
    found = gradients(build_network(config), [build_job(config, "questions", 7)])
    for name, size in found.items():
        block, _, rest = name.removeprefix("encoder.blocks.").partition(".ffn.")
        if not rest:
            continue
        pool = rest.split(".")[1]
        if block == "0":
            assert pool in ("V", "T")
        elif pool == "VL":
            assert size > 0, name
        else:
            assert size == 0.0, name
    assert min(found[f"encoder.blocks.0.ffn.{part}"] for part in ("pools.V.w2", "pools.T.w2")) > 0


@pytest.mark.parametrize("pool", ["V", "T"])
def test_the_router_learns_from_the_task_with_one_choice(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job], pool: str
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0,))
    found = gradients(build_network(config), [build_job(config, "questions", 7)])
    assert found[f"encoder.blocks.0.ffn.routers.{pool}.weight"] > 0


@torch.no_grad()
def test_one_expert_is_the_dense_layer(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    """A softmax over one expert is a gate of 1."""
    mixture = build_network(dataclasses.replace(config, num_experts=1))
    dense = VLMoE(config.dense_twin()).eval()
    missing = dense.load_state_dict(mixture.state_dict(), strict=False)
    assert missing.missing_keys == []
    assert all(".routers." in name for name in missing.unexpected_keys)
    jobs = mixed_jobs(config)
    assert all(torch.equal(a, b) for a, b in zip(answers(mixture, jobs), answers(dense, jobs), strict=True))


@torch.no_grad()
def test_equal_experts_are_the_dense_layer_scaled_by_the_gate(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    config = dataclasses.replace(config, num_layers=1, moe_blocks=(0,), vl_start=None)
    network = build_network(config)
    for pool in network.encoder.blocks[0].ffn.pools.values():
        for parameter in pool.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter))
    packed = pack([build_job(config, "questions", 7)], config)
    x_TD, log = torch.randn(packed.num_tokens, config.dim), []
    ffn = network.encoder.blocks[0].ffn
    y_TD = ffn(x_TD, packed.modality, log)
    for rows, routing, pool in zip(packed.modality.rows, log, ffn.pools.values(), strict=True):
        hidden = F.gelu(F.linear(x_TD[rows], pool.w1[0], pool.b1[0]))
        dense = F.linear(hidden, pool.w2[0], pool.b2[0])
        torch.testing.assert_close(y_TD[rows], routing.gates_TK * dense)


def test_the_log_has_v_then_t_of_every_mixture(
    config: ModelConfig, build_network: Callable[..., VLMoE], mixed_jobs: Callable[[ModelConfig], list[Job]]
) -> None:
    config = dataclasses.replace(config, moe_blocks=(0, 1))
    packed, log = pack(mixed_jobs(config), config), []
    build_network(config)(packed, log)
    counts = [routing.logits_TE.shape[0] for routing in log]
    below, fused = ([len(rows) for rows in tokens.rows] for tokens in (packed.modality, packed.fused))
    assert counts == [*below, *fused[:2]]


def test_aux_loss_is_weighted_and_ignores_pools_without_tokens(
    config: ModelConfig, build_network: Callable[..., VLMoE], build_job: Callable[..., Job]
) -> None:
    network = build_network(dataclasses.replace(config, aux_loss="z", aux_weight=0.5))
    log = []
    network(pack([build_job(config, "shapes")], config), log)
    expected = 0.5 * log[0].logits_TE.logsumexp(1).square().mean()
    torch.testing.assert_close(network.aux_loss(log), expected)
    assert network.aux_loss([]) == 0
    assert build_network(dataclasses.replace(config, aux_loss="none")).aux_loss(log) == 0


def test_packing_gives_the_matrices_up(config: ModelConfig, build_network: Callable[..., VLMoE]) -> None:
    network = build_network(dataclasses.replace(config, sub_ln=True))
    before = {name: p.numel() for name, p in network.named_parameters()}
    packed_for("cpu", network)
    after = {name for name, _ in network.named_parameters()}
    matrices = {
        n for n in before if ".pools." in n or ".routers." in n or n.endswith(("qkv.weight", "out.weight"))
    }
    assert not after & matrices
    assert sum(before[name] for name in after) < 0.4 * sum(before.values())
