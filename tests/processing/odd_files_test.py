"""Files of real cameras and programs: display matrices, joined recordings, names, EXIF, text."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin
import pytest

from fourd4d.core.errors import InputError
from fourd4d.processing import media
from fourd4d.processing.media import decode_image, image_size, read_image
from fourd4d.processing.video import iter_video, read_video


def record(path, levels, rate=10, start=0, size=(64, 48), codec="libx264", setup=None, **options):
    """One frame a grey level; its upper left corner is white."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.codec_context.gop_size = 10
        if setup:
            setup(stream)
        for number, level in enumerate(levels):
            pixels = np.full((size[1], size[0], 3), level, np.uint8)
            pixels[: size[1] // 2, : size[0] // 2] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = start + number, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def levels(video):
    return [int(frame[-4:, -4:].mean()) for frame in video.frames]


MATRICES = {  # a, b, c, d of the file; what a player shows of an array of pixels.
    "upright": ((1, 0, 0, 1), lambda p: p),
    "quarter": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "half": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "three quarters": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda p: p[::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "transversed": ((0, -1, -1, 0), lambda p: np.rot90(p, 2).swapaxes(0, 1)),
}


@pytest.mark.parametrize("name", MATRICES)
def test_every_display_matrix_is_shown_as_a_player_does(tmp_path, name):
    data = record(tmp_path / "plain.mp4", [40] * 3).read_bytes()
    numbers, shown = MATRICES[name]

    def packed(a, b, c, d):
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    at = data.find(packed(1, 0, 0, 1), data.find(b"tkhd"))
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data[:at] + packed(*numbers) + data[at + 36 :])
    plain = read_video(tmp_path / "plain.mp4", None, None).frames
    for found in (read_video(turned, None, None).frames,
                  np.stack([pixels() for _, pixels in iter_video(turned)])):
        np.testing.assert_array_equal(found, np.stack([shown(frame) for frame in plain]))


def test_joined_recordings_go_on(tmp_path):
    one, two = range(20, 50), range(120, 160)
    parts = [record(tmp_path / f"{n}.ts", part).read_bytes() for n, part in enumerate((one, two))]
    joined = tmp_path / "joined.ts"
    for order in ((0, 1), (1, 0), (0, 0, 1)):
        joined.write_bytes(b"".join(parts[n] for n in order))
        truth = [level for n in order for level in ((one, two)[n])]
        video = read_video(joined, None, None)
        np.testing.assert_allclose(levels(video), truth, atol=2)
        np.testing.assert_allclose(video.timestamps, np.arange(len(truth)) / 10, atol=0.02)
        window = read_video(joined, None, None, start=2.0, end=4.0)
        np.testing.assert_allclose(levels(window), truth[20:41], atol=2)
        streamed = [moment for moment, _ in iter_video(joined)]
        np.testing.assert_allclose(streamed, video.timestamps, atol=1e-6)


@pytest.mark.parametrize("later", [4_000, 400_000])
def test_a_jump_forward_is_a_joint_too(tmp_path, later):
    one = record(tmp_path / "1.ts", range(20, 40)).read_bytes()
    two = record(tmp_path / "2.ts", range(120, 140), start=later).read_bytes()
    (tmp_path / "joined.ts").write_bytes(one + two)
    video = read_video(tmp_path / "joined.ts", None, None)
    assert len(video.frames) == 40 and video.timestamps[-1] == pytest.approx(3.9, abs=0.1)


def test_a_stream_past_the_33rd_bit_is_whole(tmp_path):
    video = read_video(record(tmp_path / "wrap.ts", range(20, 70), start=954_412), None, None)
    np.testing.assert_allclose(video.timestamps, np.arange(50) / 10, atol=0.01)
    np.testing.assert_allclose(levels(video), range(20, 70), atol=2)


def test_reordered_frames_of_an_avi_have_their_true_times(tmp_path):
    def reorder(stream):
        stream.codec_context.max_b_frames = 3

    path = record(tmp_path / "b.avi", range(20, 60, 2), setup=reorder, bf="3")
    video = read_video(path, None, None)
    np.testing.assert_allclose(video.timestamps, np.arange(20) / 10, atol=1e-6)
    np.testing.assert_allclose(levels(video), range(20, 60, 2), atol=2)


def test_a_palette_of_the_first_packet_holds_throughout(tmp_path):
    path = tmp_path / "p.avi"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("rawvideo", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "pal8"
        for number in range(30):
            frame = av.VideoFrame(64, 64, "pal8")
            frame.planes[0].update(bytes([number]) * frame.planes[0].buffer_size)
            frame.planes[1].update(bytes(b for i in range(256) for b in (i, 128, 255 - i, 255)))
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    whole, later = read_video(path, None, None), read_video(path, None, None, start=2.0)
    np.testing.assert_array_equal(later.frames, whole.frames[20:])
    assert later.frames[0, 0, 0].tolist() == [235, 128, 20]


@pytest.mark.parametrize("name", ["2024-05-01T10:20:30.mp4", "%03d.mp4", "-x.mp4", "a b#c?.mp4",
                                  "file:x.mp4", "concat:a|b.mp4", "[x].mp4"])
def test_a_name_is_only_a_name(tmp_path, monkeypatch, name):
    record(tmp_path / "fine.mp4", [40] * 4).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_video(name, None, None).frames) == 4


@pytest.mark.parametrize("tag", ["YCgCo", "bt2020c", "bt2020nc", "chroma-derived-nc", "smpte240m",
                                 "fcc", "GBR"])
def test_colours_of_every_tag_are_read(tmp_path, tag):
    path = record(tmp_path / "c.mkv", [40, 90, 200], **{"x264-params": f"colormatrix={tag}"})
    assert read_video(path, None, None).frames.shape == (3, 48, 64, 3)


def test_files_that_may_not_be_read_say_so(tmp_path, monkeypatch):
    path = record(tmp_path / "v.mp4", [40] * 3)
    with pytest.raises(InputError, match="it is a folder"):
        read_video(tmp_path)
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    with pytest.raises(InputError, match="no such file"):
        read_video(tmp_path / "gone.mp4")

    def refused(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refused)
    for read in (read_video, read_image):
        with pytest.raises(InputError, match="v.mp4: it cannot be read.*permissions"):
            read(path)


def photo(orientation=None, extra=(), **save):
    """A JPEG whose left half is red; EXIF entries as (tag, type, count, value)."""
    picture = PIL.Image.new("RGB", (64, 32), "blue")
    picture.paste("red", (0, 0, 32, 32))
    entries = [*([struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)] if orientation else ()),
               *extra]
    exif = (b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(sorted(entries))
            + bytes(12))
    out = io.BytesIO()
    picture.save(out, "JPEG", exif=exif, quality=95, **save)
    return out.getvalue()


@pytest.mark.parametrize("extra", [
    struct.pack("<HHII", 0x9204, 10, 1, 0), struct.pack("<HHII", 0x10F, 5, 1, 0),
    struct.pack("<HHII", 0x10F, 2, 1 << 30, 38), struct.pack("<HHII", 0x8769, 4, 1, 1 << 20),
    struct.pack("<HHII", 0x11A, 5, 1, 0), struct.pack("<HHII", 0x9999, 99, 7, 0),
], ids=["bias", "maker", "length", "pointer", "resolution", "type"])
def test_impossible_exif_does_not_cost_the_picture(extra):
    for orientation, shape in ((None, (32, 64)), (6, (64, 32))):
        data = photo(orientation, [extra])
        pixels = decode_image(data).pixels
        assert pixels.shape[:2] == image_size(data) and pixels.shape[:2] in (shape, (32, 64))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_turn_nothing(orientation):
    assert decode_image(photo(orientation)).pixels.shape == (32, 64, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright(orientation):
    data = photo(orientation)
    with PIL.Image.open(io.BytesIO(data)) as image:
        truth = np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode_image(data).pixels, truth)
    assert image_size(data) == truth.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(orientation):
    picture = PIL.Image.new("RGB", (64, 32), "blue")
    picture.paste("red", (0, 0, 32, 16))
    exif, out = PIL.Image.Exif(), io.BytesIO()
    exif[0x112] = orientation
    picture.save(out, "TIFF", exif=exif)
    with PIL.Image.open(io.BytesIO(out.getvalue())) as image:
        truth = np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode_image(out.getvalue()).pixels, truth)
    assert image_size(out.getvalue()) == truth.shape[:2]


@pytest.mark.parametrize("compressed", [True, False])
def test_a_png_with_much_text_is_a_picture(compressed):
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (2 << 20), zip=compressed)
    text.add_itxt("more", "y" * (2 << 20), zip=compressed)
    out = io.BytesIO()
    PIL.Image.new("RGB", (8, 8), "red").save(out, "PNG", pnginfo=text)
    assert decode_image(out.getvalue()).pixels[0, 0].tolist() == [255, 0, 0]


def test_the_limit_on_pixels_is_ours_and_is_told(monkeypatch):
    out = io.BytesIO()
    PIL.Image.new("L", (300, 200)).save(out, "PNG")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    assert decode_image(out.getvalue()).pixels.shape == (200, 300, 3)
    assert PIL.Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(media, "MOST_PIXELS", 50_000)
    with pytest.raises(InputError, match="here: it has 300 x 200 pixels, more than 50,000"):
        decode_image(out.getvalue(), "here")



@pytest.mark.parametrize(("name", "codec", "pixels", "form"), [
    ("cam.avi", "mjpeg", "yuvj420p", "JPEG"), ("cam.mov", "png", "rgb24", "PNG")])
def test_frames_that_carry_exif_are_read(tmp_path, name, codec, pixels, form):
    """As cameras write them; PyAV has no name for such side data."""
    exif = PIL.Image.Exif()
    exif[0x10F] = "Camera"
    with av.open(tmp_path / name, "w") as out:
        stream = out.add_stream(codec, rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = pixels
        for number in range(6):
            data = io.BytesIO()
            picture = PIL.Image.fromarray(np.full((64, 64, 3), 30 * number + 5, np.uint8))
            picture.save(data, form, exif=exif)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts = stream, number, number
            packet.time_base, packet.is_keyframe = Fraction(1, 10), True
            out.mux(packet)
    shown = [int(frame.mean()) for frame in read_video(tmp_path / name, None, None).frames]
    assert np.abs(np.subtract(shown, [30 * number + 5 for number in range(6)])).max() <= 2


def test_pictures_of_float_levels(tmp_path):
    path = tmp_path / "shares.tif"
    PIL.Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(path)
    pixels = read_image(path).pixels
    assert pixels.min() == 0 and pixels.max() == 255
    for levels in (np.full((8, 8), 7.5, np.float32), np.full((8, 8), 4_000_000, np.int32)):
        PIL.Image.fromarray(levels).save(path)
        with pytest.raises(InputError, match="levels are of 32 bits"):
            read_image(path)
