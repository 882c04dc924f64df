"""From one contrast to another: pairs by name and by list, networks in stages, predictions by averaged patches."""

import json
import shutil
from pathlib import Path

import keras
import nibabel as nib
import numpy as np
import pytest
import tensorflow as tf

from tests import dicom_series, scans
from tf_mrsr import baselines, evaluate, recipe, run_folder
from tf_mrsr.__main__ import main
from tf_mrsr.cohort import Contrasts, Scan, find_pairs, find_scans, synthetic_name
from tf_mrsr.degradation import OtherContrast
from tf_mrsr.errors import DataError, RecipeError
from tf_mrsr.inference import models
from tf_mrsr.networks.structure import up_to_stage
from tf_mrsr.pairs import read_pair
from tf_mrsr.pipeline import PatchPairs
from tf_mrsr.training.step import AdversarialStep

T1_TO_T2 = Contrasts("T1w", "T2w")
SHAPE = (18, 17, 20)
SMALL = [
    "contrasts.source=T1w",
    "contrasts.target=T2w",
    "network.generator.filters=[2,2,2,2,2,2,2,2,1]",
    "patches.shape=[8,8,8]",
    "patches.step=[8,8,8]",
    "prediction.patch=8",
    "prediction.stride=4",
]
SET = [item for change in SMALL for item in ("--set", change)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three people; the T2w is 300 less twice the T1w inside the head."""
    folder = tmp_path_factory.mktemp("cohort")
    for person in range(3):
        source = scans.blobs(SHAPE, scans.OBLIQUE, seed=person)
        source[source < 20] = 0
        scans.save(folder / f"sub-{person}_T1w.nii.gz", source, scans.OBLIQUE)
        target = np.where(source > 0, 900 - source, 0).astype(np.float32)
        scans.save(folder / f"sub-{person}_T2w.nii.gz", target, scans.OBLIQUE)
    return folder


def files(cohort, *people):
    return [str(cohort / f"sub-{person}_{contrast}.nii.gz") for person in people for contrast in ("T1w", "T2w")]


def test_pairs_are_found_by_name_and_by_list(cohort, tmp_path):
    expected = [Scan(cohort / f"sub-{i}_T2w.nii.gz", cohort / f"sub-{i}_T1w.nii.gz") for i in range(3)]
    assert find_pairs([cohort], T1_TO_T2) == expected
    (tmp_path / "pairs.tsv").write_text(f"source\ttarget\n{expected[1].low_res}\t{expected[1].high_res}\n")
    assert find_pairs([tmp_path / "pairs.tsv"], T1_TO_T2) == [expected[1]]


def test_a_pair_that_is_listed_and_found_by_its_names_counts_once(cohort, tmp_path):
    expected = Scan(cohort / "sub-1_T2w.nii.gz", cohort / "sub-1_T1w.nii.gz")
    (tmp_path / "pairs.csv").write_text(f"source,target\n{expected.low_res},{expected.high_res}\n")
    assert find_pairs([*files(cohort, 1), tmp_path / "pairs.csv"], T1_TO_T2) == [expected]


def test_two_scans_of_a_contrast_are_refused(cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "people")
    shutil.copy(cohort / "sub-0_T1w.nii.gz", tmp_path / "people" / "sub-1_T1w.nii")
    with pytest.raises(DataError, match=r"sub-1_T1w\.nii and .*sub-1_T1w\.nii\.gz are the same contrast of one person"):
        find_pairs([tmp_path / "people"], T1_TO_T2)


def test_names_without_partners_are_refused(cohort):
    with pytest.raises(DataError, match=r"1 scans have no partner, for instance .*sub-1_T1w"):
        find_pairs([*files(cohort, 0), files(cohort, 1)[0]], T1_TO_T2)
    with pytest.raises(DataError, match="none of the 6 scans are pairs: expected names that end in PD and T2,"):
        find_pairs([cohort], Contrasts("PD", "T2"))
    with pytest.raises(RecipeError, match="two different words"):
        Contrasts("T1w", "T1w")


def test_other_grids_are_refused(tmp_path):
    data = scans.blobs((9, 8, 10), scans.OBLIQUE) + 1
    moved = scans.OBLIQUE.copy()
    moved[0, 3] += 0.5
    scan = Scan(scans.save(tmp_path / "t2.nii", data, scans.OBLIQUE), scans.save(tmp_path / "t1.nii", data, moved))
    with pytest.raises(DataError, match=r"t1\.nii lies on another grid than .*t2\.nii; register and resample"):
        read_pair(scan, OtherContrast(), nan="refuse", axes="stored")
    with pytest.raises(DataError, match="pairs of two contrasts are needed"):
        read_pair(Scan(scan.high_res), OtherContrast(), nan="refuse", axes="stored")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_T1w.nii.gz", "sub-01_desc-synthetic_T2w.nii.gz"),
        ("sub-01_ses-2_T1w.NII", "sub-01_ses-2_desc-synthetic_T2w.NII"),
        ("sub-01_desc-preproc_T1w.nii", "sub-01_desc-synthetic_T2w.nii"),
        ("head-T1w.nii", "head_desc-synthetic_T2w.nii"),
        ("T1w.nii", "desc-synthetic_T2w.nii"),
        ("head.nii.gz", "head_desc-synthetic_T2w.nii.gz"),
        ("sub-01_FLAIR.nii", "sub-01_FLAIR_desc-synthetic_T2w.nii"),
        ("series_T1w", "series_desc-synthetic_T2w"),
    ],
)
def test_names_of_what_is_synthesised(name, expected):
    assert synthetic_name(Path(name), T1_TO_T2) == expected


def test_of_folders_the_source_contrast_is_taken(cohort, tmp_path):
    shutil.copy(cohort / "sub-0_T2w.nii.gz", tmp_path / "named.nii.gz")
    named = [tmp_path / "named.nii.gz", cohort / "sub-0_T1w.nii.gz"]
    of_folder = [cohort / f"sub-{i}_T1w.nii.gz" for i in range(3)]
    assert find_scans([*named, cohort], T1_TO_T2) == [*named, *of_folder[1:]]
    assert len(find_scans([cohort])) == 6
    words = r"cohort\d*: none of the 6 scans has a name that ends in PD \(as sub-01_PD\.nii\.gz\), the contrast that"
    with pytest.raises(DataError, match=words):
        find_scans([cohort], Contrasts("PD", "T1w"))


def test_folders_of_dicom_are_chosen_by_name_unless_they_are_the_scan(tmp_path):
    for name in ("a_T1w", "a_T2w"):
        (tmp_path / "people" / name).mkdir(parents=True)
        dicom_series.save(tmp_path / "people" / name, dicom_series.slices())
    assert find_scans([tmp_path / "people"], T1_TO_T2) == [tmp_path / "people" / "a_T1w"]
    assert find_scans([tmp_path / "people" / "a_T2w"], T1_TO_T2) == [tmp_path / "people" / "a_T2w"]


def test_linear_fit_by_hand():
    source = np.array([[[0, 1, 2, 9]]], np.float32)
    target = np.array([[[5, 3, 1, 0]]], np.float32)
    mask = np.array([[[True, True, True, False]]])
    np.testing.assert_allclose(baselines.linear_fit(source, target, mask), [[[5, 3, 1, -13]]], atol=1e-5)
    flat = baselines.linear_fit(np.ones_like(source), target, mask)
    np.testing.assert_allclose(flat, np.full(source.shape, 3))


def test_both_sides_are_standardised_by_themselves(cohort):
    chosen = recipe.load("taloma2020_adv", SMALL)
    pairs = PatchPairs(find_pairs([cohort], chosen.contrasts), chosen, seed=0)
    targets = [nib.load(cohort / f"sub-{i}_T2w.nii.gz").get_fdata() for i in range(3)]
    np.testing.assert_allclose(pairs.target_window.centre, np.mean([t.mean() for t in targets]), rtol=1e-5)
    np.testing.assert_allclose(pairs.target_window.width, np.mean([t.std() for t in targets]), rtol=1e-5)
    low, high = pairs.batch(0)
    for source, target in zip(low, high, strict=True):
        inside = source > low.min() + 0.2
        assert inside.sum() > 5
        assert np.corrcoef(source[inside], target[inside])[0, 1] < -0.999


def test_the_discriminator_sees_the_source_beside_the_target():
    chosen = recipe.load("taloma2020_adv", SMALL)
    patch = keras.Input((2, 2, 2, 2))
    difference = keras.layers.Lambda(lambda p: tf.reduce_mean(p[..., 1] - 10 * p[..., 0], axis=(1, 2, 3))[:, None])
    generator = keras.Sequential([keras.Input((2, 2, 2, 1)), keras.layers.Conv3D(1, 1)])
    discriminator = keras.Model(patch, difference(patch))
    step = AdversarialStep(chosen.stages[0], generator, discriminator, None, None)
    ones = tf.ones((1, 2, 2, 2, 1))
    real, fake = step._scores(tf.concat([ones, 99 * ones], -1), 3 * ones, 4 * ones, "logits")
    assert (float(real[0, 0]), float(fake[0, 0])) == (3 - 10, 4 - 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("contrasts=null", "contrasts and degradation.kind 'other_contrast' go together"),
        ("evaluation.baselines=[cubic]", "evaluation.baselines: between contrasts"),
        ("prediction.stride=33", "a stride of 1 voxel up to the patch"),
        ("prediction.kind=whole", "belong to prediction.kind 'patches'"),
        ("patches.degrade=patch", "works by volume only"),
        ("degradation.factor=2", "all 1"),
        ("intensity.target=mine", "intensity.target is 'mine'"),
    ],
)
def test_recipes_that_do_not_fit(change, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load("taloma2020_resgan", [change])


def test_only_contrasts_can_be_conditional():
    with pytest.raises(RecipeError, match=r"discriminator\.conditional needs"):
        recipe.load("li2017_3dsrgan_r3", ["stages.0.discriminator.conditional=true"])


def test_a_discriminator_that_gets_other_channels_is_refused(cohort, tmp_path, capsys):
    command = ["train", "--recipe", "taloma2020_resgan", *SET, "--data", *files(cohort, 0), "--steps", "1"]
    conditional = ["--set", "stages.0.discriminator.conditional=false"]
    assert main([*command, *conditional, "--run", str(tmp_path / "run")]) == 1
    assert "takes patches of (8, 8, 8, 2) voxels and channels, but would get (8, 8, 8, 1)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_stages_of_network_and_recipe_must_agree():
    with pytest.raises(RecipeError, match="the generator has 3 stages, but the recipe trains 2"):
        models.build_generator(recipe.load("taloma2020_resgan_acm", [*SMALL, "network.generator.stages=3"]))


ACM = ["train", "--recipe", "taloma2020_resgan_acm", *SET, "--steps", "4", "--checkpoint-minutes", "0.0001"]


@pytest.fixture(scope="module")
def acm(cohort, tmp_path_factory):
    """A run of the auto-context recipe with validation, four steps in each stage."""
    run = tmp_path_factory.mktemp("acm") / "run"
    data = ["--data", *files(cohort, 0, 1), "--validation", *files(cohort, 2)]
    assert main([*ACM, *data, "--run", str(run)]) == 0
    with scans.loaded_once(run):
        yield run


def test_every_stage_is_trained_and_all_are_in_one_model(acm, cohort, tmp_path):
    loaded = models.load(acm / "saved_model")
    assert main(["predict", files(cohort, 2)[0], "-o", str(tmp_path / "t2.nii.gz"), "--model", str(acm)]) == 0
    source, result = nib.load(files(cohort, 2)[0]), nib.load(tmp_path / "t2.nii.gz")
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
    assert result.shape == source.shape
    fresh = models.build_generator(loaded.recipe)
    trained = models.build_generator(loaded.recipe)
    assert run_folder.restore_generator(acm, trained) == 2
    window = json.loads((acm / "run.json").read_text())["target_window"]
    assert loaded.target_window == pytest.approx(window)
    for conv in ("conv1", "stage2_conv1"):
        assert np.abs(trained.get_layer(conv).bias.numpy()).max() > 0
        assert np.abs(fresh.get_layer(conv).bias.numpy()).max() == 0
    # The definition of the prediction, patch by patch.
    data = source.get_fdata().astype(np.float32)
    scaled = (data - data.mean()) / data.std()
    expected = np.zeros(data.shape)
    count = np.zeros(data.shape)
    starts = [sorted({min(i, n - 8) for i in range(0, n - 8 + 4, 4)}) for n in data.shape]
    for x in starts[0]:
        for y in starts[1]:
            for z in starts[2]:
                at = (slice(x, x + 8), slice(y, y + 8), slice(z, z + 8))
                expected[at] += trained(scaled[at][None, ..., None], training=False).numpy()[0, ..., 0]
                count[at] += 1
    expected = expected / count * window[1] + window[0]
    np.testing.assert_allclose(result.get_fdata(), expected, atol=1e-3 * np.abs(expected).max())


def test_prediction_of_a_folder_takes_the_source_contrast(acm, cohort, tmp_path, capsys):
    command = ["--model", str(acm / "saved_model"), "--stride", "8"]
    assert main(["predict", str(cohort), "-o", str(tmp_path / "out"), *command]) == 0
    expected = [f"sub-{i}_desc-synthetic_T2w.nii.gz" for i in range(3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected
    assert "warning" not in capsys.readouterr().err
    single = files(cohort, 1)[0]
    assert main(["predict", single, "-o", str(tmp_path / "mine.nii.gz"), *command]) == 0
    assert main(["predict", single, "-o", str(tmp_path / "one"), *command]) == 0
    results = [tmp_path / "out" / expected[1], tmp_path / "mine.nii.gz", tmp_path / "one" / expected[1]]
    for result in results[1:]:
        np.testing.assert_array_equal(nib.load(result).get_fdata(), nib.load(results[0]).get_fdata())
    (tmp_path / "targets").mkdir()
    shutil.copy(files(cohort, 1)[1], tmp_path / "targets")
    assert main(["predict", str(tmp_path / "targets"), "-o", str(tmp_path / "none"), *command]) == 1
    assert "targets: none of the 1 scans has a name that ends in T1w" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("without_export")
def test_resuming_within_the_second_stage_gives_the_same_weights(acm, cohort, tmp_path, monkeypatch):
    """Broken off after the first stage: the second must begin from the first one's best epoch all the same."""

    def save_and_break_off(manager, step):
        save(manager, step)
        if step == 5 and Path(manager.directory).name == "state":
            raise RuntimeError("broken off")

    save, run = run_folder.save_checkpoint, tmp_path / "run"
    data = ["--run", str(run), "--data", *files(cohort, 0, 1), "--validation", *files(cohort, 2)]
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_checkpoint", save_and_break_off)
        with pytest.raises(RuntimeError, match="broken off"):
            main([*ACM, *data])
    assert main(["train", "--resume", *data]) == 0
    weights = []
    for folder in (acm, run):
        generator = models.build_generator(recipe.load(folder / "recipe.yaml"))
        run_folder.restore_generator(folder, generator)
        weights.append(generator.get_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_within_its_first_stage_predicts_with_that_alone(cohort, tmp_path):
    chosen = recipe.load("taloma2020_resgan_acm", SMALL)
    generator = models.build_generator(chosen)
    run_folder.create_run(
        tmp_path / "run",
        chosen,
        {"seed": 0, "steps": None, "precision": "float32", "data": "", "validation_data": "", "target_window": [5, 2]},
    )
    manager = run_folder.generator_manager(tmp_path / "run", generator, tf.Variable(1))
    run_folder.save_checkpoint(manager, 1)
    model = models.load(tmp_path / "run")
    first = models.resolver_for(chosen, up_to_stage(generator, 1), [5, 2])
    volume = tf.constant(nib.load(files(cohort, 0)[0]).get_fdata(), tf.float32)
    results = [r(volume, np.eye(4), 2**30, 4)["volume"] for r in (model.resolver, first)]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-3)


def test_evaluation_against_the_identity(acm, cohort, tmp_path):
    command = ["evaluate", "--model", str(acm / "saved_model"), "--data", str(cohort), "--stride", "8"]
    assert main([*command, "-o", str(tmp_path / "results")]) == 0
    summary = json.loads((tmp_path / "results" / "table.json").read_text())["summary"]
    assert list(summary) == ["identity", "network", "network, truth's scale"]
    names = sorted(path.name for path in (tmp_path / "results" / "figures").iterdir())
    planes = [f"_differences_{plane}" for plane in ("axial", "coronal", "sagittal")]
    assert names == sorted(f"sub-{i}_T2w{suffix}.png" for i in range(3) for suffix in ("", *planes))
    for scan in find_pairs([cohort], T1_TO_T2):
        source, target = (nib.load(path).get_fdata() for path in (scan.low_res, scan.high_res))
        slope, offset = np.polyfit(source.ravel(), target.ravel(), 1)
        expected = np.mean((slope * source + offset - target) ** 2) / target.var()
        rows = json.loads((tmp_path / "results" / "table.json").read_text())["cases"]
        row = next(r for r in rows if scan.high_res.name.startswith(r["case"]) and r["method"] == "identity")
        assert row["mse"] == pytest.approx(expected, rel=1e-3)


def test_patches_stand_in_the_table_only_where_they_are_used():
    words = []
    for changes in ([], ["prediction={kind: whole}"]):
        chosen = recipe.load("taloma2020_resgan", changes)
        words.append(" ".join(evaluate._protocol_lines(chosen, "taloma2020", "auto", None)))
    assert "patches of 32 voxels a side, stride 8, averaged" in words[0]
    assert "patches of" not in words[1]


def test_a_stride_is_refused_where_it_means_nothing(acm, cohort, tmp_path, capsys):
    command = ["predict", files(cohort, 2)[0], "-o", str(tmp_path / "x.nii.gz"), "--model", str(acm), "--stride"]
    assert main([*command, "9"]) == 1
    assert "the stride must be 1 to 8 voxels" in capsys.readouterr().err
