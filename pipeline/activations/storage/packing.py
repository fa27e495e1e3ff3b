"""The arrays of shard statistics as bytes: whole numbers made narrow, in safetensors, compressed with Zstandard.

The statistics of all tar shards are read when `collect` ends, so reading them is the cost of the merge. Counts, ids and
positions of the images of one tar shard fit one or two bytes; nothing is rounded. `numpy.savez_compressed` takes more
bytes and unpacks more slowly.
"""

import json
from collections.abc import Mapping
from typing import Final

import numpy as np
import safetensors.numpy
from numcodecs import Zstd

# Higher levels make these arrays hardly smaller.
_ZSTD: Final = Zstd(level=1)
_NARROW: Final = (np.uint8, np.uint16, np.uint32)


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Named arrays of whole and real numbers as bytes; equal arrays give equal bytes."""
    narrow, widths = {}, {}
    for name, array in arrays.items():
        narrow[name] = np.ascontiguousarray(array)
        if array.dtype.kind == "i" and array.size:
            lowest = int(array.min())
            span = int(array.max()) - lowest
            width = next((width for width in _NARROW if span <= np.iinfo(width).max), None)
            if width is not None:
                narrow[name] = (array - lowest).astype(width)
                widths[name] = [array.dtype.name, lowest]
    return _ZSTD.encode(safetensors.numpy.save(narrow, metadata={"widths": json.dumps(widths, sort_keys=True)}))


def unpack(data: bytes) -> dict[str, np.ndarray]:
    """Inverse of `pack`."""
    tensors = _ZSTD.decode(data)
    # The format begins with the length of a JSON header, 8 bytes; `load` does not give its metadata.
    header_bytes = int.from_bytes(tensors[:8], "little")
    widths = json.loads(json.loads(tensors[8 : 8 + header_bytes])["__metadata__"]["widths"])
    arrays = safetensors.numpy.load(tensors)
    for name, (dtype, lowest) in widths.items():
        arrays[name] = arrays[name].astype(dtype)
        if lowest:
            arrays[name] += arrays[name].dtype.type(lowest)
    return arrays
