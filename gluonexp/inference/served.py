"""What MLflow's pyfunc and its server ask, where the network takes no images; how both refuse."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gluonexp.base.errors import GluonexpError
from gluonexp.graph.symbols import classic
from gluonexp.model_folder.signature import ArraySignature, as_float
from gluonexp.verification.runtimes import Runtime

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.exceptions import MlflowException


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
