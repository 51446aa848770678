"""Pictures of a training under way: a map of a forecast beside the truth and energy spectra, at each validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import ForecastError
from ..training.shown import Shown


def draw_validation(folder: Path, attrs: Mapping[str, str], echo: Callable[[str], None], shown: Shown, train_step: int) -> None:
    """Write `step-N_CHANNEL.png` and `step-N_CHANNEL_spectrum.png` for each channel. One that cannot be drawn is said; the training goes on.

    Args:
        folder: made when it does not exist.
        attrs: of the data: title, source.
        echo: prints a line.
        shown: of the validation.
        train_step: names the files.
    """
    from ..plot.choices import Look
    from ..plot.maps import plot_compare
    from ..plot.spectra import plot_spectra

    forecast, truth = shown.forecast.assign_attrs(attrs), shown.truth.assign_attrs(attrs)
    spectra = None if shown.spectra is None else shown.spectra.assign_attrs(attrs)
    try:
        folder.mkdir(exist_ok=True)
        for name in shown.names:
            plot_compare(forecast, truth, name, folder / f"step-{train_step}_{name}.png", look=Look(dpi=90))
            if spectra is not None:
                plot_spectra(spectra, name, folder / f"step-{train_step}_{name}_spectrum.png", dpi=90)
    except ForecastError as error:
        echo(f"note: a picture of the validation was not drawn: {error.what} ({error.where})")
    except OSError as error:
        echo(f"note: a picture of the validation was not drawn: {error.strerror or error} ({folder})")
