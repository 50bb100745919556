"""What MLflow's pyfunc and its server ask of a network, and how both refuse."""

from __future__ import annotations

import base64
import binascii
import io
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.data.images import MAX_PIXELS, TooLargeImageError, UnreadableImageError, decode
from gluonexp.graph.symbols import classic
from gluonexp.inference.predict import Classifier
from gluonexp.model_folder.signature import ArraySignature, as_float
from gluonexp.verification.runtimes import Runtime

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.exceptions import MlflowException

IMAGES: Final = "images"  # the name of the input


class ServedImages:
    """A classifier as MLflow's pyfunc: images in, a table out.

    Requests come in several threads, and MXNet's executors serve one at a time.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._turn = threading.Lock()

    def get_raw_model(self) -> Classifier:
        """Return the classifier itself."""
        return self._classifier

    def predict(self, model_input: Any) -> pd.DataFrame:
        """Return for each image its class, that class's probability, and those of all classes.

        Parameters
        ----------
        model_input
            Whole numbers from 0 to 255, of shape (N, H, W, C), or (N, H, W) where C is 1, as an
            array or as lists; or the contents of N image files in base64. Alone or as
            ``{"images": ...}``.

        Returns
        -------
        pandas.DataFrame
            A row for each image. Classes of one name (ImageNet has two cranes) get their numbers,
            ``crane #134``: each has a probability of its own.

        Raises
        ------
        MlflowException
            It is something else; a server answers 400 with the message.
        """
        import pandas as pd

        given = model_input
        if isinstance(given, dict | pd.DataFrame):
            given = given.get(IMAGES)
        try:
            images = self._images(given)
        except GluonexpError as error:
            raise refusal(str(error)) from None
        with self._turn, classic():
            table = self._classifier.probabilities(images)
        classes = _told_apart(self._classifier.classes)
        answer: pd.DataFrame = pd.DataFrame(
            {
                "class": [classes[index] for index in table.argmax(axis=1)],
                "probability": table.max(axis=1),
                "probabilities": [dict(zip(classes, row, strict=True)) for row in table.tolist()],
            }
        )
        return answer

    def _images(self, given: Any) -> NDArray[np.uint8]:
        """Return images (N, H, W, C) uint8, or say what is wrong with what was given."""
        height, width, channels = self._classifier.shape
        shapes = f"(N, {height}, {width}, {channels})"
        if channels == 1:
            shapes += f" or (N, {height}, {width})"
        wanted = f"wanted are images of shape {shapes} and type uint8, whole numbers 0 to 255"

        array = np.asarray(given, dtype=object) if isinstance(given, list) else np.asarray(given)
        if array.dtype == object:
            values = array.tolist()
            if array.ndim == 1 and len(array) and all(isinstance(v, str) for v in values):
                return np.stack([_decoded(v, self._classifier.shape) for v in values])
            try:
                array = np.asarray(values)
            except ValueError:  # lists of unequal lengths
                raise GluonexpError(f"{wanted}; these have no common shape") from None
        came = f"{wanted}; these are of shape {array.shape} and type {array.dtype}"
        one = [(height, width, channels), *([(height, width)] if channels == 1 else [])]
        if array.shape in one or (array.shape == () and array.dtype.kind == "U"):
            came += "; one image? wrap it in a list: [image]"
        if array.dtype.kind == "f" and array.size and 0 <= array.min() <= array.max() <= 1:
            came += "; values from 0 to 1? multiply them by 255 and round them to whole numbers"
        if array.ndim == 3 and channels == 1:
            array = array[..., np.newaxis]
        fits = array.shape[1:] == self._classifier.shape and len(array)
        if not fits or array.dtype.kind not in "iu":
            raise GluonexpError(came)
        if array.min() < 0 or array.max() > 255:
            raise GluonexpError(f"{came}, from {array.min()} to {array.max()}")
        return array.astype(np.uint8)


class ServedArrays:
    """A network as MLflow's pyfunc: numbers in, numbers out, as MLflow's own Gluon flavor had it.

    Requests come in several threads, and MXNet's executors serve one at a time.
    """

    def __init__(self, run: Runtime, signature: ArraySignature) -> None:
        self._run, self._signature = run, signature
        self._turn = threading.Lock()

    def predict(self, model_input: Any) -> NDArray[np.float32] | pd.DataFrame:
        """Return what the network makes of each of N inputs.

        Parameters
        ----------
        model_input
            An array, lists, or a table with a row for each input; alone or by one name.

        Returns
        -------
        numpy.ndarray or pandas.DataFrame
            (N, ...) float32; a table of a table, if each input has one row of outputs.

        Raises
        ------
        MlflowException
            It is something else; a server answers 400 with the message.
        """
        import pandas as pd

        given: Any = model_input
        if isinstance(given, dict) and len(given) == 1:
            (given,) = given.values()
        try:
            inputs = self._numbers(given.to_numpy() if isinstance(given, pd.DataFrame) else given)
            with self._turn, classic():
                answers = self._run(inputs)
        except GluonexpError as error:
            raise refusal(str(error)) from None
        if isinstance(given, pd.DataFrame) and answers.ndim == 2:
            names = self._signature.classes or None
            table: pd.DataFrame = pd.DataFrame(answers, index=given.index, columns=names)
            return table
        return answers

    def _numbers(self, given: Any) -> NDArray[np.float32]:
        try:
            array = np.asarray(given)
            if array.dtype == object:
                array = np.asarray(array.tolist())
        except ValueError:  # lists of unequal lengths
            raise GluonexpError(f"{self._wanted()}; these have no common shape") from None
        if array.dtype.kind not in "fiub" or not self._signature.fits(array.shape):
            came = f"these are of shape {array.shape} and type {array.dtype}"
            raise GluonexpError(f"{self._wanted()}; {came}")
        if self._signature.whole and (array != np.floor(array)).any():
            raise GluonexpError(f"{self._wanted()}; among these is {array[array % 1 != 0][0]}")
        return as_float(array)

    def _wanted(self) -> str:
        return f"wanted are {self._signature.takes}"


def refusal(sentence: str) -> MlflowException:
    """Return the error for which a server answers 400, with `sentence` and nothing else."""
    from mlflow.exceptions import MlflowException

    class Refusal(MlflowException):
        """MLflow's server would put all the data that came before the message: it stays."""

        @property
        def message(self) -> str:
            return sentence

        @message.setter
        def message(self, changed: str) -> None:
            pass

    refusal: MlflowException = Refusal.invalid_parameter_value(sentence)
    return refusal


def _told_apart(classes: Sequence[str]) -> list[str]:
    """Return the names of classes; of those that share one, each with its number."""
    times = Counter(classes)
    return [
        name if times[name] == 1 else f"{name} #{number}" for number, name in enumerate(classes)
    ]


def _decoded(text: str, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    try:
        content = base64.b64decode(text, validate=True)
        return decode(io.BytesIO(content), *shape)
    except TooLargeImageError:
        raise GluonexpError(
            f"an image given in base64 has more than {MAX_PIXELS:,} pixels"
        ) from None
    except (binascii.Error, UnreadableImageError):
        raise GluonexpError(
            "an image given as text must be a JPEG, PNG, WebP or BMP file in base64"
        ) from None
