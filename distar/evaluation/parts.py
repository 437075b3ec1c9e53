"""Work in parts: shared among processes, and kept on disk, so that a killed run goes on and does none of them twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from accelerate import Accelerator

from distar import paths
from distar.atomic import written_whole
from distar.errors import WorkDirectoryError
from distar.locking import take_lock
from distar.progress import track


@contextmanager
def work_directory(fingerprint: str, accelerator: Accelerator) -> Iterator[Path]:
    """Hold the folder in which the finished parts of one evaluation are kept; drop them when the body ends well.

    All processes of a run see the same folder; the first locks it.

    Raises:
        WorkDirectoryError: another run works here.
    """
    folder = paths.work_root("evaluate") / fingerprint[:16]
    with take_lock(folder / "lock") if accelerator.is_main_process else nullcontext():
        yield folder
        if accelerator.is_main_process:
            for parts in [path for path in folder.iterdir() if path.is_dir()]:
                shutil.rmtree(parts)


def in_parts(
    description: str, folder: Path, total: int, size: int, accelerator: Accelerator, rows: Callable[[slice], pa.Table]
) -> list[Path]:
    """Make `total` rows, `size` at a time, and return all processes' files in the rows' order once they are there.

    A part holds the same rows and is computed at once however many processes there are, so its content does not
    depend on their number.
    """
    parts = {folder / f"{start:08d}.parquet": slice(start, min(start + size, total)) for start in range(0, total, size)}
    mine = list(parts.items())[accelerator.process_index :: accelerator.num_processes]
    missing = [(path, part) for path, part in mine if not path.exists()]
    num_mine, num_missing = (sum(part.stop - part.start for _, part in which) for which in (mine, missing))
    with track(description, num_mine, num_mine - num_missing) as progress:
        for path, part in missing:
            with written_whole(path) as partial:
                pq.write_table(rows(part), partial)
            progress.advance(part.stop - part.start)
    accelerator.wait_for_everyone()
    return list(parts)


def read_columns(parts: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """Read some columns of all parts, or every column.

    Raises:
        WorkDirectoryError: a part cannot be read.
    """
    tables = []
    for path in parts:
        try:
            tables.append(pq.read_table(path, columns=None if columns is None else list(columns)))
        except (OSError, pa.ArrowException) as error:
            raise WorkDirectoryError(
                f"{path} cannot be read ({error}); remove it and run again: what it held is computed afresh"
            ) from error
    return pa.concat_tables(tables)
