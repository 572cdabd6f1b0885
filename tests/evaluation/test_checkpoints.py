"""evaluation.checkpoints: every published format is read; damaged files and files with code are refused."""

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evaluation import EvaluationError
from evaluation.checkpoints import CodeInFileError, digest, read_tensors

RAN = []


class Trap:
    """An object whose unpickling calls a function."""

    def __reduce__(self):
        return RAN.append, ("ran",)


class Scripted(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 2)
        self.blocks = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4))
        self.register_buffer("steps", torch.tensor(7))

    def forward(self, x):
        return self.blocks(self.first(x))


@pytest.fixture
def tensors():
    return {"b": torch.randn(300), "a.weight": torch.arange(6).reshape(2, 3).t(), "empty": torch.zeros(0, 2)}


def same(found, expected):
    assert found.keys() == expected.keys()
    return all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in expected.items()
    )


def test_torch_files_and_safetensors_are_read(tensors, tmp_path):
    torch.save(tensors, tmp_path / "new.pt")
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "it.safetensors")
    for name in ("new.pt", "old.pth", "it.safetensors"):
        assert same(read_tensors(tmp_path / name), tensors)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("half", [False, True])
def test_torchscript_tensors_match_torch_jit_load(tmp_path, half):
    module = Scripted().half() if half else Scripted()
    torch.jit.script(module).save(tmp_path / "scripted.pt")
    assert same(read_tensors(tmp_path / "scripted.pt"), dict(torch.jit.load(tmp_path / "scripted.pt").state_dict()))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"a": Trap()}, tmp_path / "trap.pt")
    torch.save(Scripted(), tmp_path / "module.pt")
    torch.jit.script(Scripted()).save(tmp_path / "scripted.pt")
    with (
        zipfile.ZipFile(tmp_path / "scripted.pt") as good,
        zipfile.ZipFile(tmp_path / "scripted_trap.pt", "w") as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, pickle.dumps(Trap(), 2) if name.endswith("/data.pkl") else good.read(name))
    for name in ("trap.pt", "module.pt", "scripted_trap.pt"):
        with pytest.raises(CodeInFileError, match=rf"^{name} holds more than tensors and would run code when opened"):
            read_tensors(tmp_path / name)
    tmp_path.joinpath("plain.pt").write_bytes(pickle.dumps({"a": Trap()}))
    with pytest.raises(EvaluationError, match="truncated, damaged or not a checkpoint"):
        read_tensors(tmp_path / "plain.pt")
    assert not RAN


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", ["new.pt", "old.pth", "it.safetensors", "scripted.pt"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.95])
def test_a_truncated_file_is_refused_in_one_sentence(tensors, tmp_path, name, share):
    if name == "scripted.pt":
        torch.jit.script(Scripted()).save(tmp_path / name)
    elif name == "it.safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / name)
    else:
        torch.save(tensors, tmp_path / name, _use_new_zipfile_serialization=name == "new.pt")
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(EvaluationError) as refused:
        read_tensors(tmp_path / name)
    assert f"{name} is truncated, damaged or not a checkpoint (" in str(refused.value)
    assert str(refused.value).endswith(" bytes): fetch it again")
    assert "\n" not in str(refused.value)


def test_files_of_another_kind_are_refused_with_their_content(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "nested.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    tmp_path.joinpath("page.pt").write_text("<html>not found</html>")
    with pytest.raises(EvaluationError, match="expected tensors by name, found dict under 'state_dict'"):
        read_tensors(tmp_path / "nested.pt")
    with pytest.raises(EvaluationError, match="expected tensors by name, found list"):
        read_tensors(tmp_path / "list.pt")
    with pytest.raises(EvaluationError, match=r"damaged or not a checkpoint \(22 bytes\): fetch it again"):
        read_tensors(tmp_path / "page.pt")
    with pytest.raises(EvaluationError, match=r"no checkpoint at .*nowhere\.pt"):
        read_tensors(tmp_path / "nowhere.pt")


def test_the_digest_depends_on_names_and_values_but_not_on_the_storage_type(tensors):
    whole = {"x": torch.tensor([0.5, 1.0]), "y": torch.ones(2)}
    assert digest(whole) == digest({name: tensor.half() for name, tensor in reversed(whole.items())})
    assert digest(whole) != digest({"x": whole["x"], "z": whole["y"]})
    assert digest(whole) != digest({"x": whole["x"], "y": whole["y"] + 1e-6})
