"""Stage `publish`: put the packaged release into its store and write a receipt."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from securesystemslib.signer import Signer

from distar import paths
from distar.atomic import written_whole
from distar.attesting import state_provenance
from distar.lineage.record import recorded
from distar.params import load_params
from distar.release.keys import load_signer
from distar.release.package import read_manifest
from distar.release.releases import parse_manifest, point, publish
from distar.release.signing import attach, attach_model
from distar.release.storage import Store, open_store


def run(project: Path | None = None, move_latest: bool = True) -> None:
    """Publish, point `latest` at the release unless told not to, and say where to look.

    Paths of the store and the key are relative to `project`, the project's folder if None: a worktree publishes where
    its project does, and what lies in it is not told, since it will be gone.
    """
    project = paths.project_folder() if project is None else project
    params, console = load_params().root.publish, Console(highlight=False)
    with recorded("publish") as record:
        store = open_store(params.url, params.endpoint_url, project)
        console.print(f"Publishing to {store.place}", markup=False, soft_wrap=True)
        signer = load_signer(params.signing_key, project) if params.signing_key else None
        release_id, outcome = publish(store, paths.RELEASE, attach=partial(_attach, store, signer))
        if move_latest:
            point(store, "latest", release_id)
        record["outcome"] = outcome
        with written_whole(paths.RECEIPT) as path:
            path.write_text(json.dumps({"release": release_id, "url": params.url}, indent=2) + "\n", encoding="utf-8")
    signed = f"signed by {signer.public_key.keyid[:16]}" if signer else "not signed"
    console.print(
        f"\n[bold green]Published[/] release [bold]{release_id[:16]}[/] to {escape(params.url)} ({outcome}, {signed})."
    )
    if project == Path():
        console.print(
            f"  report    {paths.REPORT_PAGE}\n  metrics   {paths.METRICS}\n  pictures  {paths.SAMPLE_GRID}\n"
            f"  pipeline  {paths.RELEASE}\n"
        )


def _attach(store: Store, signer: Signer | None, release_id: str) -> None:
    """Write what is said about the release, signed if there is a key, before its manifest makes it visible."""
    attach(store, release_id, state_provenance(paths.RELEASE), signer)
    if signer:
        files = parse_manifest(read_manifest(paths.RELEASE), str(paths.RELEASE))
        attach_model(store, release_id, files, signer)
