"""Data that is read from files: parquet, folders of images, text."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.data import DataOptions, check_labels, load_data, load_part
from secateur.errors import FileFormatError, InputError, MissingExtraError, UnknownNameError

Image = pytest.importorskip("PIL.Image")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

PLAIN = {"mean": [0, 0, 0], "std": [1, 1, 1]}


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """One image whose pixels count up from a value, so that mirroring and shifting show."""
    pixels = (np.arange(size[0] * size[1] * 3) % 50 + value).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.reshape(size[1], size[0], 3)).save(file, "png")
    return file.getvalue()


def write(path: Path, images: list[bytes | None], labels: list[int | None], name="img") -> Path:
    column = [{"bytes": image, "path": None} for image in images]
    parquet.write_table(
        arrow.table(
            {
                name: arrow.array(
                    column, arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
                ),
                "label": arrow.array(labels, arrow.int64()),
            }
        ),
        path,
    )
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty images of four classes, in one file."""
    return write(tmp_path / "rows.parquet", [png(5 * i) for i in range(40)], [0, 1, 2, 3] * 10)


def test_rows_become_the_pixels_that_were_written(rows: Path) -> None:
    part = load_part(f"parquet:{rows}", "train", **PLAIN)
    images, labels = next(iter(part.batches(40)))
    expected = np.stack([np.array(Image.open(io.BytesIO(png(5 * i)))) for i in range(40)])
    np.testing.assert_allclose(images.numpy(), expected.transpose(0, 3, 1, 2) / 255, atol=1e-7)
    assert labels.tolist() == [0, 1, 2, 3] * 10
    scaled, _ = next(iter(load_part(f"parquet:{rows}", "train").batches(40)))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in DataOptions().scaling)
    torch.testing.assert_close(scaled, (images - mean) / std)


def test_one_file_is_cut_in_stratified_parts(rows: Path) -> None:
    data, again = load_data(f"parquet:{rows}", **PLAIN), load_data(f"parquet:{rows}", **PLAIN)
    parts = (data.train, data.val, data.test)
    assert sum(map(len, parts)) == 40
    seen = [{row.numpy().tobytes() for row in part.inputs} for part in parts]
    assert len(set.union(*seen)) == 40
    assert torch.bincount(data.train.labels).tolist() == [7, 7, 7, 7]
    assert torch.equal(data.test.inputs, again.test.inputs)
    assert load_data(f"parquet:{rows}", seed=1).train.rows.tolist() != data.train.rows.tolist()


def test_a_folder_of_files_is_parted_by_their_names(tmp_path: Path) -> None:
    for name, count in (("train-0", 12), ("train-1", 8), ("test", 6)):
        write(tmp_path / f"{name}.parquet", [png(i) for i in range(count)], [0, 1] * (count // 2))
    data = load_data(f"parquet:{tmp_path}", val=0.2)
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 6)
    assert len(load_part(f"parquet:{tmp_path}", "train")) == 20
    with pytest.raises(InputError, match="has no val part"):
        load_part(f"parquet:{tmp_path}", "val")


def test_workers_change_neither_order_nor_augmentation(rows: Path) -> None:
    passes = []
    for workers in (0, 2):
        part = load_part(f"parquet:{rows}", "train", crop=2, flip=True, workers=workers)
        batches = part.batches(16, shuffle=True, seed=3)
        passes.append([[each for batch in batches for each in batch] for _ in range(2)])
    for first, second in zip(*passes, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(passes[0][0][1], passes[0][1][1]), "the second pass has another order"
    plain = load_part(f"parquet:{rows}", "train").batches(16, shuffle=True, seed=3)
    assert not torch.equal(next(iter(plain))[0], passes[0][0][0]), "augmentation changes pixels"


def test_training_on_images_goes_on_from_a_checkpoint_with_the_same_ones(
    rows: Path, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    def trained(checkpoint: Path | None, stop: int | None = None) -> torch.Tensor:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4))
        part = load_part(f"parquet:{rows}", "train", crop=2, flip=True)

        def progress(done: int, total: int, text: str) -> None:
            if done == stop:
                raise StoppedError

        secateur.recover(
            model, part.batches(16, shuffle=True, seed=3), epochs=3, lr=1e-4,
            checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
        return model[1].weight.detach()

    whole = trained(None)
    with pytest.raises(StoppedError):
        trained(tmp_path / "run", stop=5)
    assert torch.equal(trained(tmp_path / "run"), whole)


def test_only_training_passes_are_augmented_and_no_random_numbers_are_taken(rows: Path) -> None:
    data = load_data(f"parquet:{rows}", flip=True, crop=2)
    plain = load_data(f"parquet:{rows}")
    state = torch.random.get_rng_state()
    assert torch.equal(data.val.inputs, plain.val.inputs)
    assert torch.equal(data.train.inputs, plain.train.inputs)
    shuffled = [torch.cat([x for x, _ in each.val.batches(shuffle=True)]) for each in (data, plain)]
    assert torch.equal(*shuffled), "the validation part is never augmented"
    list(data.train.batches(shuffle=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_flips_mirror_and_crops_shift(rows: Path) -> None:
    plain = {**PLAIN, "strict": True}
    images = load_part(f"parquet:{rows}", "train", **plain).inputs
    flipped = load_part(f"parquet:{rows}", "train", flip=True, **plain)
    seen = 0
    for image in torch.cat([x for x, _ in flipped.batches(shuffle=True)]):
        same = (images == image).flatten(1).all(1).any()
        mirrored = (images.flip(-1) == image).flatten(1).all(1).any()
        assert same or mirrored
        seen += int(mirrored and not same)
    assert 8 <= seen <= 32, "about half of forty"
    resized = load_part(f"parquet:{rows}", "train", crop="resized", size=4, **plain)
    assert next(iter(resized.batches(shuffle=True)))[0].shape[1:] == (3, 4, 4)


def test_a_bad_row_is_named_and_counted(tmp_path: Path) -> None:
    images = [png(1), b"no image", png(2), None, png(3), png(4)]
    path = write(tmp_path / "bad.parquet", images, [0, 1, 0, 1, None, 1], name="image")
    with pytest.warns(UserWarning, match="row 4") as caught:
        part = load_part(f"parquet:{path}", "train")
        batches = list(part.batches(2))
    assert [labels.tolist() for _, labels in batches] == [[0], [0], [1]]
    assert sorted(part.bad) == [f"{path} row {row}" for row in (1, 3, 4)]
    assert len(caught) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(part.batches(2))
    strict = write(tmp_path / "strict.parquet", images[:2], [0, 1])
    for workers in (0, 1):
        part = load_part(f"parquet:{strict}", "train", strict=True, workers=workers)
        with pytest.raises(InputError, match="row 1 cannot be read") as error:
            list(part.batches())
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"row 4 cannot be read .it has no label"):
        load_part(f"parquet:{path}", "train", strict=True)


def test_images_of_which_none_can_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.parquet", [b"x", b"y"], [0, 1])
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(InputError, match="none of the 2"),
    ):
        list(load_part(f"parquet:{path}", "test").batches(1))


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    path = write(tmp_path / "odd.parquet", [png(1), png(2, (12, 20))], [0, 1])
    for batch_size in (1, 2):
        with pytest.raises(InputError, match="give size="):
            list(load_part(f"parquet:{path}", "test").batches(batch_size))
    whole, _ = next(iter(load_part(f"parquet:{path}", "test", size=6).batches()))
    assert whole.shape == (2, 3, 6, 6)
    grey, _ = next(iter(load_part(f"parquet:{path}", "test", size=6, channels=1).batches()))
    assert grey.shape == (2, 1, 6, 6) and grey.min() >= 0 and grey.max() <= 1


def test_a_folder_for_every_class(tmp_path: Path) -> None:
    for part, count in (("train", 10), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                (folder / f"{index}.png").write_bytes(png(100 * label + index))
            (folder / "notes.txt").write_text("not an image")
    data = load_data(f"folder:{tmp_path}", **PLAIN)
    assert data.classes == ("cat", "dog")
    assert (len(data.train), len(data.val), len(data.test)) == (18, 2, 4)
    for image, label in zip(data.test.inputs, data.test.labels, strict=True):
        assert int(label) == int(image.min() * 255 > 75)
    whole = load_data(f"folder:{tmp_path / 'train'}")
    assert sum(map(len, (whole.train, whole.val, whole.test))) == 20
    broken = tmp_path / "train" / "cat" / "0.png"
    broken.write_bytes(b"")
    with pytest.warns(UserWarning, match=str(broken)):
        assert len(load_part(f"folder:{tmp_path}", "train").labels) == 19
    (tmp_path / "test" / "cow").mkdir()
    with pytest.raises(InputError, match=r"cow.* without training images"):
        load_data(f"folder:{tmp_path}")


def test_text_predicts_the_token_that_follows(tmp_path: Path) -> None:
    text = ("".join(chr(97 + i % 26) for i in range(1000))).encode()
    path = tmp_path / "text.txt"
    path.write_bytes(text)
    data = load_data(f"text:{path}", length=16)
    stream = torch.tensor(list(text))
    assert torch.equal(data.train.inputs.flatten(), stream[: 56 * 16])
    assert torch.equal(data.train.labels.flatten(), stream[1 : 56 * 16 + 1])
    assert torch.equal(data.val.inputs[0], stream[900:916])
    assert data.train.label_range() == (97, 122)
    with pytest.raises(InputError, match="at least one sequence of 128 tokens"):
        load_data(f"text:{path}")
    check_labels(data, 256)


def test_text_in_the_tokens_of_a_tokenizer(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"[?]": 0, "one": 1, "two": 2}, unk_token="[?]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for part in ("train", "val", "test"):
        (tmp_path / f"{part}.txt").write_bytes(b"one two one two one\n\xff\none")
    options = {"length": 2, "tokenizer": str(tmp_path / "tokenizer.json")}
    with pytest.warns(UserWarning, match="the first line 2"):
        data = load_data(f"text:{tmp_path}", **options)
    assert data.train.inputs.tolist() == [[1, 2], [1, 2]]
    assert data.train.labels.tolist() == [[2, 1], [2, 1]]
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        load_data(f"text:{tmp_path}", strict=True, **options)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"no tokenizer\.json"):
        load_data(f"text:{tmp_path}", **options)


def test_a_function_may_return_torch_loaders(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_loaders.py").write_text(
        "import torch\n"
        "from torch.utils.data import DataLoader, TensorDataset\n"
        "def make(count=6):\n"
        "    made = TensorDataset(torch.zeros(count, 3), torch.arange(count))\n"
        "    return {'train': DataLoader(made, batch_size=4)}\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load_data("my_loaders:make", count=8)
    assert [labels.tolist() for _, labels in data.train.batches(99)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(data.train) == 8 and data.example_inputs.shape == (4, 3)
    assert data.train.label_range() is None and data.train.inputs.shape == (8, 3)
    empty: list[torch.Tensor] = []
    with pytest.raises(InputError, match="at least one batch"):
        load_data_of(DataLoader(TensorDataset(torch.zeros(0, 3), torch.zeros(0)), batch_size=2))
    with pytest.raises(InputError, match="only once"):
        load_data_of(iter(empty))


def load_data_of(value: object):
    from secateur.data import LoaderPart

    return LoaderPart(value)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("parquet:absent.parquet", {}, "there is no file"),
        ("parquet:", {}, "lacks a path; write parquet:PATH"),
        ("parquet:empty", {}, r"no \.parquet file in"),
        ("parquet:junk.parquet", {}, "not a parquet file"),
        ("parquet:other.parquet", {}, "has no column 'img' or 'image'; it has x"),
        ("parquet:none.parquet", {}, "zero rows"),
        ("parquet:one.parquet", {"sise": 3}, "unknown data option 'sise'; did you mean 'size'"),
        ("parquet:one.parquet", {"length": 3}, "takes no option 'length'"),
        ("parquet:one.parquet", {"size": 0}, "size must be at least 1"),
        ("parquet:one.parquet", {"mean": [0]}, "one number for each of 3 channels"),
        ("parquet:one.parquet", {"std": [0, 1, 1]}, "std must be positive"),
        ("parquet:one.parquet", {"crop": "resized"}, "needs the size"),
        ("parquet:one.parquet", {"crop": -1}, "crop must be a padding"),
        ("parquet:one.parquet", {"workers": -1}, "workers"),
        ("parquet:one.parquet", {"channels": 2}, "channels must be 1"),
        ("parquet:one.parquet", {"val": 1.0}, "share held out"),
        ("folder:absent", {}, "there is no folder"),
        ("folder:empty", {}, "has no folder for a class"),
        ("folder:hollow", {}, "zero rows"),
        ("text:absent.txt", {}, "there is no file"),
        ("text:empty", {}, r"no \.txt file"),
        ("text:none.txt", {}, "at least one sequence"),
        ("digits", {"flip": True}, "takes no option 'flip'"),
    ],
)
def test_what_cannot_be_read_is_one_clear_error(
    spec: str, options: dict, message: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("hollow/a").mkdir(parents=True)
    Path("junk.parquet").write_bytes(b"PAR1 but no more")
    Path("none.txt").touch()
    parquet.write_table(arrow.table({"x": [1]}), "other.parquet")
    write(Path("none.parquet"), [], [])
    write(Path("one.parquet"), [png(1)], [0])
    with pytest.raises((InputError, UnknownNameError, FileFormatError), match=message) as caught:
        load_data(spec, **options)
    assert "\n" not in str(caught.value)


def test_labels_out_of_range_are_told_before_anything_runs(rows: Path) -> None:
    data = load_data(f"parquet:{rows}")
    check_labels(data, 4)
    with pytest.raises(InputError, match=r"go from 0 to 3, and the model has 3 outputs"):
        check_labels(data, 3)


def test_without_torchvision_the_message_says_what_needs_it(rows: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(MissingExtraError, match="crop and flip use torchvision's transforms"):
        load_data(f"parquet:{rows}", flip=True)
    assert load_data(f"parquet:{rows}").example_inputs.shape == (1, 3, 8, 8)


def test_the_shared_cifar_is_read(shared: Path) -> None:
    data = load_data(f"parquet:{shared / 'data' / 'cifar10-exact-subset'}")
    assert len(data.train) + len(data.val) == 5085 and len(data.test) == 1017
    assert data.classes[:2] == ("airplane", "automobile") and data.test.label_range() == (0, 9)
    images, _ = next(iter(data.test.batches(8)))
    assert images.shape == (8, 3, 32, 32) and images.dtype == torch.float32
