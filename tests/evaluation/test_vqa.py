"""evaluation.vqa: against the forward pass of a tiny LLaVA with random weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessorPil, LlavaForConditionalGeneration

from evaluation import EvaluationError
from evaluation.metrics import Models
from evaluation.vqa import QUESTION, VisionLanguageModel, VQAScore, spaced
from tests.support import tiny_models

PROMPT = "a red cube"
IMAGE_TOKENS = 16  # 32 pixels in patches of 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write_vlm(tmp_path_factory.mktemp("vqa") / "vlm")


@pytest.fixture(scope="module")
def judge(folder):
    return VisionLanguageModel.load(folder)


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(0).integers(0, 256, (120, 40, 40, 3), dtype=np.uint8)


@torch.no_grad()
def test_it_is_the_probability_of_yes_after_the_question(folder, judge, views):
    """Softmax of the last logits of the plain forward pass, with the prompt written out as ids, of a view of the
    model's size. Tolerance: float32."""
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    words = judge.tokenizer.get_vocab()
    question = QUESTION.format(PROMPT).split()
    assert question[4:7] == ['"a', "red", 'cube"?']
    ids = [words["USER:"], *[words["<image>"]] * IMAGE_TOKENS, *(words[word] for word in question), words["ASSISTANT:"]]
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(
        Image.fromarray(views[0, :32, :32]), return_tensors="pt"
    ).pixel_values
    logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, -1]
    expected = float(logits.softmax(-1)[[words["yes"], words["Yes"]]].sum())
    assert 0.01 < expected < 0.99
    assert judge.probability_of_yes(views[0, :32, :32], QUESTION.format(PROMPT)) == pytest.approx(expected, rel=1e-5)


def test_twelve_views_stand_for_all(folder, judge, views):
    metric = VQAScore.of(Models(None, None, [PROMPT], lambda part: folder, "cpu"))
    scores = metric.scores(views, PROMPT)
    assert scores.shape == (12,)
    assert scores[3] == judge.probability_of_yes(views[30], QUESTION.format(PROMPT))
    assert len(set(scores)) == 12
    metric.update(views, PROMPT)
    assert float(metric.compute()) == pytest.approx(scores.mean())
    assert scores[0] != metric.scores(views[:1], "a blue ball")[0], "the prompt matters"


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, [0]), (5, [0, 1, 2, 3, 4]), (24, range(0, 24, 2)), (120, range(0, 120, 10))]
)
def test_views_are_evenly_spaced(count, chosen):
    views = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
    assert spaced(views, 12)[:, 0, 0, 0].tolist() == list(chosen)


def test_a_model_without_a_chat_template_is_asked_after_its_image_token(tmp_path, views):
    judge = VisionLanguageModel.load(tiny_models.write_vlm(tmp_path, template=False))
    assert judge._prompt("Why?") == "<image>\nWhy?"
    assert 0 < judge.probability_of_yes(views[0], QUESTION.format(PROMPT)) < 1


def remove(pattern):
    def change(folder):
        for file in folder.glob(pattern):
            file.unlink()

    return change


def configured(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return change


def with_code(folder):
    """An unknown model that brings its code."""
    configured(model_type="evil", auto_map={"AutoConfig": "evil.Config", "AutoModelForImageTextToText": "evil.Model"})(
        folder
    )
    (folder / "evil.py").write_text("raise SystemExit('code of the folder was run')")


def without_lm_head(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in tensors.items() if "lm_head" not in n}, folder / "model.safetensors", {"format": "pt"})


def without_yes(folder):
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"yes"', '"ja"').replace('"Yes"', '"Ja"'))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (remove("config.json"), r"^no config\.json in .*: expected a vision-language model as a transformers folder$"),
        (remove("*.safetensors"), r"does not load as a vision-language model: .*safetensors"),
        (remove("*processor*"), r"has no processor that loads: "),
        (configured(model_type="bert"), r"does not load as a vision-language model: "),
        (with_code, r"does not load as a vision-language model: .* contains custom code which must be executed"),
        (
            without_lm_head,
            r"does not match its config\.json: 1 tensors are missing, unknown or of another size, first lm_h",
        ),
        (
            without_yes,
            r'has no single token for "yes", so its probability is not one number: use another model in vlm/$',
        ),
    ],
)
def test_a_wrong_folder_is_one_sentence_and_runs_no_code(folder, tmp_path, change, sentence):
    shutil.copytree(folder, tmp_path / "vlm")
    change(tmp_path / "vlm")
    with pytest.raises(EvaluationError, match=sentence):
        VisionLanguageModel.load(tmp_path / "vlm")
