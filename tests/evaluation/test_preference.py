"""evaluation.preference: against the formulas of the authors' code, with random weights in the published layouts."""

import itertools
import json
import shutil
import warnings

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import transforms
from torchvision.transforms import functional
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from evaluation import ClipScorer, EvaluationError
from evaluation.metrics import Models
from evaluation.preference import AestheticScore, HPSScore, PickScore, load_aesthetic, load_hps, load_pickscore
from tests.support import tiny_models

PROMPTS = ["a red cube!", "A  Blue ball, side view", "a very long prompt " * 30]
NOT_OPENAI = "ignore:the aesthetic predictor was trained on OpenAI's:UserWarning"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preference")
    tiny_models.write(folder / "weights")
    tiny_models.write_pickscore(folder / "pickscore")
    tiny_models.write_hps(folder / "hps")
    tiny_models.write_aesthetic(folder / "aesthetic", width=8)
    return folder


@pytest.fixture(scope="module")
def clip(folder):
    return ClipScorer.load(folder / "weights" / "scorer")


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)


def models(folder, clip=None):
    return Models(clip, None, PROMPTS, lambda part: folder / part, "cpu")


def scores(metric, views, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the long prompt is cut, with a warning
        return metric.scores(views, prompt)


@pytest.mark.parametrize("prompt", PROMPTS)
@torch.no_grad()
def test_pickscore_is_the_formula_of_its_readme(folder, views, prompt):
    """Tolerance 1e-4 of scores of about 10: the same float32 model, in batches instead of one by one."""
    model = CLIPModel.from_pretrained(folder / "pickscore").eval()
    images = CLIPImageProcessorPil.from_pretrained(folder / "pickscore")
    tokens = CLIPTokenizer.from_pretrained(folder / "pickscore")
    pixels = images([Image.fromarray(view) for view in views], return_tensors="pt")
    words = tokens(prompt, padding=True, truncation=True, max_length=24, return_tensors="pt")
    image, text = model.get_image_features(**pixels).pooler_output, model.get_text_features(**words).pooler_output
    image, text = (vectors / vectors.norm(dim=-1, keepdim=True) for vectors in (image, text))
    expected = (model.logit_scale.exp() * (text @ image.T)[0]).numpy()
    metric = PickScore.of(models(folder))
    assert np.ptp(expected) > 0.1
    assert metric.scale == pytest.approx(np.exp(3), rel=1e-6)
    np.testing.assert_allclose(scores(metric, views, prompt), expected, atol=1e-4)
    of_prompts = metric.scores_of_prompts(views[:1], PROMPTS[:2])
    assert of_prompts[0] == pytest.approx(scores(metric, views, PROMPTS[0])[0], abs=1e-4)


@pytest.mark.parametrize("prompt", PROMPTS[:2])
@torch.no_grad()
def test_hps_is_the_product_of_unit_vectors_of_open_clips_model(folder, views, prompt):
    """As in hpsv2/img_score.py, in float32, on views of the model's size, which neither resizes. Tolerance as above."""
    config = json.loads((folder / "hps" / "open_clip_config.json").read_text())["model_cfg"]
    model = CLIP(**config, output_dict=True)
    published = torch.load(folder / "hps" / "HPS_v2.1_compressed.pt", weights_only=True)["state_dict"]
    model.load_state_dict(published)
    sized = views[:, :32, :32]
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    chain = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    pixels = torch.stack([chain(Image.fromarray(view)) for view in sized])
    out = model.eval()(pixels, open_clip.get_tokenizer("ViT-H-14")([prompt]))
    expected = 100 * (out["image_features"] @ out["text_features"].T)[:, 0].numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(HPSScore.of(models(folder)).scores(sized, prompt), expected, atol=1e-4)


@torch.no_grad()
def test_hps_own_resizing_of_smooth_views_changes_little(folder):
    """Its code resizes float tensors, bicubic with antialiasing in today's torchvision, and pads to a square."""
    across = np.linspace(0, 255, 160)
    views = np.stack([np.add.outer(across, across[::-1]) / 2] * 3, -1)[None].round().astype(np.uint8)
    scorer = load_hps(folder / "hps")
    resized = functional.resize(functional.to_tensor(Image.fromarray(views[0])), [32, 32], antialias=True)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    vector = scorer.encode_image(functional.normalize(resized, mean, std)[None])
    theirs = 100 * nn.functional.normalize(vector, dim=-1).numpy() @ scorer.text_features([PROMPTS[0]])[0]
    np.testing.assert_allclose(scorer.score(views, PROMPTS[0]), theirs, atol=0.1)


@pytest.mark.filterwarnings(NOT_OPENAI)
@torch.no_grad()
def test_the_aesthetic_score_is_laions_network_on_unit_vectors(folder, clip, views):
    """As in simple_inference.py; relative tolerance 1e-5: ours multiplies the layers in float64 first."""
    widths = [8, 1024, 128, 64, 16, 1]
    linear = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    published = nn.Module()
    published.layers = nn.Sequential(
        linear[0], nn.Dropout(0.2), linear[1], nn.Dropout(0.2), linear[2], nn.Dropout(0.1), linear[3], linear[4]
    )
    published.load_state_dict(torch.load(folder / "aesthetic" / "sac+logos+ava1-l14-linearMSE.pth", weights_only=True))
    expected = published.eval().layers(torch.from_numpy(clip.image_features(views)))[:, 0].numpy()
    metric = AestheticScore.of(models(folder, clip))
    np.testing.assert_allclose(metric.scores(views, "a prompt"), expected, rtol=1e-5)
    assert metric.scores_of_prompts(views[:1], ["one", "two"]).tolist() == [metric.scores(views[:1], "")[0]] * 2


def test_the_linear_predictor_of_version_1_is_read_as_well(tmp_path):
    torch.save({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])}, tmp_path / "linear.pth")
    weight, bias = load_aesthetic(tmp_path)
    assert (weight.tolist(), bias) == ([1.0, 2.0], 3.0)


def test_another_scorer_than_openais_is_named(folder, clip):
    with pytest.warns(UserWarning, match=r"trained on OpenAI's CLIP ViT-L/14, and the scorer is not recognized as it$"):
        AestheticScore.of(models(folder, clip))


def test_a_scorer_of_another_width_is_refused(tmp_path, clip):
    tiny_models.write_aesthetic(tmp_path / "aesthetic")
    sentence = (
        r"^the aesthetic predictor reads 768 numbers per view, but the scorer computes 8: use OpenAI's .* remove a"
    )
    with pytest.raises(EvaluationError, match=sentence):
        AestheticScore.of(models(tmp_path, clip))


def test_hps_in_open_clips_layout_is_read_without_the_checkpoint(folder, tmp_path, clip, views):
    shutil.copytree(folder / "weights" / "scorer", tmp_path / "hps")
    scores = HPSScore.of(models(tmp_path)).scores(views, "a red cube")
    np.testing.assert_array_equal(scores, clip.score(views, "a red cube"))


def without(name):
    def change(folder):
        (folder / name).unlink()

    return change


def renamed_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({f"x.{name}" if "proj" in name else name: t for name, t in tensors.items()}, folder / "model.safetensors")


def other_kind(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (without("config.json"), r"^no config\.json in .*: expected PickScore as a transformers folder$"),
        (without("model.safetensors"), r"^no checkpoint at .*model\.safetensors: expected"),
        (without("vocab.json"), r"has no tokenizer that loads|the tokenizer in .* has \d+ tokens"),
        (
            renamed_tensor,
            r"does not match its config\.json: \d+ tensors are missing, unknown or of another size, first",
        ),
        (other_kind, r"holds a siglip model; expected clip, as PickScore is published$"),
        (cut, r"is truncated, damaged or not a checkpoint \(1000 bytes\): fetch it again$"),
    ],
)
def test_a_wrong_pickscore_folder_is_one_sentence(folder, tmp_path, change, sentence):
    shutil.copytree(folder / "pickscore", tmp_path / "pickscore")
    change(tmp_path / "pickscore")
    with pytest.raises(EvaluationError, match=sentence):
        load_pickscore(tmp_path / "pickscore")


def test_a_wrong_hps_checkpoint_is_one_sentence(folder, tmp_path):
    with pytest.raises(
        EvaluationError, match=r"^no HPS_v2\.1_compressed\.pt in .*: expected the checkpoint of HPS v2\.1$"
    ):
        load_hps(tmp_path)
    shutil.copytree(folder / "hps", tmp_path / "hps")
    state = torch.load(tmp_path / "hps" / "HPS_v2.1_compressed.pt", weights_only=True)
    del state["state_dict"]["text_projection"]
    torch.save(state, tmp_path / "hps" / "HPS_v2.1_compressed.pt")
    with pytest.raises(EvaluationError, match=r"does not match ViT-H-14: Error\(s\) in loading"):
        load_hps(tmp_path / "hps")
    (tmp_path / "hps" / "open_clip_config.json").write_text("[]")
    with pytest.raises(EvaluationError, match=r"is not a configuration of open_clip: expected a model_cfg$"):
        load_hps(tmp_path / "hps")


def test_wrong_aesthetic_predictors_are_one_sentence(tmp_path):
    with pytest.raises(EvaluationError, match=r"has 0 checkpoints: expected one, the aesthetic predictor, such as sac"):
        load_aesthetic(tmp_path)
    torch.save({"layers.0.weight": torch.ones(1, 2), "layers.3.weight": torch.ones(1, 1)}, tmp_path / "a.pth")
    with pytest.raises(
        EvaluationError, match=r"2 tensors, first layers\.0\.weight: .* layers\.0 to layers\.7, or weight"
    ):
        load_aesthetic(tmp_path)
    torch.save({"weight": torch.ones(3, 2), "bias": torch.ones(1)}, tmp_path / "a.pth")
    with pytest.raises(EvaluationError, match=r"the layers in .* do not follow one another"):
        load_aesthetic(tmp_path)
