"""Pictures of a source: every kind of file becomes the same array, and what cannot is refused by name."""

import contextlib
import io
import sys

import numpy as np
import pytest
from PIL import Image

from pipeline.data import picture_files, pictures
from pipeline.data.picture_files import decode_picture
from pipeline.data.pictures import fetch_pictures, read_digits, read_image_folder
from pipeline.errors import CorpusError

pytestmark = pytest.mark.unit


def encoded(picture, form="PNG", **options):
    raw = io.BytesIO()
    picture.save(raw, form, **options)
    return raw.getvalue()


def noise(width=8, height=6, mode="RGB", seed=0):
    channels = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)
    return Image.fromarray(values.squeeze(-1) if channels == 1 else values, mode)


def decoded(data, size=(3, 6, 8), fit="crop"):
    return decode_picture(data, name="a.png", size=size, fit=fit)[0]


@pytest.fixture
def folder(tmp_path):
    """A project with pictures/cat and pictures/dog, three of each."""
    for number, name in enumerate(("dog", "cat")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for index in range(3):
            path = tmp_path / "pictures" / name / f"{index}.png"
            path.write_bytes(encoded(noise(seed=10 * number + index)))
    return tmp_path


def read(project, size=(3, 6, 8), **settings):
    return read_image_folder(path="pictures", image_size=list(size), project=project, **settings)


def test_pixels_come_as_channels_rows_and_columns():
    picture = noise()

    assert np.array_equal(decoded(encoded(picture)), np.asarray(picture).transpose(2, 0, 1))


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF", "GIF", "JPEG", "WEBP"])
def test_every_format_gives_the_same_picture(form):
    picture = Image.new("RGB", (8, 6), (200, 40, 40))
    options = {"lossless": True} if form == "WEBP" else {}

    found = decoded(encoded(picture, form, **options)).astype(int)

    assert abs(found - np.array([200, 40, 40])[:, None, None]).max() <= 3  # JPEG loses a little


@pytest.mark.parametrize(
    ("picture", "shade"),
    [
        (Image.new("L", (8, 6), 77), 77),
        (Image.new("1", (8, 6), 1), 255),
        (Image.new("RGBA", (8, 6), (0, 0, 0, 0)), 255),  # what is transparent lies on white
        (Image.new("LA", (8, 6), (77, 255)), 77),
        (Image.new("P", (8, 6), 0), 0),
        (Image.fromarray(np.full((6, 8), 77 * 257, np.uint16)), 77),  # 16 bits
    ],
    ids=["L", "1", "RGBA", "LA", "P", "16 bits"],
)
def test_every_kind_of_pixel_becomes_grey_and_colour(picture, shade):
    data = encoded(picture)

    assert (decoded(data) == shade).all()
    assert (decoded(data, size=(1, 6, 8)) == shade).all()


def test_a_palette_with_a_transparent_entry_lies_on_white():
    picture = Image.new("P", (8, 6), 0)
    picture.putpalette([10, 20, 30])

    assert (decoded(encoded(picture, transparency=0)) == 255).all()


def test_a_picture_that_lies_on_its_side_is_turned_upright():
    upright = noise(width=8, height=6)
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn clockwise by 90 degrees to see it upright

    found = decoded(encoded(lying, exif=exif))

    assert np.array_equal(found, np.asarray(upright).transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("fit", "ends"),
    [("crop", [255, 255]), ("pad", [0, 0]), ("stretch", [36, 255])],  # 36: the edge, smoothed
)
def test_each_fit_brings_another_size_to_the_one_asked_for(fit, ends):
    wide = Image.new("L", (8, 4), 0)
    wide.paste(255, (2, 0, 8, 4))  # black, then white from a quarter on

    found = decoded(encoded(wide), size=(1, 4, 4), fit=fit)[0]

    assert list(found[0, [0, 3]]) == ends


def test_an_exact_fit_refuses_another_size_and_names_the_file():
    with pytest.raises(CorpusError, match=r"a\.png: the picture is 8 x 6 pixels, not 5 x 4"):
        decoded(encoded(noise()), size=(3, 4, 5), fit="exact")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_file_that_is_cut_off_is_refused_by_name(form):
    data = encoded(noise(64, 48), form)

    with pytest.raises(CorpusError, match=r"a\.png: the file is not a picture that can be read, or is damaged"):
        decoded(data[: len(data) // 2])


@pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7 ...", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(CorpusError, match="not a picture that can be read"):
        decoded(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_a_changed_byte_gives_a_picture_or_a_clear_refusal(form):
    data = bytearray(encoded(noise(24, 24), form))
    chance = np.random.default_rng(1)

    for _ in range(100):
        changed = bytearray(data)
        changed[chance.integers(len(data))] ^= 1 << chance.integers(8)
        with contextlib.suppress(CorpusError):  # any other error is a traceback for the user
            assert decoded(bytes(changed), size=(3, 24, 24)).shape == (3, 24, 24)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_does():
    bomb = bytearray(encoded(Image.new("1", (100, 100))))
    header = bomb.index(b"IHDR")
    bomb[header + 4 : header + 12] = (60_000).to_bytes(4, "big") * 2
    import zlib

    bomb[header + 17 : header + 21] = zlib.crc32(bomb[header : header + 17]).to_bytes(4, "big")

    with pytest.raises(CorpusError, match="more than 50,000,000 pixels"):
        decoded(bytes(bomb))


def test_the_limit_of_pixels_holds_below_the_one_of_pillow(monkeypatch):
    monkeypatch.setattr(picture_files, "MAX_PIXELS", 47)

    with pytest.raises(CorpusError, match="more than 47 pixels"):
        decoded(encoded(noise()))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_fixed_white_are_refused(mode):
    with pytest.raises(CorpusError, match="have no fixed white"):
        decoded(encoded(Image.new(mode, (8, 6)), "TIFF"))


def test_classes_are_the_folders_in_the_order_of_their_names(folder):
    found = read(folder)

    assert found.classes == ["cat", "dog"]
    assert [picture.labels for picture in found.pictures] == 3 * [(0,)] + 3 * [(1,)]
    assert found.pictures[0].name == "pictures/cat/0.png"
    assert list(found.inputs) == [picture.name for picture in found.pictures]


def test_other_files_and_hidden_ones_are_left_out(folder):
    (folder / "pictures/cat/notes.txt").write_text("about cats")
    (folder / "pictures/cat/.hidden.png").write_bytes(b"nothing")
    (folder / "pictures/.cache").mkdir()

    found = read(folder)

    assert len(found.pictures) == 6
    assert found.ignored == ("pictures/cat/notes.txt",)


def test_pictures_in_folders_of_a_class_folder_belong_to_the_class(folder):
    (folder / "pictures/cat/indoors").mkdir()
    (folder / "pictures/cat/indoors/3.JPG").write_bytes(encoded(noise(seed=5), "JPEG"))

    assert [picture.labels for picture in read(folder).pictures] == 4 * [(0,)] + 3 * [(1,)]


def test_resized_files_are_counted(folder):
    (folder / "pictures/cat/large.png").write_bytes(encoded(noise(80, 60)))

    assert read(folder).resized == 1


def test_a_damaged_file_in_a_folder_is_named(folder):
    (folder / "pictures/dog/1.png").write_bytes(b"\x89PNG")

    with pytest.raises(CorpusError) as caught:
        read(folder)

    assert caught.value.where == "pictures/dog/1.png"


def test_a_class_without_pictures_is_refused(folder):
    (folder / "pictures/bird").mkdir()

    with pytest.raises(CorpusError, match="the class bird has no picture"):
        read(folder)


@pytest.mark.parametrize(
    ("classes", "found"), [([], "there is none"), (["cat"], "there is only cat")], ids=["none", "one"]
)
def test_fewer_than_two_classes_are_refused(tmp_path, classes, found):
    (tmp_path / "pictures").mkdir()
    for name in classes:
        (tmp_path / "pictures" / name).mkdir()

    with pytest.raises(CorpusError, match=found):
        read(tmp_path)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(CorpusError, match="the folder does not exist"):
        read(tmp_path)


def test_more_pictures_than_memory_is_meant_for_are_refused_before_they_are_read(folder, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_BYTES", 800)  # six pictures of 144 bytes are 864

    with pytest.raises(CorpusError, match="6 pictures of 3 x 6 x 8 are more than 800 bytes"):
        read(folder)


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    theirs = load_digits()
    ours = fetch_pictures({"kind": "digits"}, project=None)

    assert (len(ours.pictures), ours.size, ours.classes) == (1797, (1, 8, 8), [str(digit) for digit in range(10)])
    assert [picture.labels for picture in ours.pictures] == [(label,) for label in theirs.target]
    back = np.stack([picture.pixels[0] for picture in ours.pictures]) / 255 * 16
    assert np.array_equal(np.rint(back), theirs.images)  # no shade is lost
    assert read_digits(project=None).inputs == ours.inputs


@pytest.mark.parametrize(("package", "needs"), [("sklearn.datasets", "scikit-learn"), ("PIL", "Pillow")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, package, needs):
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed

    with pytest.raises(CorpusError, match=f"{needs}, which is not installed") as caught:
        read_digits(project=None) if package != "PIL" else decoded(b"")

    assert caught.value.hint == 'pip install "model-foundry[vision]"'
