"""The handwritten digits that come with scikit-learn: real data without a download."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from gluonexp.base.errors import GluonexpError
from gluonexp.data.split import carve
from gluonexp.data.types import Samples, Spec, Split

TEST_FRACTION = 0.2
TEST_SEED = 0


@dataclass(frozen=True)
class Digits:
    """1,797 handwritten digits, 8x8 pixels of 17 grey levels, enlarged.

    They are the test part of "Optical Recognition of Handwritten Digits" (UCI Machine Learning
    Repository, E. Alpaydin and C. Kaynak, CC BY 4.0). scikit-learn publishes no train/test
    split, so 20 % of each class is the test split here, drawn with a fixed seed: the same for
    everybody, whatever the run's own seed. Both splits hold the same writers.

    Parameters
    ----------
    size
        Height and width to enlarge to, pixels (bilinear).
    """

    size: int = 28

    def spec(self) -> Spec:
        """Return the shape after enlarging and the ten digits.

        Raises
        ------
        GluonexpError
            If `size` is below 1.
        """
        if self.size < 1:
            raise GluonexpError(f"dataset.source.size must be at least 1, got {self.size}")
        return Spec(self.size, self.size, 1, tuple("0123456789"))

    def load(self) -> Samples:
        """Read the bundled images, enlarge them and split them."""
        self.spec()
        table = np.loadtxt(_file(), delimiter=",")
        labels = table[:, -1].astype(np.int64)
        # Grey levels 0..16 -> 0..255.
        small = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        shape, smooth = (self.size, self.size), Image.Resampling.BILINEAR
        enlarged = [np.asarray(Image.fromarray(image).resize(shape, smooth)) for image in small]
        images = np.stack(enlarged)[..., np.newaxis]
        train, test = carve(Split(images, labels), TEST_FRACTION, TEST_SEED)
        return Samples(train, test, title="scikit-learn digits")


def _file() -> Path:
    """Return the file that `sklearn.datasets.load_digits` reads; to import that takes a second."""
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise GluonexpError("dataset=digits reads its images from scikit-learn: install it")
    return Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
