"""Each reward against the code of its authors, on the same random weights in the published format."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from distar.bench.published import save_hpsv2
from distar.diffusion.networks import narrow_frozen
from distar.errors import ParameterError
from distar.rewards.hpsv2 import HPSReward
from distar.rewards.image_reward import BlipReward
from distar.rewards.official import OfficialHPSv2, OfficialImageReward, build_official
from distar.rewards.params import Aesthetic, CLIPScore, HPSv2, ImageReward, PickScore
from distar.rewards.preprocess import resize_short_side
from distar.rewards.reward import Reward
from tests.miniature import REPOSITORY
from tests.published import save_aesthetic, save_clip, save_image_reward

HPS = HPSv2(kind="hpsv2", source="", version="2.1", antialias=True)
IMAGE_REWARD = ImageReward(kind="image_reward", source="", vocabulary="")

# width, height, mode
PICTURES = [
    (224, 224, "RGB"),
    (64, 64, "RGB"),
    (512, 512, "RGB"),
    (640, 360, "RGB"),
    (90, 333, "RGB"),
    (333, 223, "RGB"),
    (225, 226, "RGB"),
    (300, 300, "RGBA"),
    (120, 200, "RGBA"),
    (256, 256, "L"),
    (400, 100, "L"),
    (230, 229, "RGB"),
]
PROMPTS = [
    "a red star on a white background",
    "A photo of an Astronaut, riding a horse; 4k!",
    "",
    "  naïve café — “déjà vu” &amp; <b>bold</b> 北京 🌙 ",
    "an oil painting of a lighthouse in a storm with many boats, " * 2,
    "a very detailed scene with a castle, a river, a bridge and mountains behind, " * 20,
]
PAIRS = [(*picture, PROMPTS[i % len(PROMPTS)]) for i, picture in enumerate(PICTURES)]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    save_hpsv2(folder / "hpsv2")
    save_image_reward(folder / "image_reward")
    save_clip(folder / "clip")
    save_aesthetic(folder / "aesthetic")
    return folder


@pytest.fixture(scope="module")
def hps(published: Path) -> HPSReward:
    return HPS.build(published / "hpsv2")


@pytest.fixture(scope="module")
def image_reward(published: Path) -> BlipReward:
    return IMAGE_REWARD.build(published / "image_reward")


@pytest.fixture(scope="module")
def official_image_reward(published: Path) -> Any:
    return build_official(IMAGE_REWARD, published / "image_reward")


def picture(width: int, height: int, mode: str) -> Image.Image:
    """Draw smooth random colours with sharp edges, of which resizing by bicubic splines overshoots."""
    generator = torch.Generator().manual_seed(width * 1000 + height)
    channels = 4 if mode == "RGBA" else 3
    rough = torch.rand(1, channels, height // 16 + 2, width // 16 + 2, generator=generator)
    smooth = F.interpolate(rough, (height, width), mode="bilinear")[0]
    smooth[:3, height // 3 :, width // 3 :] = (smooth[:3, height // 3 :, width // 3 :] > 0.5).float()
    levels = (smooth * 255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(levels.numpy(), "RGBA" if mode == "RGBA" else "RGB").convert(mode)


def as_images(shown: Image.Image) -> Tensor:
    rgb = shown.convert("RGB")
    levels = torch.frombuffer(bytearray(rgb.tobytes()), dtype=torch.uint8).view(rgb.height, rgb.width, 3)
    return levels.permute(2, 0, 1)[None] / 255


def worst(differences: list[float], what: str) -> float:
    print(f"{what}: at most {max(differences):.1e} over {len(differences)} pairs")
    return max(differences)


@pytest.mark.filterwarnings("ignore:.*cuda:UserWarning", "ignore:.*autocast:FutureWarning")
def test_hpsv2_equals_the_package_on_every_size(
    published: Path, hps: HPSReward, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = build_official(HPS, published / "hpsv2")
    assert isinstance(official, OfficialHPSv2)
    import hpsv2.img_score as package  # importable once `official` has put beside it what its wheel lacks

    # the package's own function; only where it would download the model it is given one of the right size
    monkeypatch.setattr(package, "model_dict", {"model": official.model, "preprocess_val": official.preprocess})
    scores, differences = [], []
    for width, height, mode, prompt in PAIRS:
        shown = picture(width, height, mode)
        opaque = shown.convert("RGB") if mode == "RGBA" else shown  # the package fails on transparency
        with torch.no_grad():
            expected = package.score(opaque, prompt, cp=str(published / "hpsv2" / "HPS_v2.1_compressed.pt"))[0]
            ours, theirs = hps(as_images(shown), [prompt]), official(as_images(shown), [prompt])
        assert theirs.item() == expected
        scores.append(expected)
        differences.append(abs(ours.item() - expected))
    assert worst(differences, "HPSv2") < 1e-6
    assert torch.tensor(scores).std() > 0.01  # the pairs are not all alike
    with pytest.raises(RuntimeError):
        package.score(picture(300, 300, "RGBA"), "a star", cp=str(published / "hpsv2" / "HPS_v2.1_compressed.pt"))


def test_hpsv2_without_antialiasing_is_another_score(published: Path, hps: HPSReward) -> None:
    plain = HPS.model_copy(update={"antialias": False})
    images = as_images(picture(640, 360, "RGB"))
    assert (plain.build(published / "hpsv2")(images, ["a star"]) - hps(images, ["a star"])).abs() > 1e-5
    with pytest.raises(ParameterError, match="antialias"):
        build_official(plain, published / "hpsv2")


def test_image_reward_equals_the_package(image_reward: BlipReward, official_image_reward: OfficialImageReward) -> None:
    package = official_image_reward.model
    scores, at_the_network, from_the_picture = [], [], []
    for width, height, mode, prompt in PAIRS:
        shown = picture(width, height, mode)
        with torch.no_grad():
            expected = package.score(prompt, shown)
            pixels = package.preprocess(shown)[None]
            at_the_network.append(abs(image_reward.score_pixels(pixels, [prompt]).item() - expected))
            if mode != "RGBA":  # the package resizes before it drops transparency
                from_the_picture.append(abs(image_reward(as_images(shown), [prompt]).item() - expected))
                assert official_image_reward(as_images(shown), [prompt]).item() == pytest.approx(
                    package.score(prompt, shown.convert("RGB")), abs=1e-6
                )
        scores.append(expected)
    assert worst(at_the_network, "ImageReward, the package's preprocessing") < 1e-5
    assert worst(from_the_picture, "ImageReward, the port's preprocessing") < 5e-3
    assert torch.tensor(scores).std() > 0.1


def test_image_reward_has_the_gradient_of_the_package(
    image_reward: BlipReward, official_image_reward: OfficialImageReward
) -> None:
    package = official_image_reward.model
    pixels = torch.randn(2, 3, 224, 224)
    tokens = image_reward.tokenizer(
        PROMPTS[:2], padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )

    def gradient(score: Callable[[Tensor], Tensor]) -> Tensor:
        x = pixels.clone().requires_grad_()
        return torch.autograd.grad(score(x).sum(), x)[0]

    theirs = gradient(lambda x: package.score_gard(tokens.input_ids, tokens.attention_mask, x))
    ours = gradient(lambda x: image_reward.score_pixels(x, PROMPTS[:2]))
    assert theirs.norm() > 1e-2
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def clip_scores(folder: Path, shown: Image.Image, prompt: str) -> tuple[float, Tensor, float]:
    """Return cosine, picture embedding and temperature as transformers' own processors give them."""
    model: Any = CLIPModel.from_pretrained(folder)
    tokens = CLIPTokenizer.from_pretrained(folder)(
        prompt, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    with torch.no_grad():
        pixels = CLIPImageProcessor.from_pretrained(folder)(images=shown, return_tensors="pt").pixel_values
        image = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=1)
        text = F.normalize(model.get_text_features(**tokens).pooler_output, dim=1)
        return (image * text).sum().item(), image, model.logit_scale.exp().item()


def test_pickscore_and_clip_score_equal_transformers(published: Path) -> None:
    pickscore = PickScore(kind="pickscore", source="").build(published / "clip")
    clip_score = CLIPScore(kind="clip_score", source="").build(published / "clip")
    differences = []
    for width, height, mode, prompt in PAIRS:
        shown = picture(width, height, mode).convert("RGB")
        cosine, _, temperature = clip_scores(published / "clip", shown, prompt)
        differences.append(abs(pickscore(as_images(shown), [prompt]).item() / temperature - cosine))
        assert clip_score(as_images(shown), [prompt]).item() == pytest.approx(
            100 * pickscore(as_images(shown), [prompt]).item() / temperature, abs=1e-4
        )
    assert worst(differences, "cosine of CLIP") < 1e-3


class PublishedMLP(nn.Module):
    """The aesthetic predictor's head as its authors' checkpoint is laid out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, 1024),
            nn.Dropout(0.2),
            nn.Linear(1024, 128),
            nn.Dropout(0.2),
            nn.Linear(128, 64),
            nn.Dropout(0.1),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )


def test_aesthetic_equals_the_published_head_on_transformers(published: Path) -> None:
    reward = Aesthetic(kind="aesthetic", source="", clip="").build(published / "aesthetic")
    mlp = PublishedMLP(24)
    mlp.load_state_dict(torch.load(next((published / "aesthetic" / "head").glob("*.pth"))))
    differences = []
    for width, height, mode, prompt in PAIRS:
        shown = picture(width, height, mode).convert("RGB")
        _, embedding, _ = clip_scores(published / "aesthetic" / "clip", shown, prompt)
        expected = mlp.eval().layers(embedding)
        differences.append((reward(as_images(shown), [prompt]) - expected).abs().item())
    assert worst(differences, "Aesthetic") < 1e-3


REWARDS: dict[str, tuple[Callable[[Path], Reward], tuple[int, int]]] = {
    "hpsv2": (lambda folder: HPS.build(folder / "hpsv2"), (60, 90)),  # nothing is rounded on its way
    "image_reward": (lambda folder: IMAGE_REWARD.build(folder / "image_reward"), (224, 224)),
    "pickscore": (lambda folder: PickScore(kind="pickscore", source="").build(folder / "clip"), (48, 48)),
    "aesthetic": (
        lambda folder: Aesthetic(kind="aesthetic", source="", clip="").build(folder / "aesthetic"),
        (48, 48),
    ),
}


@pytest.mark.parametrize("name", REWARDS)
def test_gradient_is_that_of_finite_differences(name: str, published: Path) -> None:
    build, size = REWARDS[name]
    reward = build(published).double()
    images = torch.rand(2, 3, *size, dtype=torch.float64).requires_grad_()
    step = 1e-4 * torch.randn_like(images)
    gradient = torch.autograd.grad(reward(images, PROMPTS[:2]).sum(), images)[0]
    with torch.no_grad():
        change = (reward(images + step, PROMPTS[:2]) - reward(images - step, PROMPTS[:2])).sum() / 2
    assert change.abs() > 1e-8
    assert (gradient * step).sum().item() == pytest.approx(change.item(), rel=1e-4)


@pytest.mark.parametrize("name", REWARDS)
def test_score_does_not_depend_on_the_batch(name: str, published: Path) -> None:
    reward = REWARDS[name][0](published)
    assert not any(p.requires_grad for p in reward.parameters())
    images = torch.cat([as_images(picture(100, 80, "RGB")), torch.rand(3, 3, 80, 100)])
    together = reward(images, PROMPTS[:4])
    reward.train()  # and stays a frozen reward without dropout
    alone = torch.cat([reward(images[i : i + 1], PROMPTS[i : i + 1]) for i in (3, 2, 1, 0)]).flip(0)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert together.dtype == torch.float32


@pytest.mark.parametrize("name", REWARDS)
def test_narrowed_weights_score_as_autocast_does_and_in_fp32_at_last(name: str, published: Path) -> None:
    reward, as_cast, narrowed = (REWARDS[name][0](published) for _ in range(3))
    narrow_frozen(narrowed, torch.bfloat16)
    images = torch.cat([as_images(picture(100, 80, "RGB")), torch.rand(3, 3, 80, 100)])
    exact = reward(images, PROMPTS[:4])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = narrowed(images, PROMPTS[:4])
        assert torch.equal(rounded, as_cast(images, PROMPTS[:4]))
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, rounded.bfloat16().float())
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("bf16", [False, True])
def test_no_product_takes_weights_token_by_token(name: str, bf16: bool, published: Path) -> None:
    """Torch multiplies a transposed view so, which costs bf16 on CPUs a copy of the weights for each token."""
    images = torch.rand(2, 3, 48, 48, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), _BatchedProducts() as products:
        REWARDS[name][0](published)(images, PROMPTS[:2]).sum().backward()
    assert not [factor.shape for factor in products.factors if factor.stride(0) == 0 and len(factor) > 1]


class _BatchedProducts(TorchDispatchMode):
    """Keep the second factors of all batched products."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.bmm.default:
            self.factors.append(args[1])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", REWARDS)
@pytest.mark.parametrize("size", [(48, 48), (224, 224)])
def test_scoring_leaves_the_pictures_as_they_are(name: str, size: tuple[int, int], published: Path) -> None:
    images = torch.rand(2, 3, *size)
    before = images.clone()
    REWARDS[name][0](published)(images, PROMPTS[:2])
    assert images.equal(before)


def test_rounding_leaves_the_gradient_of_the_resize() -> None:
    images = torch.rand(1, 3, 40, 70, requires_grad=True)
    weights = torch.randn(1, 3, 16, 28)
    resized = resize_short_side(images, 16)
    levels = resized.detach() * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert 0 <= levels.min() <= levels.max() <= 255
    smooth = F.interpolate(images, (16, 28), mode="bicubic", antialias=True)
    for ours, theirs in zip(
        torch.autograd.grad((resized * weights).sum(), images),
        torch.autograd.grad((smooth * weights).sum(), images),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_cut_prompts_are_counted(published: Path, hps: HPSReward, image_reward: BlipReward) -> None:
    pickscore = PickScore(kind="pickscore", source="").build(published / "clip")
    aesthetic = Aesthetic(kind="aesthetic", source="", clip="").build(published / "aesthetic")
    assert (hps.max_tokens, image_reward.max_tokens, pickscore.max_tokens, aesthetic.max_tokens) == (77, 35, 16, None)
    for reward, fits in ((hps, 75), (image_reward, 33)):
        prompts = [f"red{' star' * (n - 1)}" for n in (1, fits, fits + 1, 3 * fits)]
        assert reward.count_cut(prompts) == 2
        short, *rest = reward(torch.rand(1, 3, 32, 32).expand(4, -1, -1, -1), prompts)
        assert (short - rest[0]).abs() > 1e-4
        torch.testing.assert_close(torch.stack(rest), rest[0].expand(3))  # what is cut off was not read
    assert pickscore.count_cut(["a red star", "a red star on a white background " * 3]) == 1
    assert aesthetic.count_cut(PROMPTS) == 0
    official = build_official(HPS, published / "hpsv2")
    assert official.count_cut(PROMPTS) == hps.count_cut(PROMPTS) == 1


def test_official_packages_leave_the_process_as_it_was() -> None:
    code = """
import sys, warnings
import transformers
from transformers import modeling_utils
before = set(vars(modeling_utils)), list(warnings.filters), transformers.logging.get_verbosity()
from distar.rewards.official import _import_hpsv2, _import_image_reward
_import_hpsv2(), _import_image_reward()
assert before == (set(vars(modeling_utils)), list(warnings.filters), transformers.logging.get_verbosity())
assert not {"clip", "turtle", "ImageReward.ReFL"} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert result.returncode == 0, result.stderr
