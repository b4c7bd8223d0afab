"""Columns of a data set's parquet tables as arrays, checked."""

from pathlib import Path
from typing import Any

import numpy as np

from fovea.data import keys
from fovea.errors import FoveaError


def read_tables(paths: list[Path], root: Path, columns: list[str] | None = None) -> Any:
    """The rows of several parquet files as one table.

    Raises:
        FoveaError: no file, one that is damaged, or one without these columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not paths:
        raise FoveaError(f"{root} has no parquet tables under data/ or meta/episodes/; assemble it again")
    tables = []
    for path in paths:
        try:
            names = set(pq.read_schema(path).names)
            if lacking := [name for name in columns or () if name not in names]:
                raise FoveaError(f"{path} lacks {', '.join(lacking)}; record or convert the data set again")
            tables.append(pq.read_table(path, columns=columns))
        except (pa.ArrowException, OSError) as error:
            raise FoveaError(
                f"{path} is truncated or damaged ({error}); assemble the data set again"
            ) from error
    try:
        return pa.concat_tables(tables)
    except pa.ArrowException as error:
        raise FoveaError(
            f"{root}: its tables are of different columns ({error}); assemble it again"
        ) from error


def vectors(rows: Any, key: str, size: int, root: Path) -> np.ndarray:
    """A column of vectors as (F, size) float32.

    Raises:
        FoveaError: a row of another size, NaN or infinity, or no numbers at all.
    """
    import pyarrow.compute as pc
    from pyarrow import types

    wanted = 7 if key == keys.ACTION else size
    values = rows.column(key).combine_chunks()
    kind = values.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        raise FoveaError(f"{root}: expected {key} vectors of {wanted}, got a column of {kind}")
    if not (types.is_floating(kind.value_type) or types.is_integer(kind.value_type)):
        raise FoveaError(f"{root}: expected {key} vectors of {wanted} numbers, got {kind.value_type}")
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    if size != wanted or (lengths != wanted).any():
        strange = sorted({int(length) for length in lengths if length != wanted} or {size})
        raise FoveaError(
            f"{root}: expected {key} vectors of {wanted}, got {', '.join(map(str, strange[:4]))}"
        )
    flat = pc.list_flatten(values).to_numpy(zero_copy_only=False).astype(np.float32)
    matrix = flat.reshape(len(rows), size)
    bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
    if bad.size:
        episode = rows.column("episode_index")[int(bad[0])].as_py()
        frame = rows.column("frame_index")[int(bad[0])].as_py()
        raise FoveaError(
            f"{root}: {key} is NaN or infinite in {bad.size} rows, first in episode {episode}, frame {frame}; "
            "remove that episode (lerobot-edit-dataset)"
        )
    return matrix
