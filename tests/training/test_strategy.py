"""Training on two devices, in a process of its own because devices are fixed when TensorFlow starts."""

import subprocess
import sys

from tests import scans

CODE = """
import sys
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path

from tf_mrsr import recipe, run_folder
from tf_mrsr.cohort import find_pairs
from tf_mrsr.errors import ModelError
from tf_mrsr.pipeline import PatchPairs
from tf_mrsr.training.loop import Settings, Trainer

folder = Path(sys.argv[1])
chosen = recipe.load(
    "sanchez2018_srgan3d_x2_subpixel",
    ["network.generator.filters=4", "network.generator.num_residual_blocks=1", "network.discriminator.filters=[4,4]",
     "patches.shape=[8,8,8]", "patches.step=[8,8,8]", "batch_size=4"],
)
pairs = PatchPairs(find_pairs([folder / "scan.nii.gz"]), chosen, seed=0)
trainer = Trainer(chosen, pairs, None, Settings(steps=3), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
try:
    trainer.open(folder)
except ModelError:
    pass
else:
    raise SystemExit("a folder that is no run was taken")
facts = {"seed": 0, "steps": None, "precision": "float32", "data": "", "validation_data": ""}
run_folder.create_run(folder / "run", chosen, facts)
assert trainer.open(folder / "run") == 0
trainer.run()
for variable in trainer.generator.trainable_variables:
    first, second = (copy.numpy() for copy in variable.value.values)
    np.testing.assert_array_equal(first, second)
    assert np.all(np.isfinite(first))
"""


def test_two_devices_keep_the_same_weights(tmp_path):
    scans.save(tmp_path / "scan.nii.gz", scans.blobs((24, 24, 24), scans.OBLIQUE) + 20, scans.OBLIQUE)
    done = subprocess.run([sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "saved_model").is_dir()
