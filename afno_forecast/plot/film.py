"""Many pictures from one figure: what stays is drawn once, what moves is drawn under it for each picture; as GIF or MP4."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..errors import ResourceError


class Film:
    """Pictures of one figure whose moving artists lie below all that stays.

    Args:
        figure: with its Agg canvas, drawn upon already.
        moving: the artists that change; they must not overlap what stays in a way that needs them on top.
    """

    def __init__(self, figure: Figure, moving: Iterable[Any]) -> None:
        self._canvas: Any = figure.canvas
        artists = [a for a in moving if a.get_visible()]
        for artist in artists:
            artist.set_visible(False)
        figure.patch.set_alpha(0)
        self._canvas.draw()
        self._still = self._drawn()
        figure.patch.set_alpha(None)
        for artist in artists:
            artist.set_visible(True)

    def _drawn(self) -> Image.Image:
        return Image.fromarray(np.array(self._canvas.buffer_rgba()))

    def picture(self, moving: Iterable[Any]) -> Image.Image:
        """The figure with its moving artists as they are now, drawn in this order, as an RGB image."""
        renderer = self._canvas.get_renderer()
        renderer.clear()
        for artist in moving:
            artist.draw(renderer)
        drawn = self._drawn()
        page = Image.new("RGBA", drawn.size, "white")
        page.alpha_composite(drawn)
        page.alpha_composite(self._still)
        return page.convert("RGB")


def as_gif(frames: Sequence[Image.Image], fps: float) -> bytes:
    """Frames of equal size as an endless GIF with one palette of 256 colours, made from the first, middle and last frame."""
    picks = [frames[0], frames[len(frames) // 2], frames[-1]]
    sheet = Image.new("RGB", (frames[0].width, frames[0].height * len(picks)))
    for i, frame in enumerate(picks):
        sheet.paste(frame, (0, i * frame.height))
    palette = sheet.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    colours = palette.getpalette() or []
    palette.putpalette([255 if min(colours[i - i % 3: i - i % 3 + 3]) >= 248 else v for i, v in enumerate(colours)])  # the page stays white
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    each = round(1000 / fps)
    buffer = io.BytesIO()
    durations = [each] * (len(flat) - 1) + [each + 1000]
    flat[0].save(buffer, format="GIF", save_all=True, append_images=flat[1:], duration=durations, loop=0, optimize=False)
    return buffer.getvalue()


def write_mp4(out: Path, frames: Sequence[Image.Image], fps: float) -> Path:
    """Frames of equal size as H.264 video that any browser plays; the last one stays for a second. The file appears whole.

    Raises:
        ResourceError: the extra [video] is not installed, or the file cannot be written.
    """
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise ResourceError("MP4 needs the extra [video]", where=str(out), fix='pip install "afno-forecast[video]", or end --out in .gif') from error
    width, height = frames[0].size
    size = (width + width % 2, height + height % 2)  # the colour planes have half the pixels
    part = out.with_name(f".{out.stem}.{os.getpid()}.part.mp4")
    try:
        writer = imageio_ffmpeg.write_frames(str(part), size, fps=fps, codec="libx264", quality=8, macro_block_size=2)
        writer.send(None)
        for frame in [*frames, *[frames[-1]] * max(1, round(fps))]:
            page = Image.new("RGB", size, "white")
            page.paste(frame)
            writer.send(page.tobytes())
        writer.close()
        part.replace(out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(f"could not write the video: {error.strerror or error}", where=str(out),
                            fix="free space or give another folder") from error
    return out
