"""TensorLayer's files, as the narcomey2018 program writes them, through the command and without it."""

import keras
import numpy as np
import pytest
import yaml

from tests import golden
from tf_mrsr import convert, recipe
from tf_mrsr.conversion import narcomey2018 as conversion
from tf_mrsr.errors import ModelError
from tf_mrsr.inference import models
from tf_mrsr.networks import narcomey2018
from tf_mrsr.volume import Volume


def write_recipe(folder, generator):
    """The program's recipe with another generator."""
    name = f"narcomey2018_srgan_model{1 if generator['out_channels'] == 1 else 2}_code"
    content = yaml.safe_load((recipe.recipe_directory() / f"{name}.yaml").read_text())
    content |= {"name": "narcomey2018"}
    content["network"]["generator"] = generator
    path = folder / "narcomey2018.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def convert_slices(source, output, folder, **generator):
    return convert.main([str(source), "-o", str(output), "--recipe", str(write_recipe(folder, generator))])


def tensors_of(model):
    """In TensorLayer's order and axes."""
    tensors = [variable.numpy() for variable in golden.variables_in_program_order(model)]
    return [np.swapaxes(tensor, 0, 1) if tensor.ndim == 4 else tensor for tensor in tensors]


def write_npz(path, tensors, key="params"):
    array = np.empty(len(tensors), object)
    array[:] = tensors
    np.savez(path, **{key: array})
    return path


@pytest.fixture
def small():
    model = narcomey2018.generator(3, filters=2, num_residual_blocks=1)
    for i, variable in enumerate(model.weights):
        variable.assign(np.random.default_rng(i).uniform(0.1, 1, variable.shape))
    return model


@golden.needs_golden
def test_the_programs_file_through_the_command(golden_npz, tmp_path, capsys):
    """The program's slices are (row, column), ours (x, y)."""
    (tmp_path / "out").mkdir()
    output = tmp_path / "out" / "model1.weights.h5"
    assert convert_slices(golden_npz, output, tmp_path, out_channels=1) == 0
    assert "169 tensors, 1226177 weights converted" in capsys.readouterr().out
    model = narcomey2018.generator(1)
    model.load_weights(output)
    image = golden.volume((1, 16, 12, 1))
    result = model(image.transpose(0, 2, 1, 3), training=False).numpy().transpose(0, 2, 1, 3)
    expected = golden.array("npz_m1", "out_infer_1x16x12.npy", golden.NARCOMEY)
    np.testing.assert_allclose(result, expected, atol=2e-5 * np.abs(expected).max())
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@golden.needs_golden
def test_order_of_the_programs_names(golden_npz):
    expected = [name for _, name, _ in golden.case("npz_m1", golden.NARCOMEY)["params"]]
    assert list(conversion._names(narcomey2018.generator(1)).values()) == expected
    shapes = [shape for _, _, shape in golden.case("npz_m1", golden.NARCOMEY)["params"]]
    assert [list(tensor.shape) for tensor in conversion.read_npz(golden_npz)] == shapes


def test_a_model_folder_that_predicts(tmp_path, small):
    """Three slices for one, in the order of the channels."""
    source = write_npz(tmp_path / "g.npz", tensors_of(small))
    assert convert_slices(source, tmp_path / "model", tmp_path, out_channels=3, filters=2, num_residual_blocks=1) == 0
    volume = np.random.default_rng(1).uniform(1, 9, (12, 11, 4)).astype(np.float32)
    model = models.load(tmp_path / "model")
    result = model.super_resolve(Volume(volume, np.diag([1, 1, 3, 1])), 2**30)
    for i in range(4):
        expected = small(volume[None, ..., i, None], training=False)[0]
        np.testing.assert_allclose(result.data[..., 3 * i : 3 * i + 3], expected, rtol=1e-4)


def test_back_and_forth(tmp_path, small):
    source = write_npz(tmp_path / "g.npz", tensors_of(small))
    generator = {"out_channels": 3, "filters": 2, "num_residual_blocks": 1}
    assert convert_slices(source, tmp_path / "g.weights.h5", tmp_path, **generator) == 0
    copy = keras.models.clone_model(small)
    copy.load_weights(tmp_path / "g.weights.h5")
    for value, expected in zip(copy.get_weights(), small.get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)


FAULTS = {
    "missing": (lambda t: t[:-1], "SRGAN_g/n256s1/1/bias is missing; choose"),
    "left over": (lambda t: [*t, np.zeros(2), np.zeros(3)], "tensor 20 is left over; tensor 21 is left over; choose"),
    "misshapen": (
        lambda t: [np.zeros((3, 3, 1, 4)), *t[1:]],
        "SRGAN_g/n64s1/c/kernel is (3, 3, 1, 4) instead of (3, 3, 1, 2)",
    ),
    "not finite": (lambda t: [t[0], t[1] * np.inf, *t[2:]], "SRGAN_g/n64s1/c/bias has NaN or infinite values"),
    "not numbers": (lambda t: [["a"], *t[1:]], "a list stands where an array of numbers"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_tensors_that_do_not_fit(tmp_path, small, name):
    change, words = FAULTS[name]
    source = write_npz(tmp_path / "g.npz", change(tensors_of(small)))
    with pytest.raises(ModelError) as refused:
        conversion.load(small, source)
    assert words in str(refused.value)
    assert str(source) in str(refused.value)


def test_other_files(tmp_path, small):
    with pytest.raises(ModelError, match="holds 'weights'; expected a TensorLayer file"):
        conversion.load(small, write_npz(tmp_path / "g.npz", tensors_of(small), key="weights"))
    np.savez(tmp_path / "plain.npz", params=np.zeros(3))
    with pytest.raises(ModelError, match="expected a TensorLayer file with a list of arrays"):
        conversion.load(small, tmp_path / "plain.npz")
