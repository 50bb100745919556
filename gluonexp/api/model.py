"""What a run exported, loaded to classify images."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gluonexp.api import values
from gluonexp.base.errors import GluonexpError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from gluonexp.api.recorded import Run
    from gluonexp.api.sweeps import Sweep

    # An image by its name, and its pixels (H, W, C) uint8 in the size that the network takes.
    Named = tuple[str | int, NDArray[np.uint8]]

# As `gluonexp predict` does.
_RUNTIME: Final = "module"


class Model:
    """An export, loaded once for many calls.

    Calling it classifies images: ``model(images)`` is ``model.predict(images)``.

    Parameters
    ----------
    model, runtime
        As for `gluonexp.api.load`.

    Attributes
    ----------
    classes
        The names of the K classes, in the order of `probabilities`.
    shape
        Height, width and channels of the images that the network takes. Others are stretched to
        this size, and turned to grey or RGB, as `gluonexp predict` does.
    folder
        The export's files, on this machine.

    Examples
    --------
    >>> import gluonexp.api as gx
    >>> model = gx.load("last")  # doctest: +SKIP
    >>> model.predict("photos/", top=3)  # doctest: +SKIP
    >>> model.probabilities(images).shape  # doctest: +SKIP
    (360, 10)
    """

    def __init__(self, model: str | Path | Run | Sweep, runtime: str | None = None) -> None:
        from gluonexp.inference.opening import opened
        from gluonexp.inference.predict import Classifier
        from gluonexp.model_folder.names import RUNTIMES

        runtime = runtime or _RUNTIME
        if runtime not in [*RUNTIMES]:
            raise GluonexpError(f"runtime={runtime}: there is {', '.join(RUNTIMES)}")
        ref, uri = _named(model)
        with ExitStack() as stack:
            found = stack.enter_context(opened(ref, uri))
            self._classifier = Classifier(found.folder, runtime)
            kept = stack.pop_all()
        weakref.finalize(self, kept.close)  # what was downloaded for it
        self._ref, self._runtime = ref, runtime
        self.folder: Path = found.folder
        self.classes: tuple[str, ...] = tuple(self._classifier.classes)
        self.shape: tuple[int, int, int] = self._classifier.shape

    def __call__(self, images: Any, top: int = 1) -> pd.DataFrame:
        """Classify images; see `predict`."""
        return self.predict(images, top)

    def predict(self, images: Any, top: int = 1) -> pd.DataFrame:
        """Classify images: a row each.

        Parameters
        ----------
        images
            An array of uint8, (N, H, W, C) or (N, H, W) of several images, (H, W, C) or (H, W) of
            one; a file, a folder (the images in and below it), a pattern such as ``"*.png"``; an
            image of Pillow's; or a list of any of these.
        top
            How many classes to name.

        Returns
        -------
        pandas.DataFrame
            ``image`` (the file, or the image's number), ``class`` and ``probability`` of the
            likeliest; with `top` also ``class.2``, ``probability.2``... of the next.

        Raises
        ------
        GluonexpError
            What is given is no image, or a file cannot be read as one.
        """
        import numpy as np
        import pandas as pd

        top = values.whole("top", top)
        names, rows = self._classified(images)
        order = np.argsort(-rows, axis=1, kind="stable")[:, :top]
        columns: dict[str, Any] = {"image": names}
        classes = np.array(self.classes, dtype=object)
        for rank in range(order.shape[1]):
            end = f".{rank + 1}" if rank else ""
            columns[f"class{end}"] = classes[order[:, rank]]
            columns[f"probability{end}"] = np.take_along_axis(rows, order[:, rank : rank + 1], 1)[
                :, 0
            ]
        found: pd.DataFrame = pd.DataFrame(columns)
        return found

    def probabilities(self, images: Any) -> NDArray[np.float64]:
        """Return the probability of each class, (N, K).

        Parameters
        ----------
        images
            As for `predict`.

        Raises
        ------
        GluonexpError
            What is given is no image, or a file cannot be read as one.
        """
        return self._classified(images)[1]

    def _classified(self, images: Any) -> tuple[list[str | int], NDArray[np.float64]]:
        """Return the name and the probabilities of each image, computed a batch at a time."""
        import numpy as np

        from gluonexp.inference.predict import BATCH

        names: list[str | int] = []
        parts: list[NDArray[np.float64]] = [np.empty((0, len(self.classes)))]
        waiting: list[NDArray[np.uint8]] = []

        def classify() -> None:
            parts.append(self._classifier.probabilities(np.stack(waiting)))
            waiting.clear()

        for name, pixels in self._each(images, 0):
            names.append(name)
            waiting.append(pixels)
            if len(waiting) == BATCH:
                classify()
        if waiting:
            classify()
        return names, np.concatenate(parts)

    def _each(self, images: Any, number: int) -> Iterator[Named]:
        """Yield each image; `number` is that of the first, where it has no other name."""
        from PIL import Image

        from gluonexp.data.images import decode, fitted

        if isinstance(images, str | os.PathLike):
            from gluonexp.inference.predict import image_files

            for path in image_files([os.fspath(images)]):
                yield str(path), decode(path, *self.shape)
        elif isinstance(images, Image.Image):
            yield number, fitted(images, *self.shape)
        elif isinstance(images, list | tuple):
            for one in images:
                for name, pixels in self._each(one, number):
                    yield name, pixels
                    number += 1
        else:
            for pixels in self._pixels(images):
                yield number, pixels
                number += 1

    def _pixels(self, images: Any) -> Iterator[NDArray[np.uint8]]:
        """Yield the images of an array, in the size that the network takes."""
        from PIL import Image

        from gluonexp.data.images import fitted

        array = _array(images)
        several = array[None] if _is_one(array.shape, self.shape) else array
        if several.ndim == 3:
            several = several[..., None]
        if several.ndim != 4 or several.shape[3] not in (1, 3, 4) or 0 in several.shape[1:3]:
            raise GluonexpError(
                f"an array of shape {array.shape} is no image: (N, H, W, C), (H, W, C) or (H, W), "
                "with C of 1, 3 or 4"
            )
        for one in several:
            if one.shape == self.shape:
                yield one
            else:
                yield fitted(
                    Image.fromarray(one[..., 0] if one.shape[2] == 1 else one), *self.shape
                )

    def __repr__(self) -> str:
        height, width, channels = self.shape
        named = f"{len(self.classes)} classes of images {height}x{width}x{channels}"
        return f"<Model {self._ref}: {named}, runtime {self._runtime}>"


def _named(model: str | Path | Run | Sweep) -> tuple[str, str | None]:
    """Return the name of a model for the commands, and the store it is in."""
    from gluonexp.api.recorded import Run
    from gluonexp.api.sweeps import Sweep

    if isinstance(model, Sweep):
        best = model.best
        if best is None:
            raise GluonexpError(f"{model!r} has no best run")
        model = best
    if isinstance(model, Run):
        if model.id is None:
            return f"{model.folder}/artifacts", None
        return model.id, model.uri
    if not isinstance(model, str | os.PathLike) or not str(model).strip():
        raise GluonexpError(
            f"{model!r} names no model: give a run, 'last', an id, 'models:/NAME@ALIAS', or the "
            "folder of an export"
        )
    ref = os.fspath(model)
    if isinstance(model, Path) and not model.is_dir():
        raise GluonexpError(f"{model}: there is no such folder")
    return ref, os.environ.get("MLFLOW_TRACKING_URI")


def _array(images: Any) -> NDArray[np.uint8]:
    """Return images of NumPy's, MXNet's or another library's as an array.

    Raises
    ------
    GluonexpError
        They are no numbers of 0 to 255 in uint8.
    """
    import numpy as np

    if hasattr(images, "asnumpy"):  # MXNet
        images = images.asnumpy()
    array = np.asarray(images)
    if array.dtype != np.uint8:
        if array.dtype.kind not in "fiub":
            raise GluonexpError(
                f"{type(images).__name__} is no image: give an array, a file, a folder, an image "
                "of Pillow's, or a list of these"
            )
        raise GluonexpError(
            f"images are arrays of uint8, 0 to 255, as they are in files; this one is "
            f"{array.dtype}: convert it, such as (255 * images).round().astype('uint8') from "
            "0 to 1"
        )
    return array


def _is_one(shape: Sequence[int], taken: tuple[int, int, int]) -> bool:
    """Tell whether an array of this shape is one image, for a network that takes `taken`."""
    if len(shape) != 3:
        return len(shape) == 2
    grey = taken[2] == 1 and tuple(shape[1:]) == taken[:2]  # (N, H, W), whatever W is
    return shape[2] in (1, 3, 4) and not grey
