"""One training run as one frozen value, read from a recipe file."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vlmoe_model.checkpoint.directory import open_directory, resolve
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.presets import PRESETS

Augment = Literal["none", "flip", "affine", "drawing"]
RECIPES = Path(__file__).parent / "recipes"


class RecipeError(ValueError):
    """A recipe that cannot be read: one line with the field and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """A head to train; its labels come from the data of its tasks. embed_dim is the width of a contrastive head."""

    name: str
    task: str
    image: ImageSpec | None = None
    max_text: int = 0
    pool: str = "cls"
    hidden: int = 0
    embed_dim: int = 0

    def build(self, num_labels: int) -> HeadConfig:
        """The head with its labels counted."""
        return HeadConfig(
            name=self.name,
            task=self.task,  # type: ignore[arg-type]
            out_dim=self.embed_dim or num_labels,
            image=self.image,
            max_text=self.max_text,
            pool=self.pool,  # type: ignore[arg-type]
            hidden=self.hidden,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecipe:
    """One data set trained into one head.

    batch: samples of it in every step. texts: extra captions a step (contrastive). weight: factor of its loss.
    options: passed to the data set's loader.
    """

    data: str
    head: str
    batch: int
    weight: float = 1.0
    augment: Augment = "none"
    texts: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise RecipeError(f"batch of {self.data} must be positive, got {self.batch}")
        if self.augment not in get_args(Augment):
            raise RecipeError(f"augment must be one of {', '.join(get_args(Augment))}, got {self.augment!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides the weights that come out, but the data itself.

    base: checkpoint to start from, whose encoder and tokenizer the run keeps; "" starts from the seed.
    backend: kernels of the feed-forward layers by name, or `auto` for the best there are; `eager` is plain torch.
    delta: write only what changed against `base`, which must lie beside the output directory.
    """

    name: str
    model: ModelConfig
    heads: tuple[HeadRecipe, ...]
    tasks: tuple[TaskRecipe, ...]
    steps: int
    warmup_steps: int = 100
    lr: float = 1e-3
    final_lr_ratio: float = 0.01
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip_norm: float = 1.0
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    backend: str = "auto"
    freeze_experts: bool = False
    base: str = ""
    delta: bool = False
    log_every: int = 20
    save_every: int = 500
    card: str = ""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.warmup_steps < 0:
            raise RecipeError(f"steps must be positive, got {self.steps} with {self.warmup_steps} of warm-up")
        names = {head.name for head in self.heads}
        for task in self.tasks:
            if task.head not in names:
                raise RecipeError(
                    f"task {task.data} names head {task.head!r}; heads: {', '.join(sorted(names))}"
                )
        if self.delta and not self.base:
            raise RecipeError("delta needs a base")
        if not self.tasks:
            raise RecipeError("a recipe needs at least one task")


def load_recipe(name: str, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """A recipe of this package by name, or a YAML file.

    Raises:
        RecipeError: unknown name, broken YAML, an unknown or missing field, a value out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise RecipeError(f"no recipe {name!r}; recipes: {known}, or a .yaml file")
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
        fields = {"name": path.stem, **fields, **(overrides or {})}
        return _parse(fields)
    except (yaml.YAMLError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise RecipeError(f"{path.name}: {error}") from error


def _parse(fields: dict[str, Any]) -> TrainConfig:
    model = _model(fields)
    heads = tuple(
        HeadRecipe(**{**head, "image": ImageSpec(**head["image"]) if head.get("image") else None})
        for head in fields.pop("heads")
    )
    tasks = tuple(TaskRecipe(**task) for task in fields.pop("tasks"))
    if "betas" in fields:
        fields["betas"] = tuple(fields["betas"])
    return TrainConfig(model=model, heads=heads, tasks=tasks, **fields)


def _model(fields: dict[str, Any]) -> ModelConfig:
    """The encoder: a preset with changes, or that of the base."""
    if fields.get("base"):
        if "model" in fields:
            raise RecipeError("a recipe has either a model or a base, not both")
        return open_directory(resolve(fields["base"])).config
    model = dict(fields.pop("model"))
    preset = model.pop("preset", "demo")
    if preset not in PRESETS:
        raise RecipeError(f"model.preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    if "moe_blocks" in model:
        model["moe_blocks"] = tuple(model["moe_blocks"])
    return dataclasses.replace(PRESETS[preset], **model)
