import re
import sys
import types
from pathlib import Path

import keras
import pytest
import yaml

from tf_mrsr import networks, recipe
from tf_mrsr.errors import RecipeError
from tf_mrsr.inference import models
from tf_mrsr.networks import sanchez2018
from tf_mrsr.report import fidelity
from tf_mrsr.training.step import make_optimizer

PAPER = [f"sanchez2018_srgan3d_x{f}_{u}" for f in (2, 4) for u in ("resize", "subpixel", "subpixel_nn")]


def test_the_papers_experiments_and_their_program_twins_are_there():
    assert set(PAPER) | {f"{name}_code" for name in PAPER} <= set(recipe.names())


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_loads_builds_and_survives_yaml(name):
    loaded = recipe.load(name)
    assert loaded.name == name
    assert recipe.from_mapping(yaml.safe_load(loaded.to_yaml())) == loaded
    factors = loaded.training_degradation().factors
    generator = models.build_generator(loaded)  # raises if it does not enlarge by the factors
    assert loaded.departures
    if loaded.training_degradation().by_slice:
        assert generator.compute_output_shape((None, 8, 9, 1)) == (None, 8, 9, factors[2])
        return
    assert generator.compute_output_shape((None, 8, 9, 10, 1)) == (
        None,
        8 * factors[0],
        9 * factors[1],
        10 * factors[2],
        1,
    )


def test_the_papers_numbers():
    """Table 1 and section 3, written out."""
    table = {(2, "cubic"): (38.06, 0.9848), (2, "resize"): (39.11, 0.9913), (2, "subpixel"): (39.09, 0.9898)}
    table |= {(2, "subpixel_nn"): (39.28, 0.9849), (4, "cubic"): (31.76, 0.9412), (4, "resize"): (33.33, 0.9688)}
    table |= {(4, "subpixel"): (32.86, 0.9638), (4, "subpixel_nn"): (33.58, 0.9582)}
    for name in PAPER:
        loaded = recipe.load(name)
        factor, upsampling = (loaded.network.generator[key] for key in ("scale_factor", "upsampling"))
        for method, key in (("cubic", "cubic"), ("network", upsampling)):
            assert tuple(loaded.reported[method].values()) == table[factor, key]
        stage = loaded.stages[0]
        assert loaded.patches.shape == (128, 128, 92)
        assert loaded.patches.step == (112, 112, 76)
        assert loaded.batch_size == 2
        assert (stage.generator.optimizer.learning_rate, stage.discriminator.optimizer.learning_rate) == (1e-5, 1e-4)
        assert stage.generator.adversarial.weight == 1e-3 / 2
        assert stage.generator.adversarial.scores == stage.discriminator.adversarial.scores == "probability"


def test_the_programs_numbers():
    for name in PAPER:
        loaded = recipe.load(f"{name}_code")
        stage = loaded.stages[0]
        assert loaded.patches.step == (96, 96, 60)
        assert [term.loss for term in stage.generator.content] == ["sum_squared_error", "gradient_difference_sum"]
        assert stage.generator.adversarial.weight == 0.1
        assert stage.generator.batch_norm_updates == 2
        bounds = stage.discriminator.adversarial
        assert bounds.real_labels == bounds.generated_labels == stage.generator.adversarial.labels == (0.7, 1.2)
        assert stage.generator.optimizer.learning_rate == stage.discriminator.optimizer.learning_rate == 1e-4
        assert loaded.testing_degradation().order == 3
        assert loaded.network.generator.get("output_activation") == ("tanh" if "resize" in name else None)


def test_the_three_upsamplings_differ_in_nothing_else():
    """Files of one factor are the same but for name, up-sampling, reported numbers, and what is said of it alone."""
    for suffix in ("", "_code"):
        for factor in (2, 4):
            contents = []
            for upsampling in ("resize", "subpixel", "subpixel_nn"):
                loaded = recipe.load(f"sanchez2018_srgan3d_x{factor}_{upsampling}{suffix}")
                content = yaml.safe_load(loaded.to_yaml())
                for key in ("name", "reported"):
                    content.pop(key)
                content["network"]["generator"].pop("upsampling")
                content["network"]["generator"].pop("output_activation", None)
                content["departures"] = [d for d in content["departures"] if "deconvolution" not in d["what"]]
                contents.append(content)
            assert contents[0] == contents[1] == contents[2]


def test_narcomey2018():
    """Sections 4 and 5 and the program's losses, written out."""
    for model, channels, epochs in ((1, 1, (1, 5)), (2, 3, (5, 20))):
        paper, program = (recipe.load(f"narcomey2018_srgan_model{model}{suffix}") for suffix in ("", "_code"))
        for loaded in (paper, program):
            first, second = loaded.stages
            assert loaded.training_degradation().factors == (1, 1, channels)
            assert loaded.batch_size == 1
            assert (first.epochs, second.epochs) == epochs
            assert first.generator.optimizer == second.generator.optimizer.__class__(1e-4)
            assert loaded.patches.shuffle is (loaded is paper)
            assert second.generator.adversarial.weight == 1e-3
        assert {t.loss: t.weight for t in paper.stages[1].generator.content} == {"vgg19_features": 1}
        assert {t.loss: t.weight for t in program.stages[1].generator.content} == {
            "mean_squared_error": 1,
            "vgg19_features": 2e-6,
        }
        assert program.intensity.kind == "raw"
        assert paper.reported["network"]["mse"] == {1: 4.73e7, 2: 3.46e5}[model]
    assert not recipe.load("narcomey2018_srresnet_model1").needs_vgg19


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("narcomey2018_srgan_model1", {0: 1e-4, 24: 1e-4, 25: 1e-5, 49: 1e-5}),
        ("narcomey2018_srgan_model2", {0: 1e-4, 99: 1e-4, 100: 1e-5, 199: 1e-5}),
        # The program has a tenth after each int(epochs / 2) epochs: Model 1's fifth epoch a hundredth.
        ("narcomey2018_srgan_model1_code", {0: 1e-4, 19: 1e-4, 20: 1e-5, 39: 1e-5, 40: 1e-6, 49: 1e-6}),
        ("narcomey2018_srgan_model2_code", {0: 1e-4, 99: 1e-4, 100: 1e-5, 199: 1e-5}),
    ],
)
def test_the_learning_rate_of_narcomey2018(name, rates):
    """Step -> rate, with 10 steps in an epoch."""
    stage = recipe.load(name).stages[1]
    for part in (stage.generator, stage.discriminator):
        rate = make_optimizer(part.optimizer, 10 * stage.epochs, 10)._learning_rate
        assert {step: float(rate(step)) for step in rates} == pytest.approx(rates)


def test_set_changes_one_value():
    changed = recipe.load(PAPER[0], ["patches.shape=[64, 64, 32]", "stages.0.generator.optimizer.learning_rate=1e-3"])
    assert changed.patches.shape == (64, 64, 32)
    assert changed.changes == ("patches.shape=[64, 64, 32]", "stages.0.generator.optimizer.learning_rate=1e-3")
    assert recipe.from_mapping(yaml.safe_load(changed.to_yaml())) == changed
    assert changed.stages[0].generator.optimizer.learning_rate == 0.001
    assert changed.stages[0].discriminator == recipe.load(PAPER[0]).stages[0].discriminator


def test_set_can_begin_a_section_that_the_file_leaves_out():
    changes = [
        "patches.degrade=patch",
        "augmentation.flips=true",
        "prediction.kind=whole",
        "evaluation.baselines=[cubic]",
    ]
    changed = recipe.load("sanchez2018_srgan3d_x2_quick", [*changes, "network.discriminator.filters=[4, 8]"])
    assert changed.augmentation == recipe.Augmentation(flips=True)
    assert changed.network.discriminator == {"filters": [4, 8]}


def test_departures_keep_to_what_overrides_leave():
    name = "sanchez2018_srgan3d_x2_resize"
    adversarial = "stages.0.discriminator.adversarial.real_labels"
    assert any(adversarial in departure.values for departure in recipe.load(name).departures)
    changed = recipe.load(name, ["stages.0.discriminator=null", "stages.0.generator.adversarial=null"])
    assert not any(adversarial in departure.values for departure in changed.departures)
    assert [d.what for d in changed.departures] == [d.what for d in recipe.load(name).departures]
    assert recipe.from_mapping(yaml.safe_load(changed.to_yaml())) == changed


def test_departures_of_a_file_are_checked_as_it_is_written(tmp_path):
    content = yaml.safe_load(recipe.load("sanchez2018_srgan3d_x2_resize").to_yaml())
    content["departures"][0]["values"] = ["stages.0.discriminator.adversarial.labels"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError, match=r"the recipe has no 'stages\.0\.discriminator\.adversarial\.labels'"):
        recipe.load(tmp_path / "mine.yaml", ["stages.0.discriminator=null", "stages.0.generator.adversarial=null"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("patchs.shape=[1,2,3]", "no 'patchs.shape'"),
        ("patches.shap=[64,64,64]", "unknown key patches.shap; did you mean 'shape'"),
        ("patches.shape=[64,64]", "patches.shape must have 3 items"),
        ("patches.shape=[63,64,64]", "divisible"),
        ("patches.kind=random", "per_volume is needed"),
        ("batch_size=two", "batch_size must be of type int"),
        ("batch_size=0", "batch_size must be 1"),
        ("batch_size=true", "batch_size must be of type int"),
        ("degradation.factor=4", "scale_factor is 2"),
        ("degradation.kind=blur", "degradation.kind is 'blur'"),
        ("degradation.sigm=2", "did you mean 'sigma'"),
        ("intensity.kind=zscore", "intensity.kind"),
        ("intensity.per=patch", "needs patches.degrade 'patch'"),
        ("stages.0.epochs=0", "epochs must be 1"),
        ("stages.3.epochs=1", "no 'stages.3.epochs'"),
        ("stages.0.discriminator=null", "go together"),
        ("stages.0.generator.optimizer.learning_rate=-1", "over 0"),
        ("stages.0.generator.optimizer.learning_rate=.nan", "over 0"),
        (f"stages.0.generator.optimizer.learning_rate=1{'0' * 400}", "must be a number"),
        ("stages.0.generator.content=[]", "one loss"),
        ("evaluation.protocol=mine", "evaluation.protocol"),
        ("stages.0.generator.optimizer.beta_1=1.5", "under 1"),
        ("stages.0.generator.optimizer.epsilon=.inf", "finite"),
        ("stages.0.generator.optimizer.clip_norm=0", "clip_norm must be over 0"),
        ("stages.0.generator.content.0.weight=-1", "content weight must be 0 or more"),
        ("stages.0.discriminator.adversarial.real_labels=[.nan, 1]", "two finite numbers"),
        ("degradation.sigma=abc", "degradation.sigma must be a number"),
        ("degradation.sigma=0", "sigma must be over 0"),
        ("degradation.sigma=1e9", "up to 100 voxels"),
        ("stages.0.generator.adversarial.loss=binary_cross_entropy", "set adversarial.scores to logits"),
        ("axes=slices_first", "axes is 'slices_first'"),
        ("evaluation.baselines=[sinc]", "evaluation.baselines"),
        ("evaluation.baselines=[]", "one method or more"),
        ("evaluation.degradation={kind: gaussian_zoom, factor: 2, order: 9}", "order must be"),
        ("evaluation.degradation={kind: block_average, factor: 2}", "must leave voxels where the training's does"),
        ("degradation={kind: gaussian_zoom, factor: 2, sigma: 1.0}", "'gaussian_zoom' needs patches.degrade 'patch'"),
        ("network.discriminator.patch_shape=[32,32,32]", "leave it out and set patches.shape"),
        (
            "stages.0.generator.content=[{loss: mean_squared_error, weight: 1}, {loss: mean_squared_error, weight: 2}]",
            "generator.content has mean_squared_error twice",
        ),
        ("augmentation.flip=true", "unknown key augmentation.flip; did you mean 'flips'"),
        ("augmentation.flips=true", "augmentation needs patches.degrade 'patch'"),
        ("departures.0.values=[patches.stap]", "the recipe has no 'patches.stap'"),
        ("patches.per_volume=99999999999", "belongs to patches.kind 'random'"),
        ("patches.shape=[4, 4, 2]", "4 voxels or more along each axis and two low-resolution ones"),
        (
            "stages.0.generator.optimizer={learning_rate: 1.0e-6, final_learning_rate: 1.0e-5}",
            "final_learning_rate (1e-05) must not be over learning_rate (1e-06)",
        ),
        ("evaluation.degradation.sigma=2", "evaluation.degradation.kind is None"),
        ("evaluation.degradation={kind: gaussian_decimation, sigmas: 2}", "evaluation.degradation.factor is missing"),
        ("batch_size={a: 1, a: 2}", "not valid YAML"),
        ("nonsense", "expected key=value"),
        ("batch_size=[", "not valid YAML"),
        ("patches=!!map [1]", "not valid YAML"),
        ("reported.\udcff=1", "not in UTF-8"),
        ("network.generator=&a {x: *a}", "not valid YAML"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(override, words):
    with pytest.raises(RecipeError) as caught:
        recipe.load("sanchez2018_srgan3d_x2_resize", [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_low_resolution_patch_has_two_voxels_or_more():
    """Interpolation behind a residual network needs a neighbour."""
    with pytest.raises(RecipeError, match=r"got \(4, 4, 4\) for factors \(4, 4, 4\)"):
        recipe.load("sanchez2018_srgan3d_x4_pretrained", ["patches.shape=[4,4,4]"])
    assert recipe.load("sanchez2018_srgan3d_x4_pretrained", ["patches.shape=[8,8,8]"]).patches.shape == (8, 8, 8)


def test_yaml_that_merges_mappings(tmp_path):
    """How stages that are alike are written once."""
    content = recipe.load("sanchez2018_srgan3d_x2_pretrained").to_yaml()
    (tmp_path / "mine.yaml").write_text(content + "x-shared: &shared {}\n")
    with pytest.raises(RecipeError, match="unknown key x-shared"):
        recipe.load(tmp_path / "mine.yaml")
    merged = content.replace("augmentation:\n", "augmentation:\n  <<: {flips: false, noise: [0, 0.01]}\n")
    (tmp_path / "mine.yaml").write_text(merged)
    loaded = recipe.load(tmp_path / "mine.yaml")
    assert loaded.augmentation.flips  # the mapping's own


def own_network(monkeypatch, **functions):
    module = types.ModuleType("tf_mrsr.networks.own")
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(networks, "NAMES", (*networks.NAMES, "own"))


def test_a_network_of_the_users_own(monkeypatch):
    """Without a discriminator, annotations, or with those that a recipe's values are not compared with."""

    def generator(scale_factor=2, filters: list[int] = (4,), size: int = 3):
        low_res = x = keras.Input((None, None, None, 1))
        for count in filters:
            x = keras.layers.Conv3D(count, size, padding="same")(x)
        return keras.Model(low_res, keras.layers.UpSampling3D(scale_factor)(x))

    own_network(monkeypatch, generator=generator)
    networks.check("own", "generator", {"scale_factor": 2, "filters": [8, 1]})
    assert networks.build("own", "generator", {"filters": [8, 1]}).count_params() == 27 * 8 + 8 + 27 * 8 + 1
    with pytest.raises(RecipeError, match=r"network\.generator\.size must be a whole number, got 'x'"):
        networks.check("own", "generator", {"size": "x"})
    with pytest.raises(RecipeError, match=r"own has no discriminator: its module .* needs a function of that name"):
        networks.check("own", "discriminator", {})


def test_a_network_is_the_same_whether_its_defaults_are_stated():
    """A recipe states lists where a builder's defaults are tuples, and may leave the factor to the degradation."""
    plain = recipe.load("taloma2020_adv")
    filters = list(networks.parameters("taloma2020", "generator")["filters"].default)
    stated = recipe.load("taloma2020_adv", [f"network.generator.filters={filters}"])
    assert models._network_words(stated) == models._network_words(plain)
    left = recipe.load("li2017_3dsrcnn_r3", ["degradation.factor=4"])
    stated = recipe.load("li2017_3dsrcnn_r3", ["degradation.factor=4", "network.generator.scale_factor=4"])
    assert models._network_words(stated) == models._network_words(left)
    assert models._network_words(left) != models._network_words(recipe.load("li2017_3dsrcnn_r3"))


def test_unknown_names(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'sanchez2018_srgan3d_x2_subpixel_nn'"):
        recipe.load("sanchez2018_srgan3d_x2_subpixelnn")
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1, 2\nb: {")
    with pytest.raises(RecipeError, match="not valid YAML"):
        recipe.load(tmp_path / "bad.yaml")
    (tmp_path / "twice.yaml").write_text("name: a\nname: b\n")
    with pytest.raises(RecipeError, match=r"not valid YAML.*stands twice"):
        recipe.load(tmp_path / "twice.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(RecipeError, match="must be a mapping"):
        recipe.load(tmp_path / "list.yaml")
    with pytest.raises(RecipeError, match="unknown network"):
        networks.build("sanchez2019", "generator", {})
    with pytest.raises(RecipeError, match=r"network\.generator: sanchez2018 has no 'scale'"):
        networks.build("sanchez2018", "generator", {"scale": 3})
    with pytest.raises(RecipeError, match=r"network\.discriminator\.filters must be a list of whole numbers"):
        networks.build("sanchez2018", "discriminator", {"patch_shape": (16, 16, 16), "filters": "abc"})
    for wrong in ("abc", True, 2.0):
        with pytest.raises(RecipeError, match=r"network\.generator\.filters must be a whole number"):
            networks.build("sanchez2018", "generator", {"filters": wrong})


@pytest.mark.parametrize(
    ("network", "arguments", "words"),
    [
        ("sanchez2018", {"residual": "none"}, "residual must be true or false, got 'none'"),
        ("sanchez2018", {"batch_norm": 1}, "batch_norm must be true or false, got 1"),
        ("sanchez2018", {"upsampling": None}, "upsampling must be a text, got None"),
        ("sanchez2018", {"output_activation": 3}, "output_activation must be a text or null, got 3"),
        ("li2017", {"filters": True}, "filters must be a whole number or a list of whole numbers, got True"),
        ("li2017", {"filters": 2.5}, "filters must be a whole number or a list of whole numbers, got 2.5"),
        ("li2017", {"filters": [64, True]}, "filters must be a whole number or a list of whole numbers, got"),
    ],
)
def test_arguments_of_networks_have_types(network, arguments, words):
    with pytest.raises(RecipeError, match=re.escape(f"network.generator.{words}")):
        networks.check(network, "generator", arguments)


def test_every_argument_of_every_network_can_be_checked():
    for network in networks.NAMES:
        for part in ("generator", "discriminator"):
            for name in networks.parameters(network, part):
                with pytest.raises(RecipeError, match=rf"network\.{part}\.{name} must be .*, got \{{\}}"):
                    networks.check(network, part, {name: {}})


def test_what_keras_refuses_is_told_in_one_plain_line():
    with pytest.raises(RecipeError) as caught:
        networks.build("taloma2020", "discriminator", {"patch_shape": [4, 4, 4]})
    assert str(caught.value).startswith("network.discriminator: ")
    assert not {"\n", "\x1b"} & set(str(caught.value))
    assert "MaxPooling3D.call()" not in str(caught.value)


def test_li2017():
    """Section 3 and equation 7, written out."""
    loaded = recipe.load("li2017_3dsrgan_r3")
    stage = loaded.stages[0]
    assert loaded.training_degradation().factors == (1, 1, 3)
    assert stage.epochs == 25
    for part, rate in ((stage.generator, 1e-2), (stage.discriminator, 1e-3)):
        spec = part.optimizer
        assert (spec.learning_rate, spec.beta_1, spec.beta_2, spec.epsilon) == (rate, 0.9, 0.999, 1e-8)
        assert spec.decay_per_epoch == 0.99
    weights = {term.loss: term.weight for term in stage.generator.content}
    assert weights == {"mean_squared_error": 1, "total_variation_z": 1e-8}
    assert stage.generator.adversarial.weight == 0.1
    assert stage.generator.weight_regularization == 1e-5
    assert stage.generator.adversarial.labels == stage.discriminator.adversarial.real_labels == (0, 0)
    assert stage.discriminator.adversarial.generated_labels == (1, 1)
    assert stage.discriminator.adversarial.weight == 0.5


@pytest.mark.parametrize("factor", [2, 4, 5])
def test_li2017_takes_any_factor(factor):
    changed = recipe.load("li2017_3dsrcnn_r3", [f"degradation.factor={factor}"])
    assert models.build_generator(changed).compute_output_shape((1, 9, 9, 9, 1)) == (1, 9, 9, 9 * factor, 1)


def test_a_network_that_enlarges_otherwise_is_refused():
    wrong = recipe.load(
        "sanchez2018_srgan3d_x2_resize", ["network.generator={upsampling: resize}", "degradation.factor=[2,2,4]"]
    )
    with pytest.raises(RecipeError, match="enlarges by"):
        models.build_generator(wrong)


def test_a_network_of_unknown_reach_is_refused(monkeypatch):
    """One of the user's own, in place of sanchez2018."""

    def generator(scale_factor: int = 2, share: float = 0.5) -> keras.Model:
        low_res = keras.Input((None, None, None, 1))
        pooled = keras.layers.AveragePooling3D(3, 1, "same")(low_res)
        return keras.Model(low_res, keras.layers.UpSampling3D(scale_factor)(share * pooled))

    monkeypatch.setattr(sanchez2018, "generator", generator)
    chosen = recipe.load("sanchez2018_srgan3d_x2_resize", ["network.generator={share: 1}"])
    with pytest.raises(RecipeError, match=r"sanchez2018: layer .*: the reach of a .* is not known"):
        models.build_generator(chosen)
    with pytest.raises(RecipeError, match=r"network\.generator\.share must be a number, got 'half'"):
        networks.check("sanchez2018", "generator", {"share": "half"})


def test_the_page_of_departures_is_up_to_date():
    page = Path(__file__).parents[1] / "docs" / "fidelity.md"
    assert page.read_text(encoding="utf-8") == fidelity.page(), (
        "run python -m tf_mrsr.report.fidelity > docs/fidelity.md"
    )


def test_a_loss_between_slices_needs_several():
    change = "stages.0.generator.content=[{loss: total_variation_z, weight: 1}]"
    recipe.load("narcomey2018_srgan_model2", [change])
    with pytest.raises(RecipeError, match="'total_variation_z' compares neighbouring slices"):
        recipe.load("narcomey2018_srgan_model1", [change])
