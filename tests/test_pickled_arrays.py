"""Pickled arrays as numpy of several versions writes them, and pickles that want to run something."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from tests import golden
from tf_mrsr.errors import ModelError
from tf_mrsr.pickled_arrays import numbers, read

ARRAYS = [np.arange(6, dtype="<f4").reshape(2, 3), np.arange(4, dtype=">f8"), np.arange(3, dtype=np.uint8)]
OBJECT_HEADER = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"


def object_array(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


def npy(pickled, header=OBJECT_HEADER):
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + pickled


def write(path, pickled, header=OBJECT_HEADER):
    path.write_bytes(npy(pickled, header))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_list_of_arrays(tmp_path, protocol):
    """Protocol 2 is what numpy wrote up to 1.16, 3 and 4 what it writes since."""
    path = write(tmp_path / "list.npy", pickle.dumps(object_array(ARRAYS), protocol))
    values = read(path)[""]
    assert [numbers(value).dtype for value in values] == [array.dtype for array in ARRAYS]
    for value, array in zip(values, ARRAYS, strict=True):
        np.testing.assert_array_equal(numbers(value), array)


def test_npz_of_this_numpy(tmp_path):
    fortran = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez(tmp_path / "both.npz", params=object_array([fortran]), plain=fortran)
    values = read(tmp_path / "both.npz")
    assert set(values) == {"params", "plain"}
    np.testing.assert_array_equal(numbers(values["params"][0]), fortran)
    np.testing.assert_array_equal(numbers(values["plain"]), fortran)


def test_dictionary_in_an_array_without_axes(tmp_path):
    layers = {"conv1_1": [ARRAYS[0], ARRAYS[1]]}
    np.save(tmp_path / "vgg.npy", np.array(layers, object), allow_pickle=True)
    value = read(tmp_path / "vgg.npy")[""]
    assert list(value) == ["conv1_1"]
    np.testing.assert_array_equal(numbers(value["conv1_1"][1]), ARRAYS[1])


def test_pickle_of_python_2(tmp_path):
    """There bytes are text: SHORT_BINSTRING (U) where Python 3 has BINBYTES."""
    raw = np.float32([1.5, -2]).tobytes()
    inner = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02f4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U"
        + bytes([len(raw)])
        + raw
        + b"tb"
    )
    outer = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x01tcnumpy\ndtype\n(U\x02O8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89]"
        + inner
        + b"atb."
    )
    (value,) = read(write(tmp_path / "py2.npy", outer))[""]
    np.testing.assert_array_equal(numbers(value), [1.5, -2])


@golden.needs_golden
def test_the_file_that_tensorlayer_wrote(golden_npz):
    case = golden.case("npz_m1", golden.NARCOMEY)
    params = read(golden_npz)["params"]
    assert [list(numbers(value).shape) for value in params] == [shape for _, _, shape in case["params"]]
    assert {numbers(value).dtype for value in params} == {np.dtype("float32")}


class Runs:
    """Pickled, it calls ``function`` when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Subclass(np.ndarray):
    pass


MARKER = "tf_mrsr_was_run"
HOSTILE = {
    "system": (pickle.dumps(Runs(os.system, f"touch {MARKER}"), 2), "asks for posix.system"),
    "eval in an array": (pickle.dumps(object_array([Runs(eval, f"open({MARKER!r}, 'w')")])), "asks for builtins.eval"),
    "a dot in the name": (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "asks for numpy.ndarray.__class__"),
    "getattr": (b"cbuiltins\ngetattr\n.", "asks for builtins.getattr"),
    "INST": (b"(S'touch x'\niposix\nsystem\n.", "asks for posix.system"),
    "numpy that runs": (pickle.dumps(Runs(np.load, MARKER)), "asks for numpy.load"),
    "loadtxt": (b"cnumpy\nloadtxt\n.", "asks for numpy.loadtxt"),
    "codec": (b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "encodes text otherwise"),
    "subclass": (pickle.dumps(object_array([np.arange(3.0).view(Subclass)])), "Subclass; it may hold numpy arrays"),
    "other template": (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\ndtype\n(K\x00tU\x01btR.", "another class"),
    "array called": (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R.", "damaged"),
    "attribute set on the class": (b"\x80\x02cnumpy\ndtype\nN}U\x07newtypeK\x01s\x86b.", "damaged"),
    "state of a codec": (b"\x80\x02c_codecs\nencode\n}b.", "damaged"),
    "array never filled": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR.",
        "or a table; expected a list",
    ),
    "structured": (pickle.dumps(object_array([np.zeros(2, "i4,f4")])), "of dtype 'V8'"),
    "text": (pickle.dumps(object_array([np.array(["a", "bc"])])), "of dtype 'U2'"),
    "persistent": (b"Pthing\n.", "damaged"),
    "not an array": (pickle.dumps({"a": 1}), "holds a dict; expected an array"),
    "extension": (b"\x80\x02\x82\x01.", "damaged"),
    "cut": (pickle.dumps(object_array(ARRAYS))[:-40], "damaged"),
    "empty": (b"", "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("packed", [False, True])
def test_hostile_pickles_run_nothing(tmp_path, monkeypatch, name, packed):
    monkeypatch.chdir(tmp_path)
    pickled, words = HOSTILE[name]
    path = write(tmp_path / "hostile.npy", pickled)
    if packed:
        with zipfile.ZipFile(tmp_path / "hostile.npz", "w") as archive:
            archive.write(path, "params.npy")
        path = tmp_path / "hostile.npz"
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError) as refused:
        read(path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


def state(shape, dtype="f4", data=b"\0" * 8):
    """A pickled array with a state of one's own."""

    class Array:
        def __reduce__(self):
            reconstruct, arguments, _ = np.zeros(1).__reduce__()
            return reconstruct, arguments, (1, shape, np.dtype(dtype), False, data)

    return pickle.dumps(Array())


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (state((3,)), "data do not fit its shape"),
        (state((2**40, 2**40)), "data do not fit its shape"),
        (state((-2, -1)), "without elements"),
        (state((0, 2**62)), "without elements"),
        (state((1,) * 9 + (2,)), "too many axes"),
        (state((2,), data=[1, 2]), "data do not fit its kind"),
        (state((2,), "O", b"ab"), "data do not fit its kind"),
        (state([2]), "without elements"),
        (state((2.0,)), "without elements"),
    ],
)
def test_states_that_no_array_has(tmp_path, pickled, words):
    with pytest.raises(ModelError, match=words):
        read(write(tmp_path / "state.npy", pickled))


def test_every_damaged_byte_is_an_error_or_another_array(tmp_path):
    """Not a crash, and no exception of another kind."""
    whole = npy(pickle.dumps(object_array(ARRAYS), 2))
    random = np.random.default_rng(3)
    path, refused = tmp_path / "damaged.npy", 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            values = read(path)[""]
            for value in values if isinstance(values, list) else []:
                numbers(value)
        except ModelError:
            refused += 1
    assert refused > 100


def test_files_that_are_none(tmp_path):
    with pytest.raises(ModelError, match=r"none\.npz: cannot be read \(No such file"):
        read(tmp_path / "none.npz")
    with pytest.raises(ModelError, match=r"cannot be read \(Is a directory"):
        read(tmp_path)
    (tmp_path / "text.npz").write_text("words")
    with pytest.raises(ModelError, match="damaged, or not a "):
        read(tmp_path / "text.npz")


def test_members_of_a_bomb_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr("tf_mrsr.pickled_arrays.MOST_BYTES", 10_000)
    np.savez_compressed(tmp_path / "bomb.npz", params=np.zeros(10_000))
    with pytest.raises(ModelError, match=r"params\.npy has 80128 bytes, over 10000"):
        read(tmp_path / "bomb.npz")


def test_numbers_are_numbers():
    with pytest.raises(ModelError, match="a list stands where an array"):
        numbers([1, 2])
