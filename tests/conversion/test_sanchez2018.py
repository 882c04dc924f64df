"""Checkpoints of TensorFlow 1, as the sanchez2018 program writes them, through the command."""

import numpy as np
import pytest
import tensorflow as tf

from tests import golden
from tf_mrsr import convert, recipe
from tf_mrsr.conversion import sanchez2018 as conversion
from tf_mrsr.errors import ModelError
from tf_mrsr.inference import models
from tf_mrsr.limits import UNLIMITED
from tf_mrsr.networks import sanchez2018
from tf_mrsr.volume import Volume

UPSAMPLING = {"nn": "resize", "subpixel": "subpixel", "subpixel_NN": "subpixel_nn"}
CASES = [
    f"gen_{mode}_x{factor}_fs8_rb{blocks}_chirp"
    for mode, factor, blocks in (
        ("nn", 2, 6),
        ("nn", 4, 2),
        ("subpixel", 4, 2),
        ("subpixel_NN", 2, 2),
        ("subpixel_NN", 4, 2),
    )
]


def write_checkpoint(prefix, tensors):
    """With TensorFlow 1's own Saver."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = [tf.compat.v1.get_variable(name, initializer=value) for name, value in tensors.items()]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver(variables).save(session, str(prefix), global_step=0, write_meta_graph=False)
    return prefix.with_name(f"{prefix.name}-0")


def formula_tensors(case):
    return {
        spec["name"]: golden.formula_value(
            spec["index"], spec["shape"], spec["role"], spec.get("fan_in"), case["weight_pattern"], case["weight_gain"]
        )
        for spec in case["variables"]
    }


def options(case):
    return [
        *("--recipe", f"sanchez2018_srgan3d_x{case['factor']}_{UPSAMPLING[case['mode']]}_code"),
        *("--set", f"network.generator.filters={case['feature_size']}"),
        *("--set", f"network.generator.num_residual_blocks={case['residual_blocks']}"),
    ]


def small(**arguments):
    return sanchez2018.generator(2, "subpixel", 2, 1, **arguments)


def named(model):
    return {theirs: model_value(model, ours) for ours, theirs in conversion._names(model).items()}


def model_value(model, path):
    return next(v for v in model.weights if v.path == path).numpy()


@golden.needs_golden
@pytest.mark.parametrize("name", CASES)
def test_written_by_tensorflow_1_and_converted_by_the_command(tmp_path, name, capsys):
    case = golden.case(name)
    (tmp_path / "model").mkdir()
    prefix = write_checkpoint(tmp_path / "model" / "model", formula_tensors(case))
    output = tmp_path / "g.weights.h5"
    assert convert.main([str(prefix), "-o", str(output), *options(case)]) == 0
    assert f"{case['n_variables']} tensors" in capsys.readouterr().out
    model = sanchez2018.generator(
        case["factor"],
        UPSAMPLING[case["mode"]],
        case["feature_size"],
        case["residual_blocks"],
        output_activation="tanh" if case["mode"] == "nn" else None,
    )
    model.load_weights(output)
    result = model(golden.volume(case["input_shape"]), training=False).numpy()
    np.testing.assert_allclose(result, golden.array(name, "out_infer.npy"), atol=golden.suggested_atol(name, "infer"))


@golden.needs_golden
def test_the_programs_own_checkpoint_becomes_a_model(tmp_path):
    """The recorded test run, about its recorded corner.

    The program's input of 56 x 56 x 38 voxels is made anew. A voxel of 1, out of the network's sight from the corner,
    makes the model's intensity window [-1, 1], so that what the network sees is known.
    """
    name = "checkpoint_subpixel_x4_fs8_rb2"
    case = golden.case(name)
    source, output = golden.GOLDEN / name, tmp_path / "x4"
    assert convert.main([str(source), "-o", str(output), *options(case)]) == 0
    model = models.load(output)

    brain = np.maximum(0, 100 + 300 * golden.volume(case["evaluate"]["file_shape"], np.float64)).astype(np.float32)
    # Padded to 256 x 256 x 184 and cut to [16:240, 16:240, 16:168].
    brain = brain[8:232, 16:240, 4:156].astype(np.float64)
    half = brain.max() / 2
    degradation = recipe.load("sanchez2018_srgan3d_x4_subpixel_code").testing_degradation()
    low_res = degradation.batch(brain[None] / half - 1)[0]
    assert half == pytest.approx(case["evaluate"]["normfactor"])
    np.testing.assert_allclose(
        low_res[20:28, 24:32, 16:22], golden.array(name, "eval_input_corner.npy").squeeze(), atol=1e-5
    )

    crop = low_res[10:34, 14:38, 6:30].astype(np.float32)
    crop[0, 0, 0] = 1
    result = model.super_resolve(Volume(crop + 1, np.eye(4)), UNLIMITED).data - 1
    expected = golden.array(name, "eval_output_corner.npy").squeeze()
    np.testing.assert_allclose(result[40:56, 40:56, 40:56], expected, atol=1e-5)


FAULTS = {
    "missing": (lambda t: t.pop("SRGAN_g/BN-conv2/beta"), "SRGAN_g/BN-conv2/beta is missing"),
    "left over": (lambda t: t.update({"SRGAN_g/conv3/b_conv3d": np.zeros(2)}), "SRGAN_g/conv3/b_conv3d is left over"),
    "misshapen": (
        lambda t: t.update({"SRGAN_g/conv1/b_conv3d": np.zeros(3, np.float32)}),
        "SRGAN_g/conv1/b_conv3d is (3,) instead of (2,)",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_tensors_that_do_not_fit(tmp_path, name):
    model = small()
    tensors = named(model)
    change, words = FAULTS[name]
    change(tensors)
    prefix = write_checkpoint(tmp_path / "model", tensors)
    with pytest.raises(ModelError) as refused:
        conversion.load(model, prefix)
    assert words in str(refused.value)


def test_what_the_programs_training_saves_with_the_generator_is_not_read(tmp_path):
    """Its Saver has no list of variables, so it takes all: both networks, both optimisers, counters."""
    model = small()
    model.get_layer("conv_last").bias.assign([7])
    tensors = named(model)
    slots = {f"{name}/{slot}": -np.ones_like(tensor) for name, tensor in tensors.items() for slot in ("Adam", "Adam_1")}
    others = ("SRGAN_d/conv1/b_conv3d", "SRGAN_d/dense1/W", "SRGAN_d/dense1/W/Adam", "learning_rate/Variable")
    others += ("Variable", "beta1_power", "beta2_power", "beta1_power_1", "beta2_power_1")
    prefix = write_checkpoint(tmp_path / "model", tensors | slots | dict.fromkeys(others, np.float32(0.9)))
    copy = small()
    conversion.load(copy, prefix)
    for ours, theirs in zip(copy.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("which", ["folder", "prefix", "index"])
def test_ways_to_name_a_checkpoint(tmp_path, which):
    model = small()
    model.get_layer("conv_last").bias.assign([7])
    prefix = write_checkpoint(tmp_path / "model", named(model))
    source = {"folder": tmp_path, "prefix": prefix, "index": prefix.with_name("model-0.index")}[which]
    copy = small()
    conversion.load(copy, source)
    assert copy.get_layer("conv_last").bias.numpy() == 7


def test_several_checkpoints_are_not_guessed(tmp_path):
    for name in ("a", "b"):
        write_checkpoint(tmp_path / name, {"x": np.zeros(1)})
    with pytest.raises(ModelError, match="found 2: a-0, b-0; give the path of one"):
        conversion.read_checkpoint(tmp_path)


def test_damaged_checkpoint(tmp_path):
    prefix = write_checkpoint(tmp_path / "model", named(small()))
    data = prefix.with_name("model-0.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    with pytest.raises(ModelError, match="damaged or incomplete"):
        conversion.read_checkpoint(prefix)
    data.unlink()
    with pytest.raises(ModelError, match="damaged or incomplete"):
        conversion.read_checkpoint(prefix)


def test_a_resize_network_needs_the_programs_tanh(tmp_path):
    with pytest.raises(ModelError, match="ends in tanh"):
        conversion.load(sanchez2018.generator(2, "resize", 2, 1), tmp_path)
