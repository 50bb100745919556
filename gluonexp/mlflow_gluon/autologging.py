"""What `gluon.contrib.estimator` trains, recorded by itself: parameters, metrics, the model.

All that is used of MLflow's inside is `mlflow.utils.autologging_utils`, which MLflow's own flavors
are made of: it starts a run where there is none, and lets no error of the recording end a
training. MLflow does not promise it to others; it is that of MLflow 3.17.2.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from gluonexp.base.mx import gluon, nd
from gluonexp.inference.flavor import FLAVOR_NAME

# So many inputs of the first batch are the example by which the model is proved.
_EXAMPLES = 8


def autolog(
    log_models: bool = True,
    disable: bool = False,
    exclusive: bool = False,
    disable_for_unsupported_versions: bool = False,
    silent: bool = False,
    registered_model_name: str | None = None,
) -> None:
    """Record from now on what `gluon.contrib.estimator.Estimator.fit` trains.

    The parameters ``num_layers``, ``epochs``, ``batches``, ``optimizer_name``, ``learning_rate``
    and ``epsilon``, as far as there are such; all metrics of the estimator by epoch, under their
    own names (``training accuracy``); and the network, as `log_model` keeps it, with some inputs
    of the first batch as its example. It goes to the active run, or else to one of its own, which
    ends with the training.

    Parameters
    ----------
    log_models
        Whether the network is kept, too.
    disable
        Record nothing any more.
    exclusive
        Record nothing in runs that the user began.
    disable_for_unsupported_versions
        Without effect: MLflow had it, and there is one version of MXNet left.
    silent
        Let MLflow say nothing of it.
    registered_model_name
        The network is registered as a new version of this model, if given.
    """
    given = locals()
    import mlflow
    from mlflow.utils.autologging_utils import autologging_integration, batch_metrics_logger
    from mlflow.utils.autologging_utils.safety import safe_patch

    def fit(original: Any, self: Any, *args: Any, **kwargs: Any) -> Any:
        run = mlflow.active_run()
        assert run is not None  # it is managed
        with batch_metrics_logger(run.info.run_id) as log:
            recorder = _recorder(log, log_models, registered_model_name)
            args, kwargs = _with_handler(recorder, args, kwargs)
            return original(self, *args, **kwargs)

    @wraps(autolog)  # MLflow reads the arguments from the signature, and keeps their values
    def patch(**_: Any) -> None:
        estimator = gluon.contrib.estimator.Estimator
        safe_patch(FLAVOR_NAME, estimator, "fit", fit, manage_run=True)  # type: ignore[no-untyped-call]

    integration = autologging_integration(FLAVOR_NAME)  # type: ignore[no-untyped-call]
    integration(patch)(**given)


def _with_handler(
    handler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of `fit` with one more event handler, in a list of its own."""
    place = 3  # fit(train_data, val_data, epochs, event_handlers, ...)
    given = args[place] if len(args) > place else kwargs.get("event_handlers")
    several = list(given) if isinstance(given, list | tuple) else [given] if given else []
    several.append(handler)
    if len(args) > place:
        return (*args[:place], several, *args[place + 1 :]), kwargs
    return args, {**kwargs, "event_handlers": several}


def _recorder(log: Any, log_models: bool, registered_model_name: str | None) -> Any:
    """Return the event handler that records one training."""
    import mlflow
    from mlflow.utils.autologging_utils.safety import ExceptionSafeClass

    events: Any = gluon.contrib.estimator

    # The estimator takes every attribute with "metric" in its name for one of its own metrics.
    handlers = (events.TrainBegin, events.BatchBegin, events.EpochEnd, events.TrainEnd)

    class Recorder(*handlers, metaclass=ExceptionSafeClass):  # type: ignore[misc]
        def __init__(self) -> None:
            self.epoch = 0
            self.seen = _Seen()

        def train_begin(self, estimator: Any, *args: Any, **kwargs: Any) -> None:
            mlflow.log_params(_parameters(estimator))

        def batch_begin(self, estimator: Any, *args: Any, **kwargs: Any) -> None:
            if log_models and estimator.batch_axis == 0:
                self.seen.batch(kwargs.get("batch"))

        def epoch_end(self, estimator: Any, *args: Any, **kwargs: Any) -> None:
            measured = (
                each
                for each in (*estimator.train_metrics, *estimator.val_metrics)
                if getattr(each, "num_inst", 1)  # 0: there are no such data
            )
            values = dict(pair for each in measured for pair in each.get_name_value())
            log.record_metrics(values, self.epoch)
            self.epoch += 1

        def train_end(self, estimator: Any, *args: Any, **kwargs: Any) -> None:
            from gluonexp import mlflow_gluon

            if log_models and isinstance(estimator.net, gluon.HybridBlock):
                mlflow_gluon.log_model(
                    estimator.net,
                    name="model",
                    input_example=self.seen.example,
                    input_shape=self.seen.shape,
                    registered_model_name=registered_model_name,
                )

    return Recorder()


class _Seen:
    """What came along in batches: some inputs, and which sides of them are always the same."""

    def __init__(self) -> None:
        self.example: nd.NDArray | None = None
        self._sides: tuple[int | None, ...] = ()

    def batch(self, batch: Any) -> None:
        """Look at a batch as a DataLoader gives it: (data, labels)."""
        data = batch[0] if isinstance(batch, list | tuple) and batch else None
        if not isinstance(data, nd.NDArray):
            return
        if self.example is None:
            self.example, self._sides = data[:_EXAMPLES].copy(), data.shape[1:]
        elif len(data.shape) == len(self._sides) + 1:
            pairs = zip(self._sides, data.shape[1:], strict=True)
            self._sides = tuple(side if side == other else None for side, other in pairs)

    @property
    def shape(self) -> tuple[int | None, ...] | None:
        """Of one input; None if no batch was one of arrays."""
        return None if self.example is None else self._sides


def _parameters(estimator: Any) -> dict[str, Any]:
    """Return the parameters of a training under the names that `mlflow.gluon` gave them."""
    optimizer = estimator.trainer.optimizer
    found = {
        "num_layers": len(estimator.net) if hasattr(estimator.net, "__len__") else None,
        "epochs": estimator.max_epoch,
        "batches": estimator.max_batch,
        "optimizer_name": type(optimizer).__name__,
        "learning_rate": getattr(optimizer, "lr", None),
        "epsilon": getattr(optimizer, "epsilon", None),
    }
    return {name: value for name, value in found.items() if value is not None}
