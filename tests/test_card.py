import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests import dicom_series as made
from tests import scans
from tf_mrsr import card as cards
from tf_mrsr import card_page, model_folder, recipe
from tf_mrsr import models as models_command
from tf_mrsr.card import Card, Facts, Measured, SpacingRange, mismatches
from tf_mrsr.errors import DataError, ModelError, OutputError, graph_reason
from tf_mrsr.volume import Volume, read_volume

ISOTROPIC = Card(
    name="x2",
    recipe="a_recipe",
    paper="A paper",
    changes=(),
    factors=(2, 2, 2),
    axes="stored",
    facts=Facts("two heads", "CC0", ("T1w",)),
    spacing_mm=SpacingRange((0.9, 0.9, 1.0), (1.1, 1.1, 1.0)),
)
THIN = replace(
    ISOTROPIC, factors=(1, 1, 3), axes="slices_last", facts=Facts(), spacing_mm=SpacingRange((1, 1, 1), (1, 1, 1))
)
SUMMARY = {
    "cubic": {"psnr": {"mean": 30.104, "std": 1.0}, "ssim": {"mean": 0.89, "std": 0.01}},
    "linear": {"psnr": {"mean": 29.0, "std": 1.0}, "ssim": {"mean": 0.95, "std": 0.01}},
    "network": {"psnr": {"mean": 31.2, "std": 1.0}, "ssim": {"mean": 0.91, "std": 0.01}},
}


def scan(*spacing):
    return Volume(scans.blobs((9, 9, 9), np.eye(4)) + 1, np.diag([*spacing, 1]))


@pytest.fixture
def folder(tmp_path):
    """Something with files and a card that lists them."""
    folder = tmp_path / "x2"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    (folder / "card.json").write_text(ISOTROPIC.with_files(folder).to_json())
    return folder


def test_a_card_comes_back_as_it_was_written(folder):
    card = replace(ISOTROPIC, measured=Measured(("mask: auto",), 2, SUMMARY), contrasts=("T1w", "T2w"))
    (folder / "card.json").write_text(card.with_files(folder).to_json())
    assert cards.read(folder) == card.with_files(folder)


def test_hashes_are_sha256(folder):
    """Of b"index", by sha256sum."""
    expected = "1bc04b5291c26a46d918139138b992d2de976d6851d0893b0476b85bfbdfc6e6"
    assert cards.read(folder).files["variables/variables.index"] == expected


def _unfetched(folder):
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pb").symlink_to(folder / "annex")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: (f / "saved_model.pb").write_bytes(b"grapj"), "saved_model.pb is damaged or was changed"),
        (lambda f: (f / "variables" / "variables.index").unlink(), "variables.index is missing"),
        (_unfetched, "saved_model.pb is a link to a file that is not there"),
        (lambda f: (f / "saved_model.pbtxt").write_text("x"), "saved_model.pbtxt is not listed in card.json"),
        (lambda f: (f / "card.json").unlink(), "card.json cannot be read"),
        (lambda f: (f / "card.json").write_text("{"), "card.json is damaged"),
        (lambda f: (f / "card.json").write_text('{"name": "x"}'), "recipe is missing"),
        (lambda f: (f / "card.json").write_text("[1]"), "must be a mapping"),
    ],
)
def test_tampering_is_found(folder, change, words):
    cards.read(folder)
    change(folder)
    with pytest.raises(ModelError, match=words):
        cards.read(folder)


def test_hidden_files_do_not_count(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / ".git" / "objects").mkdir(parents=True)
    (folder / ".git" / "objects" / "a").symlink_to(folder / "nowhere")
    cards.read(folder)


@pytest.mark.parametrize("spacing", [(2, 2, 2), (1.8, 2.2, 2), (1.7, 2.4, 2.1)])
def test_a_scan_like_the_training(spacing):
    assert mismatches(ISOTROPIC, scan(*spacing), Path("sub-1_T1w.nii.gz")) == []


def test_a_scan_of_other_voxels():
    (words,) = mismatches(ISOTROPIC, scan(2, 2, 5), Path("a.nii"))
    assert words == (
        "the result would have voxels of 1.00 x 1.00 x 2.50 mm; the model was trained on scans of 0.90-1.10 x "
        "0.90-1.10 x 1.00 mm, so expects voxels 2x2x2 times that"
    )


def test_what_is_not_stated_is_not_compared():
    card = replace(ISOTROPIC, facts=Facts(), spacing_mm=None)
    assert mismatches(card, scan(1, 7, 9), Path("sub-1_T2w.nii.gz")) == []


@pytest.mark.parametrize(
    ("name", "count"),
    [("s_T2w.nii.gz", 1), ("s_t1w.nii", 0), ("s_T1.nii", 0), ("T2.nii", 1), ("my-T2w.nii", 1), ("so.nii", 0)],
)
def test_contrasts_by_the_files_name(name, count):
    found = mismatches(ISOTROPIC, scan(2, 2, 2), Path(name))
    assert len(found) == count
    assert all("; the model was trained on T1w" in words for words in found)


def test_between_contrasts_the_source_counts():
    card = replace(ISOTROPIC, contrasts=("T2w", "T1w"), facts=Facts(contrasts=("T2w", "T1w")))
    assert mismatches(card, scan(2, 2, 2), Path("s_T2w.nii")) == []
    assert len(mismatches(card, scan(2, 2, 2), Path("s_T1w.nii"))) == 1


def test_the_thick_axis_may_lie_anywhere_but_must_be_there():
    assert mismatches(THIN, scan(3, 1, 1), Path("a.nii")) == []
    assert mismatches(THIN, scan(1, 1, 3), Path("a.nii")) == []
    words = mismatches(THIN, scan(1, 1, 1), Path("a.nii"))
    assert len(words) == 2
    assert "no thick axis; the model makes 3 thin slices" in words[0]
    assert "voxels of 1.00 x 1.00 x 0.33 mm" in words[1]


MODEL_1 = replace(THIN, factors=(1, 1, 1), by_slice=True, spacing_mm=SpacingRange((0.8, 1.2, 3), (0.8, 1.2, 3)))
MODEL_2 = replace(MODEL_1, factors=(1, 1, 3), spacing_mm=SpacingRange((0.8, 1.2, 1), (0.8, 1.2, 1)))


@pytest.mark.parametrize("card", [MODEL_1, MODEL_2])
def test_slices_keep_their_in_plane_axes(card):
    """For networks of volumes the axis closest to right-left comes first, for those of slices the one stored first."""
    turned = scan(1, 1, 1)
    turned = replace(turned, affine=np.array([[0, 1.2, 0, 0], [0.8, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]))
    assert mismatches(card, turned, Path("a.nii")) == []
    assert len(mismatches(replace(card, by_slice=False), turned, Path("a.nii"))) == 1


def test_warnings_of_networks_of_slices():
    thick, spacing = mismatches(MODEL_1, scan(0.8, 1.2, 1.2), Path("a.nii"))
    assert thick == (
        "the scan's voxels of 0.80 x 1.20 x 1.20 mm have no thick axis; the model makes a thin slice in the place of "
        "each thick one"
    )
    assert spacing == (
        "the scan has voxels of 0.80 x 1.20 x 1.20 mm; the model was trained on scans of 0.80 x 1.20 x 3.00 mm"
    )
    thick, spacing = mismatches(MODEL_2, scan(0.8, 1.2, 1.2), Path("a.nii"))
    assert thick.endswith("; the model makes 3 thin slices out of each thick one")
    assert spacing.startswith("the result would have voxels of 0.80 x 1.20 x 0.40 mm; ")
    assert spacing.endswith(" so expects voxels 1x1x3 times that")
    assert "| makes | a thin slice in the place of each thick one |" in card_page.to_markdown(MODEL_1)


@pytest.mark.parametrize("name", ["series_T2w", "IM_T2w", "anonymous-PD", "T2w.dcm"])
def test_names_of_dicom_say_nothing_of_contrast(name, tmp_path):
    path = tmp_path / name
    path.mkdir()
    assert mismatches(ISOTROPIC, scan(2, 2, 2), path) == []
    assert mismatches(ISOTROPIC, scan(2, 2, 2), Path("gone") / name) == []
    assert len(mismatches(ISOTROPIC, scan(2, 2, 2), tmp_path / "s_T2w.nii")) == 1


def test_a_standardised_scan_is_not_what_models_of_magnitudes_were_trained_on():
    card, path = replace(ISOTROPIC, intensity="half_max"), Path("s_T1w.nii")
    plain = scan(2, 2, 2)
    for lowest, count in ((0, 0), (-9, 0), (-11, 1)):
        data = np.linspace(lowest, 100, plain.data.size, dtype=np.float32).reshape(plain.shape)
        found = mismatches(card, replace(plain, data=data), path)
        assert len(found) == count
        assert mismatches(replace(card, intensity="standard"), replace(plain, data=data), path) == []
    assert found[0].startswith("the scan's intensities lie between -11 and 100; the model was trained on magnitude")


def test_ct_is_not_what_models_of_mr_were_trained_on(tmp_path):
    series = {ct: read_volume(made.save(tmp_path / str(ct), made.slices(ct=ct))) for ct in (False, True)}
    card = replace(ISOTROPIC, spacing_mm=None)
    assert mismatches(card, series[False], tmp_path) == []
    (words,) = mismatches(card, series[True], tmp_path)
    assert words.startswith("the scan is CT; the model was trained on ")
    of_ct = replace(card, facts=replace(card.facts, contrasts=("CT",)))
    assert mismatches(of_ct, series[True], tmp_path) == []


@pytest.mark.parametrize("model", [1, 2])
def test_cards_of_recipes_of_slices(model):
    card = cards.of_recipe(recipe.load(f"narcomey2018_srgan_model{model}"))
    assert (card.by_slice, card.axes, card.factors) == (True, "slices_last", (1, 1, 2 * model - 1))
    assert not cards.of_recipe(recipe.load("li2017_3dsrcnn_r3")).by_slice


def test_facts_of_a_file(tmp_path):
    (tmp_path / "facts.yaml").write_text("data: 12 heads\ncontrasts: [T1w, FLAIR]\n")
    assert cards.read_facts(tmp_path / "facts.yaml") == Facts("12 heads", cards.NOT_STATED, ("T1w", "FLAIR"))


@pytest.mark.parametrize(
    "text",
    [
        "date: today",
        "data: 7",
        "- data",
        "data: [",
        "contrasts: T1w",
        "data: a\ndata: b",
        "[" * 3000,
        r'notes: "\uD800"',
    ],
)
def test_what_are_no_facts(tmp_path, text):
    (tmp_path / "facts.yaml").write_text(text)
    with pytest.raises(DataError, match="not a list of facts"):
        cards.read_facts(tmp_path / "facts.yaml")


def _results(folder, recipe_line, degradation="GaussianDecimation(factors=(2, 2, 2), sigma=1.0)"):
    rows = [("a", "cubic", 30), ("b", "cubic", 28), ("a", "network", 31), ("b", "network", None)]
    cases = [{"case": c, "method": m, "psnr": psnr, "ssim": 0.5, "mse": 7} for c, m, psnr in rows]
    protocol = [recipe_line, "mask: auto", f"degradation: {degradation}"]
    table = {"protocol": protocol, "summary": SUMMARY, "cases": cases}
    folder.mkdir(exist_ok=True)
    (folder / "table.json").write_text(json.dumps(table))
    return folder


def test_numbers_of_an_evaluation(tmp_path):
    chosen = recipe.load("sanchez2018_srgan3d_x2_quick")
    results = _results(tmp_path, f"recipe: {chosen.name}, changed: batch_size=1")
    measured = cards.read_evaluation([results], chosen)
    assert measured.scans == 2
    assert measured.protocol[1] == "mask: auto"
    assert measured.summary["cubic"] == {"psnr": {"mean": 29, "std": 1}, "ssim": {"mean": 0.5, "std": 0}}
    assert measured.summary["network"]["psnr"] == {"mean": None, "std": None}
    assert measured.gains == {"cubic": (1, 1, 1)}


def test_a_perfect_method_is_the_best():
    assert card_page.best_other(Measured((), 1, {**SUMMARY, "nearest": {"psnr": {"mean": None}}})) == "nearest"
    assert card_page.best_other(Measured((), 1, {"network": SUMMARY["network"]})) is None


def test_folds_are_joined(tmp_path):
    """The same name in two folds is two scans."""
    chosen = recipe.load("sanchez2018_srgan3d_x2_quick")
    folds = [_results(tmp_path / name, f"recipe: {chosen.name}") for name in ("a", "b")]
    table = json.loads((folds[1] / "table.json").read_text())
    for row, psnr in zip(table["cases"], (30, 34, 34, 40), strict=True):
        row["psnr"] = psnr
    (folds[1] / "table.json").write_text(json.dumps(table))
    measured = cards.read_evaluation(folds, chosen)
    assert (measured.scans, measured.summary["cubic"]["psnr"]["mean"]) == (4, 30.5)
    assert measured.gains["cubic"] == (11 / 3, 1, 6)
    assert "- folds: 2. The network's numbers are not of these very weights" in card_page.to_markdown(
        replace(ISOTROPIC, measured=measured)
    )
    with pytest.raises(DataError, match="given twice"):
        cards.read_evaluation([folds[0], tmp_path / "b" / ".." / "a"], chosen)
    for row in table["cases"]:
        row["method"] = row["method"].replace("cubic", "linear")
    (folds[1] / "table.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="measured differently"):
        cards.read_evaluation(folds, chosen)
    table["protocol"][1] = "mask: whole volume"
    (folds[1] / "table.json").write_text(json.dumps(table))
    with pytest.raises(DataError, match="measured differently"):
        cards.read_evaluation(folds, chosen)


def test_a_recipe_may_have_a_comma_in_its_name(tmp_path):
    chosen = replace(recipe.load("sanchez2018_srgan3d_x2_quick"), name="mine, second try")
    _results(tmp_path, "recipe: mine, second try, changed: batch_size=2")
    assert cards.read_evaluation([tmp_path], chosen).folds == 1


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda f: _results(f, "recipe: li2017_3dsrcnn_r3"), "an evaluation of li2017_3dsrcnn_r3"),
        (lambda f: _results(f, "mask: auto"), "no known recipe"),
        (
            lambda f: _results(
                f, "recipe: sanchez2018_srgan3d_x2_quick", "GaussianDecimation(factors=(4, 4, 4), sigma=1)"
            ),
            r"degradation: .*4, 4, 4.*, but the model's is degradation: .*2, 2, 2",
        ),
        (lambda f: (f / "table.json").write_text("[]"), "not a table"),
        (lambda f: (f / "table.json").write_text('{"cases": [], "summary": 1}'), "not a table"),
        (lambda f: None, "not a results folder"),
    ],
)
def test_what_is_no_evaluation_of_the_model(tmp_path, prepare, words):
    prepare(tmp_path)
    with pytest.raises(DataError, match=words):
        cards.read_evaluation([tmp_path], recipe.load("sanchez2018_srgan3d_x2_quick"))


def test_the_page_says_what_is_known_and_what_is_not():
    measured = Measured(("mask: auto",), 2, SUMMARY, {"cubic": (1.1, 0.9, 1.3), "linear": (2, 2, 2)})
    page = card_page.to_markdown(replace(ISOTROPIC, measured=measured))
    assert "Network minus cubic, scan by scan: +1.10 dB on average, +0.90 to +1.30 dB." in page
    assert "| licence | CC0 |" in page
    assert "| network | 31.20 (1.00) | 0.9100 (0.0100) |" in page
    assert "| voxels of the training scans | 0.90 x 0.90 x 1.00 mm to 1.10 x 1.10 x 1.00 mm |" in page
    assert "| training | not stated |" in page
    assert "Not measured." in card_page.to_markdown(THIN)


@pytest.fixture
def weights(tmp_path, monkeypatch, folder):
    """A package that comes with one model."""
    shutil.copytree(folder, tmp_path / "weights" / "sanchez_x2")
    (tmp_path / "weights" / "README.md").write_text("about")
    monkeypatch.setattr(model_folder, "weights_directory", lambda: tmp_path / "weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights"


def test_shipped_models_are_listed(weights, capsys):
    card = replace(ISOTROPIC, measured=Measured((), 1, SUMMARY))
    (weights / "sanchez_x2" / "card.json").write_text(card.with_files(weights / "sanchez_x2").to_json())
    assert models_command.main([]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    for words in ("sanchez_x2", "2 x 2 x 2 voxels", "T1w", "0.90 x", "31.20 dB, 0.9100 (cubic 30.10 dB, 0.8900)"):
        assert words in line


def test_no_shipped_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model_folder, "weights_directory", lambda: tmp_path)
    assert models_command.main([]) == 0
    assert "No trained model comes with this version" in capsys.readouterr().out
    with pytest.raises(ModelError, match="no model comes with the package"):
        model_folder.resolve(Path("sanchez_x2"))


def test_a_name_resolves_and_a_path_wins(weights, tmp_path):
    assert model_folder.resolve(Path("sanchez_x2")) == weights / "sanchez_x2"
    (tmp_path / "sanchez_x2").mkdir()
    assert model_folder.resolve(Path("sanchez_x2")) == Path("sanchez_x2")
    with pytest.raises(ModelError, match=r"neither a run .* hides the shipped model of its name, rename it"):
        model_folder.read_recipe(Path("sanchez_x2"))


@pytest.mark.parametrize("name", ["r [1]", "r*/x2", "what?", "back\\slash"])
def test_paths_that_are_patterns_to_tensorflow(tmp_path, name):
    folder = tmp_path / name
    with pytest.raises(OutputError, match="which TensorFlow takes for a pattern; rename the folder"):
        model_folder.check_new_run(folder)
    folder.parent.mkdir(exist_ok=True)
    scans.untrained_run(folder)
    for read in (model_folder.read_recipe, model_folder.read_run, model_folder.read_card):
        with pytest.raises(ModelError, match="which TensorFlow takes for a pattern; rename the folder"):
            read(folder)


def test_paths_that_are_not_in_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"M\xfcller")
    for check in (model_folder.check_new_run, model_folder.check_new_folder):
        with pytest.raises(OutputError, match="the path is not in UTF-8"):
            check(folder)
    try:
        scans.untrained_run(folder)
    except OSError:
        pytest.skip("this file system takes no such names")
    with pytest.raises(ModelError, match="the path is not in UTF-8"):
        model_folder.read_recipe(folder)


def test_an_unknown_name_gets_the_nearest(weights):
    with pytest.raises(ModelError, match="did you mean 'sanchez_x2'"):
        model_folder.resolve(Path("sanches_x2"))
    with pytest.raises(ModelError, match="one of the shipped models sanchez_x2"):
        model_folder.resolve(Path("zzz"))
    with pytest.raises(ModelError, match="is a file"):
        model_folder.resolve(weights / "README.md")


def test_the_newest_version_of_a_folder(folder, tmp_path):
    for number in ("2", "10"):
        shutil.copytree(folder, tmp_path / "versions" / number)
    assert model_folder.resolve(tmp_path / "versions") == tmp_path / "versions" / "10"
    assert model_folder.resolve(tmp_path / "versions" / "2") == tmp_path / "versions" / "2"
    (tmp_path / "versions" / "10").rename(tmp_path / "versions" / "007")
    shutil.copytree(folder, tmp_path / "versions" / "²")
    assert model_folder.resolve(tmp_path / "versions") == tmp_path / "versions" / "007"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (
            "Graph execution error:\n\nDetected at node Assert/Assert defined at:\n<stack traces unavailable>\n"
            "assertion failed: [too small] [7 9 8]\n\t [[{{node Assert/Assert}}]] [Op:__inference_1]",
            "[too small] [7 9 8]",
        ),
        (
            "Graph execution error:\n\nShape of tensor a [3,4] is wrong.\n\t [[{{node E}}]]",
            "Shape of tensor a [3,4] is wrong.",
        ),
        ("plain", "plain"),
        ("", "no reason given"),
        ("x" * 1000, "x" * 300),
    ],
)
def test_the_reason_in_a_graphs_message(message, reason):
    assert graph_reason(message) == reason
