from vlmoe_model.checkpoint.delta import save_delta
from vlmoe_model.checkpoint.directory import open_directory
from vlmoe_model.checkpoint.weights import load_state, save
from vlmoe_model.config import HeadConfig, ImageSpec, ModelConfig
from vlmoe_model.network import VLMoE
from vlmoe_model.tokenizer import train_wordpiece
from vlmoe_serve.catalog.family import families

CONFIG = ModelConfig(
    dim=8,
    num_layers=2,
    num_heads=2,
    ffn_dim=16,
    vocab_size=100,
    image_size=8,
    patch_size=4,
    max_text=12,
    moe_blocks=(1,),
    num_experts=2,
    heads=(HeadConfig(name="a", task="contrastive", out_dim=4, image=ImageSpec(size=8), max_text=8),),
)


def test_checkpoints_with_a_file_in_common_are_a_family(tmp_path):
    tokenizer = train_wordpiece(["a cat"], 60)
    for name in ("one", "two"):
        save(tmp_path / name, CONFIG, VLMoE(CONFIG).state_dict(), tokenizer, {})
    state = load_state(tmp_path / "one")
    changed = {name: t if ".ffn." in name else t + 1 for name, t in state.items()}
    for name in ("delta", "other"):
        save_delta(tmp_path / name, tmp_path / "one", CONFIG, changed, tokenizer, {})

    def grouped(*names):
        return families([open_directory(tmp_path / name) for name in names])

    assert grouped("one") == [[0]]
    assert grouped("one", "two") == [[0], [1]]
    assert grouped("delta", "two", "other", "one") == [[0, 2, 3], [1]]
    # the base need not be served itself
    assert grouped("two", "delta", "other") == [[0], [1, 2]]
    assert grouped("two", "two") == [[0, 1]]
