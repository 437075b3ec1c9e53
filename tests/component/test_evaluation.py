"""Evaluation: protocols, FID, scorers, published figures; shared, killed and resumed it comes out the same."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics

from distar import paths
from distar.__main__ import main
from distar.bench.published import save_hpsv2
from distar.errors import ModelFileError, PromptError, WorkDirectoryError
from distar.evaluating import load_evaluation
from distar.evaluation.fid import FID
from distar.evaluation.measuring import Measured
from distar.evaluation.metrics import Estimate
from distar.evaluation.parts import read_columns
from distar.evaluation.protocols import check_prompt_set, estimate, estimate_by_label
from distar.evaluation.published import Ours, compare_with_published, load_published
from distar.evaluation.report import Lineage, Report, SystemPictures, write_page
from distar.loading import load_rewards, load_scorers
from distar.params import load_params
from distar.prompts import HPSV2_STYLES, load_prompts
from distar.rewards.clip import ClipReward
from distar.runtime import prepare_torch
from distar.stages.evaluate import published_beside
from tests.miniature import edit, record_of, state_licences
from tests.published import save_image_reward

PROFILE = Path("profiles/mini.yaml")
CPU = torch.device("cpu")
BASELINE = [sys.executable, "-m", "distar", "baseline"]


@pytest.fixture
def prepared(project: Path) -> Path:
    for stage in ("prompts", "reference", "rewards", "embeddings"):
        assert main([stage]) == 0
    return project


def set_labels(*labels: str | None) -> None:
    """Give the evaluation prompts labels, in turn."""
    prompts = pq.read_table(paths.EVALUATION_PROMPTS, columns=["prompt"])
    column = [labels[i % len(labels)] for i in range(len(prompts))]
    pq.write_table(prompts.set_column(1, "label", pa.array(column, pa.string())), paths.EVALUATION_PROMPTS)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Protocols


def test_hpsv2_weighs_each_style_the_same() -> None:
    labels = ["anime"] * 4 + ["photo"] * 2
    scores = torch.tensor([1.0, 2.0, 3.0, 2.0, 10.0, 12.0])
    anime, photo = Estimate.of(scores[:4]), Estimate.of(scores[4:])
    assert (anime.mean, photo.mean) == (2.0, 11.0)
    overall = estimate("hpsv2", scores, labels)
    assert overall.mean == 6.5
    assert anime.sem is not None
    assert photo.sem is not None
    assert overall.sem == pytest.approx((anime.sem**2 + photo.sem**2) ** 0.5 / 2)
    assert estimate("parti", scores, labels) == Estimate.of(scores)
    assert estimate("parti", scores, labels).mean == 5.0


def test_labels_are_told_apart_and_one_value_has_no_error() -> None:
    found = estimate_by_label(torch.tensor([3.0, 1.0, 2.0, 9.0]), ["b", "a", "a", None])
    assert list(found) == ["a", "b"]
    assert found["a"].mean == 1.5
    assert found["b"] == Estimate(3.0, None)
    assert Estimate.of_groups(list(found.values())) == Estimate(2.25, None)


def test_protocols_refuse_other_prompt_sets() -> None:
    check_prompt_set("hpsv2", [*HPSV2_STYLES, "photo"])
    check_prompt_set("parti", ["Animals", "Arts"])
    check_prompt_set("prompts", [None, "anything"])
    check_prompt_set("coco", [None])
    with pytest.raises(PromptError, match="anime, concept-art, paintings, photo, got anime, none, photo; take"):
        check_prompt_set("hpsv2", ["anime", "photo", None])
    with pytest.raises(PromptError, match=r"parti: every evaluation prompt .* 1 of 2 have none"):
        check_prompt_set("parti", ["Animals", None])


@pytest.mark.parametrize("stage", ["baseline", "evaluate"])
def test_stage_refuses_a_prompt_set_that_does_not_fit(
    prepared: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(PROFILE, "evaluate", "protocol", value="hpsv2")
    assert main([stage]) == 1
    assert "evaluate.protocol is hpsv2" in capsys.readouterr().err


def test_compare_by_must_be_scored(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(PROFILE, "evaluate", "rewards", value=["matching"])
    assert main(["baseline"]) == 1
    assert "compare_by: 'preference' is not scored; `rewards` has matching" in capsys.readouterr().err


# Fréchet Inception distance


class RandomInception(FeatureExtractorInceptionV3):
    def load_state_dict(self, *_: object, **__: object) -> Any:
        """Keep the weights that the layers began with."""


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a random Inception at its real size, in the format of torch-fidelity's weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save({}, path)
    torch.save(RandomInception("random", ["2048"], feature_extractor_weights_path=str(path)).state_dict(), path)
    return path


def pictures(seed: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.rand(12, 3, 4, 4, generator=generator)
    return (torch.nn.functional.interpolate(smooth, size, mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)


class Pictures(torch.utils.data.Dataset):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def place_fid(folder: Path, inception: Path, **arrays: np.ndarray) -> Path:
    for name in ("statistics", "inception"):
        (folder / name).mkdir(parents=True)
    (folder / "inception" / inception.name).symlink_to(inception)
    np.savez(folder / "statistics" / "real.npz", allow_pickle=False, **arrays)
    return folder


def real_statistics(inception: Path, images: Tensor) -> dict[str, np.ndarray]:
    network = FeatureExtractorInceptionV3("any", ["2048"], feature_extractor_weights_path=str(inception))
    return fid_features_to_statistics(network(images)[0])


def test_fid_is_torch_fidelitys(tmp_path: Path, inception: Path) -> None:
    drawn, real = pictures(0, 32), pictures(1, 40)
    fid = FID.load(place_fid(tmp_path / "fid", inception, **real_statistics(inception, real)), CPU)
    parts = torch.cat([fid.features(drawn[:5]), fid.features(drawn[5:])])
    expected = calculate_metrics(
        input1=Pictures(drawn),
        input2=Pictures(real),
        fid=True,
        feature_extractor_weights_path=str(inception),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )["frechet_inception_distance"]
    assert expected > 0
    assert fid.distance(parts) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("arrays", "got"),
    [
        ({"mu": np.zeros(2048)}, r"got `mu` \(2048,\)"),
        ({"mu": np.zeros(64), "sigma": np.zeros((64, 64))}, r"got `mu` \(64,\), `sigma` \(64, 64\)"),
        ({}, "got nothing"),
    ],
)
def test_other_statistics_are_refused(tmp_path: Path, inception: Path, arrays: dict[str, np.ndarray], got: str) -> None:
    with pytest.raises(ModelFileError, match=rf"real\.npz: expected an \.npz with .*{got}; make it"):
        FID.load(place_fid(tmp_path / "fid", inception, **arrays), CPU)


def test_fid_files_that_are_missing_or_broken_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "fid"
    with pytest.raises(ModelFileError, match=r"fid/statistics must hold one file \*\.npz, got none"):
        FID.load(folder, CPU)
    weights = tmp_path / "inception.pth"
    torch.save({"conv.weight": torch.zeros(1)}, weights)
    place_fid(folder, weights, mu=np.zeros(2048), sigma=np.zeros((2048, 2048)))
    with pytest.raises(ModelFileError, match=r"inception\.pth: expected torch-fidelity's Inception weights"):
        FID.load(folder, CPU)
    (folder / "statistics" / "real.npz").write_bytes(b"not a zip")
    with pytest.raises(ModelFileError, match=r"real\.npz: .* not readable"):
        FID.load(folder, CPU)


# The stages


def test_styles_and_fid_reach_metrics_and_report(prepared: Path, inception: Path) -> None:
    set_labels(*HPSV2_STYLES)
    edit(PROFILE, "evaluate", "protocol", value="hpsv2")
    edit(PROFILE, "evaluate", "fid", value={"statistics": "file://real.npz", "inception": "file://inception.pth"})
    state_licences(Path())
    place_fid(paths.FID, inception, **real_statistics(inception, pictures(1, 16)))
    for stage in ("baseline", "train", "evaluate"):
        assert main([stage]) == 0, stage
    metrics = json.loads(paths.METRICS.read_text())
    for system in ("generator", "initial", "reference"):
        summary = metrics[system]
        assert list(summary["by_label"]) == sorted(HPSV2_STYLES)
        means = [rewards["preference"]["mean"] for rewards in summary["by_label"].values()]
        assert summary["rewards"]["preference"]["mean"] == pytest.approx(sum(means) / 4, rel=1e-12)
        assert summary["by_label"]["photo"]["matching"]["sem"] is None  # seven prompts: this style has one
        assert summary["fid"]["distance"] > 0
        assert (summary["fid"]["num_images"], summary["fid"]["biased"]) == (7, True)
    page = paths.REPORT_PAGE.read_text()
    assert "reward: matching, concept-art" in page
    assert "FID (7 pictures, too high" in page
    assert "against the reference" in page
    assert paths.SCORES.read_text().splitlines()[0].startswith("prompt,label,generator_preference")


def test_costs_stand_in_the_record_alone(prepared: Path) -> None:
    assert main(["baseline"]) == 0
    drawing = record_of("baseline")["drawing"]
    for figures in drawing.values():
        assert figures["num_images"] == 7 + 2 * 2
        assert figures["batch_size"] == 3
        assert 0 < figures["seconds_per_image"] < 60
        assert figures["max_resident_bytes"] > 2**26
    first = contents(paths.BASELINE)
    assert main(["baseline"]) == 0
    assert contents(paths.BASELINE) == first
    assert record_of("baseline")["drawing"] != drawing


def test_bf16_draws_and_scores_almost_the_same(prepared: Path) -> None:
    assert main(["baseline"]) == 0
    exact = Measured.read(paths.BASELINE / "initial")
    pictures = exact.pictures(range(7)).float()
    edit(PROFILE, "evaluate", "precision", value="bf16")
    subprocess.run(BASELINE, check=True)  # accelerate takes one precision a process
    rounded = Measured.read(paths.BASELINE / "initial")
    difference = (rounded.pictures(range(7)).float() - pictures).abs()
    assert 0 < difference.mean() < 1
    for name in ("preference", "matching"):  # a hundred times a cosine
        assert not torch.equal(rounded.scores[name], exact.scores[name])
        torch.testing.assert_close(rounded.scores[name], exact.scores[name], rtol=0, atol=1.0)
    torch.testing.assert_close(rounded.diversity, exact.diversity, rtol=0.1, atol=1e-3)


def test_two_processes_give_what_one_gives(prepared: Path) -> None:
    assert main(["baseline"]) == 0
    alone = contents(paths.BASELINE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*launch, *BASELINE[1:]], check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert contents(paths.BASELINE) == alone
    drawing = record_of("baseline")["drawing"]
    assert drawing["reference"]["num_images"] == 3 + 1 + 3  # parts 0 and 2 of three, 0 of two: the rest was the other's


def test_killed_evaluation_goes_on_and_comes_out_the_same(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("prompts/evaluation.txt").write_text("\n".join(f"a red star, white backdrop {i}" for i in range(60)) + "\n")
    edit(PROFILE, "evaluate", "reference", "num_steps", value=10)
    for stage in ("prompts", "reference", "rewards", "embeddings", "baseline"):
        assert main([stage]) == 0
    undisturbed = contents(paths.BASELINE)

    work = tmp_path / "disturbed"
    monkeypatch.setenv("DISTAR_WORK_DIR", str(work))
    process = subprocess.Popen(BASELINE)
    while len(list(work.glob("*/reference/pictures/*.parquet"))) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(work.glob("*/reference/pictures/*.parquet")))
    assert 3 <= kept < 20

    assert main(["baseline"]) == 0
    assert contents(paths.BASELINE) == undisturbed
    drawing = record_of("baseline")["drawing"]
    assert drawing["initial"] == {"num_images": 0}
    assert drawing["reference"]["num_images"] == 60 - 3 * kept + 2 * 2
    assert [path.name for path in work.glob("*/*")] == ["lock"]  # finished work is not kept


def test_damaged_part_is_named(tmp_path: Path) -> None:
    path = tmp_path / "00000000.parquet"
    pq.write_table(pa.table({"png": [b"x" * 1000]}), path)
    os.truncate(path, 100)
    with pytest.raises(WorkDirectoryError, match=r"00000000\.parquet cannot be read .* remove it and run again"):
        read_columns([path])


# Official scorers


@pytest.mark.filterwarnings("ignore:.*cuda:UserWarning", "ignore:.*autocast:FutureWarning")
def test_official_packages_score_where_asked(prepared: Path, tmp_path: Path) -> None:
    """The stages report what the packages themselves give, on the pictures that they drew."""
    torch.manual_seed(0)
    save_hpsv2(tmp_path / "hps")
    save_image_reward(tmp_path / "ir" / "image_reward")
    shutil.copytree(tmp_path / "hps", paths.REWARDS / "hps")
    shutil.copytree(tmp_path / "ir" / "image_reward", paths.REWARDS / "ir")
    added = {
        "hps": {"kind": "hpsv2", "source": "file://hps", "version": "2.1", "antialias": True},
        "ir": {"kind": "image_reward", "source": "file://ir", "vocabulary": "file://vocabulary"},
    }
    for name, value in added.items():
        edit(PROFILE, "rewards", name, value=value)
    edit(PROFILE, "evaluate", "rewards", value=["preference", "hps", "ir"])
    edit(PROFILE, "evaluate", "backend", value="official")
    state_licences(prepared)
    params = load_params()
    scorers, trained_on = load_scorers(params, CPU), load_rewards(params, CPU, params.profile.rewards)
    assert type(scorers["hps"]).__name__ == "OfficialHPSv2"
    assert type(scorers["ir"]).__name__ == "OfficialImageReward"
    assert type(scorers["preference"]) is type(trained_on["preference"]) is ClipReward
    assert not type(trained_on["hps"]).__name__.startswith("Official")

    assert main(["baseline"]) == 0
    measured = Measured.read(paths.BASELINE / "initial")
    images, prompts = measured.pictures([0, 3]).float() / 255, load_prompts(paths.EVALUATION_PROMPTS)
    for name in ("hps", "ir"):
        expected = scorers[name](images, [prompts[0], prompts[3]])
        torch.testing.assert_close(measured.scores[name][[0, 3]], expected, rtol=0, atol=1e-6)


# Published figures

SUMMARY = {
    "rewards": {"pick": {"mean": 23.0, "sem": 0.1}, "human": {"mean": 0.3, "sem": 0.1}},
    "by_label": {style: {"human": {"mean": 0.3 + i / 100, "sem": 0.1}} for i, style in enumerate(HPSV2_STYLES)},
}


def test_published_rows_stand_beside_ours_in_their_unit() -> None:
    rewards = {"pick": Ours({"kind": "pickscore", "source": "hf://any"}, 1 / 100)}
    (comparison,) = compare_with_published("parti", "sdxl", 1632, rewards, {"mine": SUMMARY})
    assert "arXiv 2410.20898" in comparison.title
    assert comparison.columns == ["ImageReward", "Aesthetic", "PickScore", "CLIPScore"]
    *published, ours = comparison.rows
    assert len(published) == 14
    assert all(row.published for row in published)
    assert published[-1].cells == ["1.140", "5.83", "0.2331", "32.75"]
    assert (ours.title, ours.published, ours.cells) == ("mine", False, ["–", "–", "0.2300", "–"])
    assert comparison.notes == ["Our pick is multiplied by 0.01, to be in the published unit."]
    (part,) = compare_with_published("parti", "sdxl", 100, rewards, {"mine": SUMMARY})
    assert part.notes[0] == "Published for 1632 prompts; ours are means over 100 of them."


def test_hpsv2_versions_are_not_mixed() -> None:
    new, old = ({"human": Ours({"kind": "hpsv2", "version": version}, 100.0)} for version in ("2.1", "2.0"))
    (comparison,) = compare_with_published("hpsv2", "sdxl", 3200, new, {"mine": SUMMARY})
    assert comparison.rows[-1].cells == ["30.00", "31.00", "32.00", "33.00", "30.00"]
    assert comparison.notes == ["Our human is multiplied by 100, to be in the published unit."]
    assert comparison.rows[0].cells == ["30.85", "29.30", "28.98", "27.05", "29.05"]
    assert compare_with_published("hpsv2", "sdxl", 3200, old, {"mine": SUMMARY}) == []
    (comparison,) = compare_with_published("coco", "pixart", 5000, old, {"mine": SUMMARY})
    assert comparison.rows[0].cells == ["6.30", "1.31", "28.70"]
    assert comparison.rows[2].cells == ["6.42", "0.67", "–"]
    assert comparison.rows[-1].cells == ["–", "–", "30.00"]
    assert compare_with_published("coco", "pixart", 5000, new, {"mine": SUMMARY}) == []


@pytest.mark.parametrize(("protocol", "family"), [("parti", "pixart"), ("prompts", "sdxl"), ("coco", "sd15")])
def test_what_is_not_comparable_is_not_shown(protocol: str, family: str) -> None:
    rewards = {"pick": Ours({"kind": "pickscore"}, 0.01)}
    assert compare_with_published(protocol, family, 1632, rewards, {"mine": SUMMARY}) == []


def test_report_shows_published_rows_and_ours_in_their_unit(prepared: Path, tmp_path: Path) -> None:
    """As the stage makes it, for a project that says it is SDXL on PartiPrompts."""
    set_labels("Animals", "Arts")
    params = load_params()
    settings = params.profile.evaluate.model_copy(update={"protocol": "parti"})
    reference = params.profile.reference.model_copy(update={"family": "sdxl"})
    profile = params.profile.model_copy(update={"evaluate": settings, "reference": reference})
    params = params.model_copy(update={"profile": profile})
    evaluation = load_evaluation(params, prepare_torch(profile.runtime))
    preference = load_rewards(params, CPU, params.profile.rewards)["preference"]
    assert isinstance(preference, ClipReward)
    temperature = preference.scale
    assert temperature != 1

    estimates = {"preference": {"mean": 0.25 * temperature, "sem": None}, "matching": {"mean": 31.0, "sem": 0.5}}
    summary = {"rewards": estimates, "diversity": 0.125, "saturation": 0.5}
    rate = {"mean": 0.75, "low": 0.5, "high": 0.875}
    metrics = {
        **dict.fromkeys(("generator", "initial", "reference"), summary),
        "win_rate": {"vs_initial": rate},
        "win_rates": {"vs_initial": {"preference": rate, "matching": rate}},
        "cut_prompts": {"preference": 2},
    }
    probes = tmp_path / "probes.csv"
    probes.write_text("iteration,reward_preference,diversity,saturation\n0,1.0,0.1,0.4\n1,2.0,0.1,0.5\n")
    probe_reference = tmp_path / "probe_reference.json"
    probe_reference.write_text('{"reward_preference": 1.5, "diversity": 0.2, "saturation": 0.4}')
    pictures = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    report = Report(
        profile="mini",
        notice="",
        prompts=["a red star"],
        pictures=[SystemPictures("generator", "DI* generator", pictures)],
        metrics=metrics,
        compare_by="preference",
        published=published_beside(params, evaluation, {"DI* generator": summary}),
        probes_path=probes,
        probe_reference_path=probe_reference,
        lineage=Lineage({}, {}),
    )
    write_page(report, tmp_path / "index.html")
    page = (tmp_path / "index.html").read_text()
    row = r"<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>"
    published = row.format(
        "", r"DI\*-IN \(100, 7\.5\), longer", "published", r"1\.140", r"5\.83", r"0\.2331", r"32\.75"
    )
    ours = row.format(' class="ours"', r"DI\* generator", "this run", "–", "–", r"0\.2500", r"31\.00")
    assert re.search(published, page)
    assert re.search(ours, page)
    assert "Published for 1632 prompts; ours are means over 7 of them." in page
    assert "75.0 % (50.0–87.5)" in page
    assert page.count("stroke-dasharray") == 3  # the reference's level in each curve


def test_published_rows_have_a_figure_a_column() -> None:
    for table in load_published().tables:
        assert {len(figures) for figures in table.rows.values()} == {len(table.columns)}
