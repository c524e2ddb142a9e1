"""Reads a .pth with nothing but Python's zipfile and pickle, and prints what it holds as JSON.

An independent check of the files epicker writes: no PyTorch, no code of ours. Only the names listed in ALLOWED may be
asked for, so the reader is safe on files of any origin.

    python3 tests/python/read_pth.py FILE

Tensors are printed as [type, shape, SHA-256 of the little-endian values in row-major order].
"""

import collections
import hashlib
import json
import pickle
import sys
import zipfile

SIZES = {"FloatStorage": 4, "HalfStorage": 2, "DoubleStorage": 8, "LongStorage": 8}


class Storage:
    def __init__(self, kind, data):
        self.kind, self.data = kind, data


def rebuild_tensor(storage, offset, shape, strides, requires_grad, hooks):
    assert requires_grad is False and isinstance(hooks, collections.OrderedDict)
    count, dense = 1, []
    for extent in reversed(shape):
        dense.insert(0, count)
        count *= extent
    assert count == 0 or tuple(dense) == strides, f"strides {strides} of shape {shape} are not dense"
    size = SIZES[storage.kind]
    data = storage.data[offset * size : (offset + count) * size]
    assert len(data) == count * size, "the tensor reaches beyond its storage"
    return [storage.kind.removesuffix("Storage"), list(shape), hashlib.sha256(data).hexdigest()]


ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
    **{("torch", name): name for name in SIZES},
}


class Unpickler(pickle.Unpickler):
    def __init__(self, archive, folder):
        super().__init__(archive.open(f"{folder}/data.pkl"))
        self.archive, self.folder = archive, folder

    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return ALLOWED[module, name]

    def persistent_load(self, description):
        storage, kind, key, location, count = description
        assert (storage, location) == ("storage", "cpu")
        data = self.archive.read(f"{self.folder}/data/{key}")  # checks the CRC
        assert len(data) == count * SIZES[kind], f"storage {key} has {len(data)} bytes"
        return Storage(kind, data)


def check_container(path, archive, folder):
    with open(path, "rb") as file:
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED, f"{entry.filename} is compressed"
            file.seek(entry.header_offset + 26)
            name_length, extra_length = (int.from_bytes(file.read(2), "little") for _ in range(2))
            begin = entry.header_offset + 30 + name_length + extra_length
            assert begin % 64 == 0, f"{entry.filename} begins at byte {begin}"
    assert archive.read(f"{folder}/version") == b"3\n"
    assert archive.read(f"{folder}/byteorder") == b"little"


def main(path):
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].split("/")[0]
        assert all(name.startswith(folder + "/") for name in archive.namelist())
        check_container(path, archive, folder)
        loaded = Unpickler(archive, folder).load()
    assert isinstance(loaded.get("state_dict", loaded), collections.OrderedDict)
    json.dump(loaded, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
