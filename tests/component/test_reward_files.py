"""The files of each reward: which are fetched, and what is said when they are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distar.bench.published import save_hpsv2
from distar.errors import ModelFileError
from distar.params import Profile, load_params
from distar.rewards.head import ScoreHead
from distar.rewards.hpsv2 import read_architecture
from distar.rewards.official import build_official
from distar.rewards.params import Aesthetic, Attributes, CLIPScore, HPSv2, ImageReward, PickScore
from distar.shared_params import read_strict
from tests.miniature import REPOSITORY, edit, state_licences
from tests.published import save_aesthetic, save_clip, save_image_reward

HPS = HPSv2(kind="hpsv2", source="hf://xswu/HPSv2@0", version="2.1", antialias=True)
IMAGE_REWARD = ImageReward(kind="image_reward", source="hf://THUDM/ImageReward@0", vocabulary="hf://bert@0")
AESTHETIC = Aesthetic(kind="aesthetic", source="hf://laion@0/head.pth", clip="hf://openai/clip@0")
PICKSCORE = PickScore(kind="pickscore", source="hf://yuvalkirstain/PickScore_v1@0")


def matching(patterns: tuple[str, ...], names: list[str]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def test_only_what_is_needed_is_fetched() -> None:
    hub = ["README.md", "HPS_v2_compressed.pt", "HPS_v2.1_compressed.pt"]
    (key, files), *others = HPS.model_files.items()
    assert (key, files.source, others) == ("", HPS.source, [])
    assert matching(files.patterns, hub) == ["HPS_v2.1_compressed.pt"]
    older = HPS.model_copy(update={"version": "2.0"}).model_files[""]
    assert matching(older.patterns, hub) == ["HPS_v2_compressed.pt"]

    parts = IMAGE_REWARD.model_files
    assert {key: files.source for key, files in parts.items()} == {
        "model": IMAGE_REWARD.source,
        "vocabulary": IMAGE_REWARD.vocabulary,
    }
    hub = ["README.md", "ImageReward.pt", "med_config.json"]
    assert matching(parts["model"].patterns, hub) == hub[1:]
    assert matching(parts["vocabulary"].patterns, ["tokenizer.json", "vocab.txt", "model.safetensors"]) == ["vocab.txt"]

    clip = ["config.json", "model.safetensors", "preprocessor_config.json", "merges.txt", "tokenizer.json"]
    clip += ["tokenizer_config.json", "vocab.json", "special_tokens_map.json"]
    pickscore = PICKSCORE.model_files[""]
    unneeded = ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "README.md", "onnx/config.json"]
    assert matching(pickscore.patterns + pickscore.optional, clip + unneeded) == clip
    parts = AESTHETIC.model_files
    assert {key: files.source for key, files in parts.items()} == {"head": AESTHETIC.source, "clip": AESTHETIC.clip}
    assert matching(parts["clip"].patterns, clip + unneeded) == clip[:3]
    assert matching(parts["head"].patterns, ["head.pth", "LICENSE"]) == ["head.pth"]


def test_every_file_of_the_tiny_rewards_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    rewards = load_params().profile.rewards
    assert {type(reward) for reward in rewards.values()} == {PickScore, CLIPScore, Attributes}
    for reward in rewards.values():
        ((key, files),) = reward.model_files.items()
        names = [path.name for path in Path(files.source.removeprefix("file://")).iterdir()]
        assert key == ""
        assert sorted(matching(files.patterns + files.optional, names)) == sorted(names)


def test_profile_takes_the_rewards(project: Path) -> None:
    profile = Path("profiles/mini.yaml")
    for reward in (HPS, IMAGE_REWARD, AESTHETIC):
        edit(profile, "rewards", reward.kind, value=reward.model_dump())
    state_licences(Path())
    rewards = read_strict(profile, Profile).rewards
    assert [rewards[reward.kind] for reward in (HPS, IMAGE_REWARD, AESTHETIC)] == [HPS, IMAGE_REWARD, AESTHETIC]


@pytest.mark.parametrize(
    ("size", "count"),
    [("HPSv2", 1_972_490_005 / 2), ("ImageReward", 1_786_880_927 / 4)],
)
def test_real_model_has_as_many_numbers_as_the_published_file(size: str, count: float, tmp_path: Path) -> None:
    """At the real size, but without memory for it."""
    from open_clip import CLIP
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    with torch.device("meta"):
        if size == "HPSv2":
            modules: list[torch.nn.Module] = [CLIP(**read_architecture(tmp_path))]
        else:
            vision: Any = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "image_size": 224}
            text: Any = {
                "vocab_size": 30524,
                "encoder_hidden_size": 1024,
                "num_attention_heads": 12,
                "is_decoder": True,
            }
            modules = [
                BlipVisionModel(BlipVisionConfig(**vision, num_attention_heads=16)),
                BlipTextModel(BlipTextConfig(**text), add_pooling_layer=False),
                ScoreHead(768),
                torch.nn.Linear(1024, 256),
                torch.nn.Linear(768, 256),
            ]
    numbers = sum(parameter.numel() for module in modules for parameter in module.parameters())
    assert 0 < count - numbers < 3e-4 * count  # names and the archive's directory take the rest


def lose(path: Path, name: str) -> None:
    checkpoint = torch.load(path)
    del checkpoint.get("state_dict", checkpoint)[name]
    torch.save(checkpoint, path)


def reshape(path: Path, name: str) -> None:
    checkpoint = torch.load(path)
    weights = checkpoint.get("state_dict", checkpoint)
    weights[name] = weights[name][:-1].clone()
    torch.save(checkpoint, path)


def shorten(path: Path, lines: int) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:lines]) + "\n")


def lose_safely(path: Path, name: str) -> None:
    weights = load_file(path)
    del weights[name]
    save_file(weights, path)


def set_config(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


HPS_FILE, MODEL_FILE = "HPS_v2.1_compressed.pt", "model/ImageReward.pt"
BLOCK = "blip.visual_encoder.blocks.1.attn.qkv.weight"

CASES: dict[str, tuple[Any, Callable[[Path], object], list[str]]] = {
    "hpsv2: tensor missing": (
        HPS,
        lambda folder: lose(folder / HPS_FILE, "ln_final.weight"),
        [HPS_FILE, "lacks tensors: ln_final.weight", "source"],
    ),
    "hpsv2: another shape": (
        HPS,
        lambda folder: reshape(folder / HPS_FILE, "ln_final.weight"),
        [HPS_FILE, "ln_final.weight has the shape [31], expected [32]", "source"],
    ),
    "hpsv2: another size": (
        HPS,
        lambda folder: set_config(folder / "open_clip_config.json", model_cfg=json.loads(DEEPER)),
        [HPS_FILE, "lacks tensors", "visual.transformer.resblocks.2", "more"],
    ),
    "hpsv2: the other version": (
        HPS,
        lambda folder: (folder / HPS_FILE).rename(folder / "HPS_v2_compressed.pt"),
        ["holds HPS_v2_compressed.pt, expected HPS_v2.1_compressed.pt for version 2.1", "set `version`"],
    ),
    "hpsv2: missing": (HPS, lambda folder: (folder / HPS_FILE).unlink(), [HPS_FILE, "does not exist", "rewards"]),
    "hpsv2: no state": (
        HPS,
        lambda folder: torch.save({"epoch": 1, "weights": {}}, folder / HPS_FILE),
        [HPS_FILE, "entries epoch, weights, expected `state_dict`"],
    ),
    "hpsv2: not a checkpoint": (
        HPS,
        lambda folder: (folder / HPS_FILE).write_text("version https://git-lfs.github.com/spec/v1\n"),
        [HPS_FILE, "not a PyTorch checkpoint", "fetch it again"],
    ),
    "image_reward: tensor missing": (
        IMAGE_REWARD,
        lambda folder: lose(folder / MODEL_FILE, BLOCK),
        [MODEL_FILE, "lacks tensors", "source"],
    ),
    "image_reward: text and weights of different sizes": (
        IMAGE_REWARD,
        lambda folder: set_config(folder / "model/med_config.json", intermediate_size=48),
        [MODEL_FILE, "intermediate.dense", "expected [48"],
    ),
    "image_reward: another model": (
        IMAGE_REWARD,
        lambda folder: torch.save({"layers.0.weight": torch.zeros(2)}, folder / MODEL_FILE),
        [MODEL_FILE, "expected in an ImageReward checkpoint", "source"],
    ),
    "image_reward: no width": (
        IMAGE_REWARD,
        lambda folder: (folder / "model/med_config.json").write_text('{"hidden_size": 32}'),
        ["med_config.json lacks vocab_size", "source"],
    ),
    "image_reward: no vocabulary": (
        IMAGE_REWARD,
        lambda folder: (folder / "vocabulary/vocab.txt").unlink(),
        ["vocab.txt does not exist", "rewards"],
    ),
    "image_reward: cut vocabulary": (
        IMAGE_REWARD,
        lambda folder: shorten(folder / "vocabulary/vocab.txt", 1000),
        ["vocab.txt holds 1000 tokens, expected the 30522", "vocabulary"],
    ),
    "image_reward: vocabulary of another model": (
        IMAGE_REWARD,
        lambda folder: set_config(folder / "model/med_config.json", vocab_size=30522),
        ["30524", "says 30522", "source"],
    ),
    "pickscore: tensor missing": (
        PICKSCORE,
        lambda folder: lose_safely(folder / "model.safetensors", "visual_projection.weight"),
        ["model.safetensors", "lacks tensors: visual_projection.weight", "source"],
    ),
    "pickscore: truncated": (
        PICKSCORE,
        lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 40),
        ["model.safetensors is not a safetensors file", "fetch it again"],
    ),
    "aesthetic: two heads": (
        AESTHETIC,
        lambda folder: (folder / "head/other.pth").write_bytes(b""),
        ["holds 2 .pth files, expected one", "source"],
    ),
    "aesthetic: another head": (
        AESTHETIC,
        lambda folder: reshape(next((folder / "head").glob("*.pth")), "layers.7.weight"),
        [".pth: layers.7.weight has the shape [0, 16], expected [1, 16]"],
    ),
}
DEEPER = json.dumps(
    {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 224, "layers": 3, "width": 64, "head_width": 32, "patch_size": 28},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
)
SAVE: dict[str, Callable[[Path], object]] = {
    "hpsv2": save_hpsv2,
    "image_reward": save_image_reward,
    "pickscore": save_clip,
    "aesthetic": save_aesthetic,
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_file_is_named_with_the_remedy(case: str, tmp_path: Path) -> None:
    reward, spoil, expected = CASES[case]
    torch.manual_seed(0)
    SAVE[reward.kind](tmp_path / "reward")
    spoil(tmp_path / "reward")
    for build in (type(reward).build, build_official):  # without a package of its own the second is the first
        with pytest.raises(ModelFileError) as caught:
            build(reward, tmp_path / "reward")
        for text in expected:
            assert text in str(caught.value)
