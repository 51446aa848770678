"""Many pictures from one figure: what stays is drawn once, what moves is drawn under it for each picture; as GIF or MP4."""

from __future__ import annotations

import io
import os
from collections import Counter
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


def in_few_colours(frames: Sequence[Image.Image], most: int) -> list[Image.Image]:
    """RGB images in one palette, of the colours that they have most of: flat areas, colour bars and the white page keep theirs exactly.

    Palettes of averages lend a colour bar the shades of what is more frequent in the map. Of colours that differ by less than 4 in every
    part only the most frequent one is taken, since Pillow does not tell them apart.
    """
    counts: Counter[tuple[int, int, int]] = Counter()
    for frame in frames:
        for count, colour in frame.getcolors(frame.width * frame.height) or []:
            counts[colour] += count  # type: ignore[index]
    chosen: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for colour, _ in counts.most_common():
        chosen.setdefault((colour[0] // 4, colour[1] // 4, colour[2] // 4), colour)
        if len(chosen) == most:
            break
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in chosen.values() for part in colour])
    place = np.full(1 << 24, -1, np.int16)  # of the palette's own colours, which Pillow may take for a neighbour
    place[[_packed(colour) for colour in chosen.values()]] = np.arange(len(chosen))
    flat = []
    for frame in frames:
        near = frame.quantize(palette=palette, dither=Image.Dither.NONE)
        own = place[_packed(np.moveaxis(np.asarray(frame, np.int32), -1, 0))]
        exact = Image.fromarray(np.where(own >= 0, own, np.asarray(near)).astype(np.uint8))
        exact.putpalette(near.getpalette() or [])
        flat.append(exact)
    return flat


def _packed(colour: Any) -> Any:
    """Red, green and blue as one whole number."""
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def as_gif(frames: Sequence[Image.Image], fps: float) -> bytes:
    """Frames of equal size as an endless GIF with one palette."""
    flat = in_few_colours(frames, 256)
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
