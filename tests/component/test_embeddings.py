"""Prompt embeddings: shards on disk equal what the encoder says; prompts that are cut are counted."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from distar import paths
from distar.__main__ import main
from distar.diffusion.families.params import SD15
from distar.diffusion.families.sd15 import CLIPTextEncoder
from distar.embeddings import EmbeddingParams, Embeddings, read_null, write_embeddings
from distar.errors import ModelFileError
from tests.clip_vocabulary import NUM_TOKENS, load_clip_tokenizer

PROMPTS = [f"a red star {i}" for i in range(7)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 0.0), ("bfloat16", 2**-8)])
def test_rows_of_any_shard_are_the_encoders(
    dtype: str, tolerance: float, miniature_models: Path, tmp_path: Path
) -> None:
    folder = miniature_models / "reference"
    encoder = SD15(family="sd15", source="file://reference", variant=None).build_text_encoder(folder)
    params = EmbeddingParams.model_validate({"dtype": dtype, "batch_size": 2, "shard_size": 3})
    write_embeddings(tmp_path / "set", encoder, PROMPTS, params)
    assert [path.name for path in sorted((tmp_path / "set").iterdir())] == [f"{i:05d}.safetensors" for i in range(3)]
    embeddings = Embeddings(tmp_path / "set")
    assert len(embeddings) == 7
    rows = torch.tensor([6, 0, 3, 2, 0])
    expected = torch.cat([encoder.encode([PROMPTS[row]]).tensors["hidden_states"] for row in rows.tolist()])
    stored = embeddings[rows].to("cpu", torch.float32).tensors["hidden_states"]
    torch.testing.assert_close(stored, expected, atol=1e-6, rtol=tolerance)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_shards_are_mapped_not_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    save_file({"hidden_states": torch.ones(64, 1024, 1024)}, tmp_path / "set" / "00000.safetensors")  # 256 MiB
    before = resident_bytes()
    embeddings = Embeddings(tmp_path / "set")
    assert embeddings[torch.tensor([5])].tensors["hidden_states"].sum() == 2**20
    assert resident_bytes() - before < 64 * 2**20


def test_missing_embeddings_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="dvc repro embeddings"):
        Embeddings(tmp_path)


def test_cut_prompts_are_counted_and_told(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (project / "prompts" / "train.txt").open("a") as file:
        file.write("a red star on " + "sand " * 30 + "\n")
    for stage in ("prompts", "reference", "embeddings"):
        assert main([stage]) == 0
    card = json.loads(paths.EMBEDDINGS_CARD.read_text())
    assert card["train"]["tokenizer"]["num_cut"] == 1
    assert card["train"]["tokenizer"]["longest"] > card["train"]["tokenizer"]["max_tokens"]
    assert card["evaluation"]["tokenizer"]["num_cut"] == 0
    assert "train, tokenizer: 1 of 4 prompts are cut at" in capsys.readouterr().out
    assert len(read_null(paths.NULL_EMBEDDING)) == 1


def test_lengths_are_those_of_clips_own_tokenizer(tmp_path: Path) -> None:
    tokenizer = load_clip_tokenizer(tmp_path)
    assert len(tokenizer) == NUM_TOKENS
    config = CLIPTextConfig(
        vocab_size=NUM_TOKENS, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    encoder = CLIPTextEncoder(CLIPTextModel(config), tokenizer)
    prompts = ["a red star", "star " * 75, "star " * 76]
    assert encoder.tokenize("tokenizer", prompts[:1]).input_ids[0, :5].tolist() == [49406, 320, 736, 1565, 49407]
    assert encoder.num_tokens("tokenizer", prompts) == [5, 77, 78]
    assert encoder.tokenizers["tokenizer"][1] == 77
