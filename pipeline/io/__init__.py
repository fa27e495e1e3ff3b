"""Where a run reads and writes: roots, remote storage, Zarr, Parquet, images."""
