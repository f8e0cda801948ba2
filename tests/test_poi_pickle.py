"""Pickled .npy files: plain data comes back as it was; everything else is refused before anything of it runs."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from models.errors import InputError
from models.safe_pickle import load_pickled_npy


def write_npy(path, pickled: bytes):
    """An object .npy whose content is `pickled`."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    return path


def boxed(content, protocol: int = 3) -> bytes:
    """What np.save pickles for a dict, list or other object."""
    box = np.empty((), dtype=object)
    box[()] = content
    return pickle.dumps(box, protocol)


PLAIN = {
    "numbers": {"西湖": [81, 0, 8], "b": [1.5, -2.0], "c": [True, None]},
    "tuples": {"西湖": (1, (2, "x"))},
    "list": ["西湖", {"a": 1}],
    "text": "西湖",
    "float32": {"西湖": np.arange(4, dtype=np.float32)},
    "big endian": {"西湖": np.arange(4, dtype=">f8")},
    "Fortran order": {"西湖": np.asfortranarray(np.arange(6.0).reshape(2, 3))},
    "numpy scalars": {np.str_("西湖"): [np.float32(1.5), np.int64(3), np.bool_(True)]},
    "texts": np.array(["西湖", "a"]),
    "objects": {"a": np.array([1, "西湖", None], dtype=object)},
    "shared": [[1, 2]] * 3,
}


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_data_comes_back(kind, protocol, tmp_path):
    path = write_npy(tmp_path / "plain.npy", boxed(PLAIN[kind], protocol))
    np.testing.assert_equal(load_pickled_npy(path), PLAIN[kind])
    np.save(tmp_path / "saved.npy", boxed_array(PLAIN[kind]))
    np.testing.assert_equal(load_pickled_npy(tmp_path / "saved.npy"), PLAIN[kind])


def boxed_array(content):
    return pickle.loads(boxed(content))


def test_numpy_1_spelling(tmp_path):
    new = boxed(PLAIN["float32"])
    old = new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != new
    np.testing.assert_equal(load_pickled_npy(write_npy(tmp_path / "old.npy", old)), PLAIN["float32"])


@pytest.mark.parametrize("protocol", [3, 4])
def test_tensors_come_back(protocol, tmp_path):
    whole = torch.randn(6, 4)
    tensors = {
        "vector": torch.randn(4),
        "matrix": whole,
        "row of a matrix": whole[2],
        "with gradient": torch.randn(4, requires_grad=True),
        "half": torch.randn(4).half(),
        "integers": torch.arange(3),
        "number": torch.tensor(1.5),
    }
    loaded = load_pickled_npy(write_npy(tmp_path / "tensors.npy", boxed(tensors, protocol)))
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor.detach()) and loaded[name].dtype == tensor.dtype


class Call:
    """Pickles as a call of `function`, with `state` set afterwards."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args, state) if state is not None else (function, args)

    def __reduce__(self):
        return self.reduced


def storage_of(content: bytes) -> Call:
    return Call(torch.storage._load_from_bytes, content)


def torch_bytes(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def legacy_bytes(content) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def tensor_of(storage, offset, size, stride) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {})


CODES = {  # each would make the folder `target`
    "a call": lambda target: Call(os.mkdir, target),
    "within a dict": lambda target: {"西湖": [Call(os.mkdir, target)]},
    "eval": lambda target: Call(eval, f"__import__('os').mkdir({target!r})"),
    "getattr": lambda target: Call(getattr, Call(__import__, "os"), "mkdir"),
    "a pickle in a pickle": lambda target: Call(pickle.loads, pickle.dumps(Call(os.mkdir, target))),
    "a pickle as a storage": lambda target: storage_of(pickle.dumps(Call(os.mkdir, target))),
    "a weight file as a storage": lambda target: storage_of(torch_bytes({"a": Call(os.mkdir, target)})),
    "an old weight file as a storage": lambda target: storage_of(legacy_bytes(Call(os.mkdir, target))),
    "a tensor of such a storage": lambda target: tensor_of(
        storage_of(legacy_bytes(Call(os.mkdir, target))), 0, (1,), (1,)
    ),
    "torch.load": lambda target: Call(torch.load, target),
    "a file": lambda target: Call(open, target, "w"),
    "numpy.load": lambda target: Call(np.load, target),
}


@pytest.mark.parametrize("code", CODES)
def test_code_is_refused_and_nothing_runs(code, tmp_path):
    target = tmp_path / "made"
    path = write_npy(tmp_path / "evil.npy", boxed(CODES[code](str(target))))
    with pytest.raises(InputError, match=r"evil.npy: holds .*; refused, and nothing of it was run"):
        load_pickled_npy(path)
    assert not target.exists()


def test_such_code_would_run_if_it_were_let(tmp_path):
    path = write_npy(tmp_path / "evil.npy", boxed(CODES["a tensor of such a storage"](str(tmp_path / "made"))))
    with pytest.raises(Exception):  # noqa: B017 the storage is no storage, which is noticed too late
        np.load(path, allow_pickle=True)
    assert (tmp_path / "made").is_dir()


def test_the_message_says_what_was_wanted(tmp_path):
    path = write_npy(tmp_path / "evil.npy", boxed(Call(os.mkdir, "x")))
    with pytest.raises(InputError, match=r"holds posix.mkdir; refused, and nothing of it was run: only dicts"):
        load_pickled_npy(path)


def long_storage() -> Call:
    """A storage of four numbers, as it is pickled within a tensor."""
    return torch.zeros(4).__reduce_ex__(3)[1][0]


def array_with(*state) -> Call:
    return Call(np._core.multiarray._reconstruct, np.ndarray, (0,), b"b", state=state)


INSIDE_ITSELF = []
INSIDE_ITSELF.append(INSIDE_ITSELF)
MALFORMED = {
    "tensor beyond its storage": tensor_of(long_storage(), 0, (5,), (1,)),
    "tensor before its storage": tensor_of(long_storage(), -3, (2,), (1,)),
    "tensor with a negative size": tensor_of(long_storage(), 0, (-1,), (1,)),
    "tensor with a stride": tensor_of(long_storage(), 0, (2,), (2,)),
    "tensor of a tensor": tensor_of(storage_of(torch_bytes(torch.zeros(4))), 0, (2,), (1,)),
    "array longer than its content": array_with(1, (5,), np.dtype("f4"), False, b"1234"),
    "object array longer than its list": array_with(1, (5,), np.dtype("O"), False, [1]),
    "bytes as an object array": array_with(1, (1,), np.dtype("O"), False, b"12345678"),
    "a record array": np.zeros(2, dtype=[("a", "f4")]),
    "dates": np.zeros(2, dtype="M8[s]"),
    "a masked array": np.ma.array([1, 2]),
    "a set": {1, 2},
    "bytes": b"12",
    "a slice": slice(1),
    "a list inside itself": INSIDE_ITSELF,
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_other_content_is_refused(kind, tmp_path):
    path = write_npy(tmp_path / "odd.npy", boxed(MALFORMED[kind]))
    with pytest.raises(InputError, match=r"odd.npy: "):
        load_pickled_npy(path)


def test_pickles_written_by_hand(tmp_path):
    """Opcodes that no pickler writes: they meet inert stand-ins, so nothing can be called, made or changed by them."""
    admitted = b"cnumpy\nndarray\n"
    by_hand = {
        "an admitted name": admitted + b".",
        "its state set": admitted + b"}(X\x01\x00\x00\x00aK\x01ub.",
        "an instance of it": b"\x80\x02" + admitted + b")\x81.",
        "an attribute of it": b"\x80\x04\x8c\x05numpy\x8c\x0bndarray.fill\x93.",
        "an object": b"(" + admitted + b"o.",
        "a persistent id": b"Pabc\n.",
        "an extension": b"\x82\x01.",
        "nothing": b"",
        "deep nesting": b"]" * 100_000 + b"a" * 99_999 + b".",
    }
    for kind, pickled in by_hand.items():
        with pytest.raises(InputError):
            load_pickled_npy(write_npy(tmp_path / "odd.npy", pickled))
            pytest.fail(kind)
    assert np.ndarray.__dict__.get("a") is None


def test_what_is_named_a_million_times_is_made_once(tmp_path):
    content = ["西湖"]
    for _ in range(60):
        content = [content, content]  # 2**60 texts, if they were counted one by one
    loaded = load_pickled_npy(write_npy(tmp_path / "many.npy", boxed(content)))
    for _ in range(60):
        loaded = loaded[1]
    assert loaded == ["西湖"]


def test_files_that_are_no_such_npy(tmp_path):
    whole = boxed(PLAIN["float32"])
    np.save(tmp_path / "numbers.npy", np.zeros(3))
    (tmp_path / "page.npy").write_text("<html>not found</html>")
    (tmp_path / "empty.npy").touch()
    write_npy(tmp_path / "cut.npy", whole[:-20])
    (tmp_path / "shape.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", 4) + b"{}\n\n" + whole)
    for name in ("page.npy", "empty.npy", "cut.npy", "shape.npy"):
        with pytest.raises(InputError, match=f"{name}: no .npy of a pickled dict, or cut off or damaged"):
            load_pickled_npy(tmp_path / name)
    with pytest.raises(InputError, match=r"numbers.npy: a plain array of float64, where a pickled dict is wanted"):
        load_pickled_npy(tmp_path / "numbers.npy")
