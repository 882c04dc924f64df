"""What cannot be a volume is refused in one line, before a model is loaded; docs/dicom.md lists the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRColorImageStorage,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from tests import dicom_series as made
from tests import scans
from tf_mrsr import predict
from tf_mrsr.dicom import pixels, reading
from tf_mrsr.errors import VolumeError

DOCS = Path(__file__).parent.parent / "docs" / "dicom.md"
FAULTS = {}


def fault(name, words):
    """Registers a function (folder) that makes a faulty series, and what the message must say."""

    def register(function):
        FAULTS[name] = (function, words)
        return function

    return register


def changed(name, words, change, **arguments):
    """A fault that is one change of the slices of a sound series."""

    def make(folder):
        datasets = made.slices(**arguments)
        made.save(folder, change(datasets) or datasets)

    fault(name, words)(make)


def private(element, creator):
    def change(datasets):
        for dataset in datasets:
            dataset.private_block(0x0019, creator, create=True).add_new(element, "US", 36)

    return change


def each(**values):
    def change(datasets):
        for dataset in datasets:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return change


def one(**values):
    return lambda datasets: each(**values)(datasets[4:5])


def without(keyword):
    return lambda datasets: delattr(datasets[4], keyword)


def moved(index, millimetres):
    def change(datasets):
        normal = made.RAS_TO_LPS[:3, :3] @ made.AFFINE[:3, 2] / 2
        position = np.array(datasets[index].ImagePositionPatient, float) + millimetres * normal
        datasets[index].ImagePositionPatient = [f"{v:.9f}" for v in position]

    return change


def sheared(datasets):
    row = np.array(datasets[0].ImageOrientationPatient[:3], float)
    for k, dataset in enumerate(datasets):
        shift = k * 2 * np.tan(np.radians(3)) * row
        dataset.ImagePositionPatient = [f"{v:.9f}" for v in np.array(dataset.ImagePositionPatient, float) + shift]


def turned(datasets):
    datasets[4].ImageOrientationPatient = [*datasets[4].ImageOrientationPatient[3:], 0, 0, 1]


def another(datasets):
    return [*datasets, *made.slices()]


def repeated(count):
    """Other images at the places of the first ``count`` slices, in the same series."""

    def change(datasets):
        more = made.slices(made.voxels() + 1)[:count]
        each(SeriesInstanceUID=datasets[0].SeriesInstanceUID, FrameOfReferenceUID=datasets[0].FrameOfReferenceUID)(more)
        return datasets + more

    return change


SKEWED = [1, 0, 0, 0.5, 1, 0]
changed(
    "a slice is missing",
    "1 missing slice: 4 mm instead of 2 mm between instance 4 and instance 6",
    lambda d: d[:4] + d[5:],
)
changed("two slices are missing", "2 missing slices: 6 mm instead of 2 mm", lambda d: d[:4] + d[6:])
changed("spacing is uneven", "uneven spacing: 2.1 mm instead of 2 mm between instance 4 and instance 5", moved(4, 0.1))
changed("two images of one place", "are different images of one place", repeated(1))
changed("time points or echoes", "holds several images at each place (up to 2:", repeated(10))
changed("mixed orientations", "are not parallel; expected one orientation", turned)
changed("mixed sizes", "expected one size", one(Rows=17))
changed("mixed pixel spacings", "differ in PixelSpacing", one(PixelSpacing=["1.3", "0.9"]))
changed("mixed spaces", "differ in FrameOfReferenceUID", one(FrameOfReferenceUID="1.2.3"))
changed("gantry tilt", "the slices are sheared by 3.0 degrees (gantry tilt)", sheared)
changed(
    "crooked rows and columns", "not two directions at right angles", each(ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0])
)
changed("no position", "instance 5 states no position (ImagePositionPatient)", without("ImagePositionPatient"))
changed("no orientation", "states no orientation (ImageOrientationPatient)", without("ImageOrientationPatient"))
changed("no spacing", "states no spacing (PixelSpacing)", without("PixelSpacing"))
changed("spacing of zero", "expected two positive numbers", each(PixelSpacing=["0", "0"]))
changed("spacing next to nothing", "so voxels have no volume; repair what", each(PixelSpacing=["1e-200", "1e-200"]))
changed("useless slope", "rescale slope or intercept cannot be used", each(RescaleSlope="0"))
changed("one place only", "all slices lie at one place", lambda d: d[:1])
changed("one file of a series", "of a series, give the folder that holds all slices", lambda d: d[:1])
changed("several series", "holds 2 series; choose one with --series-uid", another)
changed("mosaic", "is a mosaic, many slices side by side", each(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]))
changed("mosaic of Siemens' own", "is a mosaic, many slices side by side", private(0x0A, "SIEMENS MR HEADER"))
changed("no number of samples", "states no SamplesPerPixel", lambda d: [delattr(x, "SamplesPerPixel") for x in d] and d)
changed("no series", "IM000 states no SeriesInstanceUID", lambda d: [delattr(x, "SeriesInstanceUID") for x in d] and d)
changed("more pixels than rows", "holds other pixels than its header says", each(Rows=17))
changed("colour", "is a colour picture", each(PhotometricInterpretation="PALETTE COLOR"))
changed(
    "no MR or CT",
    "holds Secondary Capture Image Storage; expected MR or CT",
    each(SOPClassUID=SecondaryCaptureImageStorage),
)
changed("several frames in a classic file", "holds several frames in a format for one", each(NumberOfFrames="2"))
changed("truncated pixels", "truncated pixel data", lambda d: d[4].__setattr__("PixelData", d[4].PixelData[:-200]))
changed("no pixels", "truncated pixel data", without("PixelData"))
changed(
    "nothing but padding",
    "all voxels are padding (PixelPaddingValue)",
    each(PixelPaddingValue=0, PixelPaddingRangeLimit=65535),
    ct=True,
)
changed("pixels of 12 bits", "expected whole numbers of 8, 16 or 32 bits", each(BitsAllocated=12))
changed("no rows", "has no pixels (Rows 0", each(Rows=0))
changed("a huge picture", "promises 65535 x 65535 pixels", each(Rows=65535, Columns=65535))


@fault("a huge series", "voxels, more than 1.07e+09")
def huge(folder):
    dataset = made.enhanced(np.zeros((2, 2, 20), int))
    dataset.Rows = dataset.Columns = 8192
    made.save(folder, [dataset])


@fault("time points in one file", "holds several images at each place (up to 2:")
def enhanced_twice(folder):
    dataset = made.enhanced(np.concatenate([made.voxels()] * 2, axis=2))
    frames = dataset.PerFrameFunctionalGroupsSequence
    for first, second in zip(frames[:10], frames[10:], strict=True):
        second.PlanePositionSequence = first.PlanePositionSequence
    made.save(folder, [dataset])


@fault("frames without description", "a file promises 12 frames and describes 10")
def undescribed(folder):
    dataset = made.enhanced()
    dataset.NumberOfFrames = "12"
    made.save(folder, [dataset])


@fault("enhanced colour", "holds Enhanced MR Color Image Storage")
def enhanced_colour(folder):
    dataset = made.enhanced()
    dataset.SOPClassUID = EnhancedMRColorImageStorage
    made.save(folder, [dataset])


@fault("unknown transfer syntax", "the transfer syntax 1.2.3.4 is not supported")
def unknown_syntax(folder):
    _restated(made.save(folder, made.slices()), "1.2.3.4")


@fault("older JPEG", "the transfer syntax JPEG Lossless, Non-Hierarchical, First-Order Prediction")
def older_jpeg(folder):
    _restated(made.save(folder, made.slices()), JPEGLosslessSV1)


def _restated(folder, syntax):
    for path in folder.iterdir():
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset.PixelData = encapsulate([dataset.PixelData])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path, implicit_vr=False, little_endian=True, force_encoding=True)


@fault("truncated file", "IM000 is truncated")
def truncated_file(folder):
    path = made.save(folder, made.slices()) / "IM000"
    path.write_bytes(path.read_bytes()[:420])


@fault("damaged header", "IM000 is damaged DICOM")
def damaged_header(folder):
    path = made.save(folder, made.slices()) / "IM000"
    path.write_bytes(path.read_bytes()[:140] + b"\xff" * 40)


@fault("unknown value representation", "instance 1 states no orientation")
def unknown_representation(folder):
    path = made.save(folder, made.slices()) / "IM000"
    content = path.read_bytes()
    place = content.index(bytes.fromhex("20003700") + b"DS") + 4  # that of ImageOrientationPatient
    path.write_bytes(content[:place] + b"ZZ" + content[place + 2 :])


@fault("sequences without end", "IM000 is damaged DICOM")
def nested(folder):
    path = made.save(folder, made.slices()) / "IM000"
    content = path.read_bytes()
    start = 132 + 12 + int.from_bytes(content[140:144], "little")
    # A sequence (0008,1140) of undefined length, and in it an item of undefined length.
    level = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(content[:start] + level * 20_000)


@fault("far more than pixels", "the file is far larger than its header says")
def padded(folder):
    path = made.save(folder, made.slices()) / "IM000"
    with path.open("r+b") as stream:
        stream.truncate(2**27)


@fault("an empty file called .dcm", "lost.dcm is no DICOM file in spite of its name")
def empty_file(folder):
    made.save(folder, made.slices())
    (folder / "lost.dcm").write_bytes(b"")


@fault("a link to nothing, as DataLad has it", "IM999 is a link to a file that is not there; fetch the file")
def unfetched(folder):
    made.save(folder, made.slices())
    (folder / "IM999").symlink_to(folder / "annex")


@fault("truncated RLE", "truncated pixel data")
def truncated_rle(folder):
    _recoded(folder, RLELossless, lambda stream: stream[: len(stream) // 2 * 2 - 40])


@fault("hostile RLE", "the compressed pixels are more than the header promises")
def hostile_rle(folder):
    _recoded(folder, RLELossless, lambda stream: stream + b"\x81\x00" * 50_000)


@fault("hostile deflate", "inflates to more than the")
def hostile_deflate(folder):
    made.save(folder, made.slices(), DeflatedExplicitVRLittleEndian)
    made.deflate_bomb(folder / "IM000", 2**27)


@fault("deflated header without end", "IM000 is damaged DICOM")
def hostile_deflated_header(folder):
    made.save(folder, made.slices(), DeflatedExplicitVRLittleEndian)
    path = folder / "IM000"
    path.write_bytes(path.read_bytes()[:-100])


@fault("more pixels than files can hold", "bytes of pixels out of")
def too_compressed(folder):
    datasets = made.slices()
    each(Rows=8000, Columns=8000)(datasets)
    for dataset in datasets:
        dataset.PixelData = bytes(10)
    made.save(folder, datasets, DeflatedExplicitVRLittleEndian)


def _recoded(folder, syntax, change):
    made.save(folder, made.slices(), syntax)
    path = folder / "IM000"
    dataset = dcmread(path)
    (stream,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.PixelData = encapsulate([change(stream)])
    dataset.save_as(path)


if "pylibjpeg" in pixels.get_decoder(JPEG2000Lossless).available_plugins:

    @fault("truncated JPEG 2000", "truncated pixel data")
    def truncated_jpeg2000(folder):
        _recoded(folder, JPEG2000Lossless, lambda stream: stream[: len(stream) // 2])

    @fault("damaged JPEG 2000", "the compressed pixels are damaged")
    def damaged_jpeg2000(folder):
        _recoded(folder, JPEG2000Lossless, lambda stream: stream[:60] + bytes(40) + stream[-2:])

    @fault("JPEG 2000 of another size", "its header says 36 x 34 of 1; it is damaged or hostile")
    def larger_jpeg2000(folder):
        # The width in the stream's own header stands 8 bytes into it.
        _recoded(folder, JPEG2000Lossless, lambda stream: stream[:8] + (60_000).to_bytes(4, "big") + stream[12:])


if "pyjpegls" in pixels.get_decoder(JPEGLSLossless).available_plugins:

    @fault("JPEG-LS of another size", "the compressed picture is 60000 x 34 pixels")
    def larger_jpegls(folder):
        def widened(stream):
            place = stream.find(b"\xff\xf7") + 7
            return stream[:place] + (60_000).to_bytes(2, "big") + stream[place + 2 :]

        _recoded(folder, JPEGLSLossless, widened)


@pytest.mark.parametrize("name", FAULTS)
def test_refused_in_one_line(tmp_path, capsys, name):
    make, words = FAULTS[name]
    make(tmp_path / "series")
    model = str(scans.untrained_run(tmp_path / "run"))
    assert predict.main([str(tmp_path / "series"), "-o", str(tmp_path / "out"), "--model", model]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {tmp_path / 'series'}: ")
    assert words in message
    assert message.count("\n") == 1
    assert made.CANARY not in message
    assert not (tmp_path / "out").exists()


def test_the_documentation_lists_every_fault():
    text = DOCS.read_text()
    for name, (_, words) in FAULTS.items():
        assert f"| {name} | {words} |" in text.replace("`", ""), name


def test_missing_codecs_are_named(tmp_path, monkeypatch):
    _restated(made.save(tmp_path, made.slices()), JPEGLSLossless)
    monkeypatch.setattr(pixels, "CODECS", {JPEGLSLossless: pixels._Codec("no such plugin", b"")})
    with pytest.raises(VolumeError, match=r"JPEG-LS Lossless.*pip install '.\[codecs\]'"):
        reading.read(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="a process's memory is read from Linux' /proc")
def test_hostile_files_take_no_memory(tmp_path):
    """A megabyte that would become a gigabyte, read in a process that may not have half of that."""
    made.save(tmp_path / "a", made.slices(), DeflatedExplicitVRLittleEndian)
    made.deflate_bomb(tmp_path / "a" / "IM000", 2**30)
    _recoded(tmp_path / "b", RLELossless, lambda stream: stream + b"\x81\x00" * 2**22)
    code = (
        "import resource, sys\n"
        "from tf_mrsr.errors import VolumeError\n"
        "from tf_mrsr.volume import read_volume\n"
        "import tf_mrsr.dicom.reading\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))\n"
        "try:\n    read_volume(sys.argv[1])\nexcept VolumeError as error:\n    sys.exit(3)\n"
    )
    for folder in "ab":
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path / folder)], check=False)
        assert done.returncode == 3
