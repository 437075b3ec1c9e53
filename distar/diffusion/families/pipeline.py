"""A diffusers pipeline in a folder: which components it has, how each is loaded, and how a release's is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from distar.errors import ModelFileError
from distar.imports import lasting_imports


def read_index(folder: Path) -> dict[str, Any]:
    """Read a pipeline's `model_index.json`: its own class, and the library and class of each component.

    Raises:
        ModelFileError: it is missing or not JSON.
    """
    path = folder / "model_index.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; run `dvc repro reference`, which fetches it") from None
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path} is not JSON ({error}); run `dvc repro -f reference`") from error


def component_class(folder: Path, name: str) -> Any:
    """Return the class of a pipeline's component.

    Raises:
        ModelFileError: the pipeline has no such component, or not one of diffusers or transformers.
    """
    entry = read_index(folder).get(name)
    match entry:
        case ["diffusers" | "transformers" as library, str(class_name)]:
            with lasting_imports():
                return getattr(import_module(library), class_name)  # the library imports it just then
        case _:
            raise ModelFileError(
                f"{folder}/model_index.json: {name} is {entry}, expected a class of diffusers or transformers; is "
                "`reference.family` the one of this pipeline?"
            )


def load_model(folder: Path, name: str, variant: str | None) -> Any:
    """Load a pipeline's network in fp32, from its file of weights of that variant.

    Raises:
        ModelFileError: as `component_class`.
    """
    import torch

    return component_class(folder, name).from_pretrained(
        folder / name, dtype=torch.float32, variant=variant, local_files_only=True
    )


def write_pipeline(
    reference_dir: Path, weights_dir: Path, folder: Path, network_name: str, kept: Sequence[str], variant: str | None
) -> None:
    """Write the reference's pipeline with a generator's network and `LCMScheduler`, for plain diffusers.

    All but the network is copied from the reference's own files, so that their hashes tell where they come from.

    Args:
        reference_dir: the reference's pipeline.
        weights_dir: the generator's network, as `Family.save_generator` writes it.
        folder: where to write; must not exist.
        network_name: the pipeline's name of its denoising network.
        kept: the components that are the reference's own.
        variant: which of the reference's files of weights.
    """
    from diffusers import LCMScheduler

    index = read_index(reference_dir)
    for name in kept:
        _copy_component(reference_dir / name, folder / name, variant)
    shutil.copytree(weights_dir, folder / network_name, copy_function=shutil.copyfile)
    scheduler = json.loads((reference_dir / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    written: Any = LCMScheduler.from_config(scheduler, clip_sample=False)
    written.save_pretrained(folder / "scheduler")
    parts = {name: entry for name, entry in index.items() if isinstance(entry, list)}
    settings = {name: entry for name, entry in index.items() if not isinstance(entry, list)}
    components = {name: entry if name in (*kept, network_name) else [None, None] for name, entry in parts.items()}
    components["scheduler"] = ["diffusers", "LCMScheduler"]
    if "requires_safety_checker" in settings:
        settings["requires_safety_checker"] = False
    text = json.dumps(settings | components, indent=2, sort_keys=True) + "\n"
    (folder / "model_index.json").write_text(text, encoding="utf-8")


def _copy_component(source: Path, target: Path, variant: str | None) -> None:
    """Copy a component; a variant's weights get the plain name, under which diffusers looks for them unasked.

    transformers loads a text encoder in the type that its configuration names: it must be that of the other networks.
    """
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        name = path.name.replace(f".{variant}.", ".") if variant else path.name
        shutil.copyfile(path, target / name)
    config_path = target / "config.json"
    if config_path.exists():
        config = json.loads(config_path.read_text(encoding="utf-8"))
        for key in config.keys() & {"dtype", "torch_dtype"}:
            config[key] = "float32"
        config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
