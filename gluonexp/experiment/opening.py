"""What every run begins with: the network, the tracked run, the data; all recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from gluonexp import assembly, freeze, tracking
from gluonexp.assembly import Components, Data, engines, networks
from gluonexp.base.errors import GluonexpError
from gluonexp.base.provenance import provenance
from gluonexp.base.secrets import hidden_words
from gluonexp.base.text import in_shell, tell
from gluonexp.config.computing import libraries
from gluonexp.config.schema import Config
from gluonexp.data.types import Spec
from gluonexp.experiment import record, resume, show
from gluonexp.features.shortcut import Shortcut
from gluonexp.freeze import FreezePlan
from gluonexp.model_folder.signature import Preprocessing
from gluonexp.models.layers import outline
from gluonexp.models.outline import Outline
from gluonexp.tracking import Tracker, recovery, tracked_run
from gluonexp.tracking.notify import Told, telling
from gluonexp.tracking.statuses import Ending
from gluonexp.training import job_folder, loop
from gluonexp.training.callbacks import Checkpoint
from gluonexp.training.engine import Engine
from gluonexp.training.frozen import Frozen
from gluonexp.training.team import ALONE, Team


@dataclass(frozen=True)
class OpenRun:
    """A run that is open: what it trains, on which data, where it is recorded.

    Attributes
    ----------
    config
        As composed, with the weights that ``auto`` found.
    net
        What `engine` trains.
    frozen
        Releases and audits what the freeze policy holds.
    shortcut
        Lets `engine` train from features where they need be computed only once.
    macs
        Multiply-accumulates of the network for one image (forward).
    settings
        For the loop; its identity is what training that resumes from here must share.
    told
        What somebody is told once the run is closed.
    artifacts
        The folder of what is to be recorded.
    """

    config: Config
    components: Components
    spec: Spec
    steps: Preprocessing
    net: networks.Network
    engine: Engine
    frozen: Frozen
    shortcut: Shortcut
    macs: int
    data: Data
    settings: loop.Settings
    tracker: Tracker
    told: Told
    workdir: Path
    artifacts: Path

    def leave(self, console: Console, ending: Ending, usable: bool) -> None:
        """Tidy the folder of the run, which is closed; say where it is, and what to do with it.

        Parameters
        ----------
        usable
            Whether predictions can be made with it.
        """
        keep = any(c.keep for c in self.components.callbacks if isinstance(c, Checkpoint))
        run_id = self.tracker.run_id
        sent = self.tracker.sent
        job_folder.leave(self.workdir, run_id, ending, keep_checkpoints=keep, sent=sent)
        if run_id is None:
            show.untracked(console, self.artifacts)
        else:
            uri, exported = self.config.tracking.uri, usable and self.config.export.enabled
            link, status = self.tracker.link, ending.status
            exported &= sent
            show.tracked(console, run_id, status, link=link, uri=uri, exported=exported, sent=sent)


@contextmanager
def opened(
    config: Config,
    workdir: Path,
    overrides: Sequence[str],
    console: Console,
    team: Team = ALONE,
) -> Iterator[OpenRun]:
    """Open a run; it ends FINISHED with the block, FAILED or KILLED with an exception.

    Whoever is to be told of the end is told, also where it comes before a run exists. Each process
    of `team` opens it, to train together; rank 0 alone records.

    Raises
    ------
    GluonexpError
        A setting or the data are not right. Whatever can be found out before data are read is
        found before a run exists, and nothing in `workdir` is removed before it does.
    """
    command = in_shell("python", "-m", "gluonexp.run", *hidden_words(overrides))
    with telling(config.notify, "run", command) as told:
        told.facts |= {"name": config.tracking.run_name}
        told.facts |= {"experiment": config.tracking.experiment}
        with _opened(config, workdir, overrides, console, team, told) as run:
            yield run


@contextmanager
def _opened(
    config: Config,
    workdir: Path,
    overrides: Sequence[str],
    console: Console,
    team: Team,
    told: Told,
) -> Iterator[OpenRun]:
    before = team.tell(resume.earlier(config) if team.rank == 0 else None)
    job_folder.check(workdir, None if before is None else before.folder)
    device = engines.device(config)
    components = assembly.components(config)
    spec = components.source.spec()
    steps = networks.preprocessing(config.dataset, spec)
    shared = resume.settings(config, components, steps)
    switch = None
    if before is not None:
        before.check(shared)
        switch = before.switch(config, overrides)

    networks.seed(config.seed)
    net = networks.network(config, components.model, spec, steps)
    layers, plan = _planned(config, net, steps)
    pretrained = networks.initialize(
        config, net, spec, device, None if before is None else before.pretrained(config)
    )
    if pretrained is not None and pretrained.adapted:  # strides have moved, and so has the work
        layers, plan = _planned(config, net, steps)
    config = networks.pinned(config, pretrained)
    networks.check_images(config, net, steps, device)
    engine = engines.engine(config, components, net, steps, spec, device, team)
    engine.freeze(plan)
    computing = libraries(config)
    outlook = assembly.outlook(config, components, net, layers, plan, steps, device)
    config = replace(config, features=outlook.settings)  # a repetition computes the same
    show.weights(console, pretrained, plan)
    show.plan(console, plan, outlook)
    for text in (networks.note(net), *components.notes):
        if text is not None:
            show.note(console, text)
    origin = provenance(config.build.allow, computing)

    artifacts = workdir / job_folder.ARTIFACTS
    tags = record.tags(origin, overrides, engine.where)
    tags[tracking.WORKDIR] = str(workdir.resolve())  # where its checkpoints are
    tags |= team.tags
    if config.trainer.lr_find.steps:
        tags[tracking.KIND] = "lr_find"
    with (
        tracked_run(config.tracking, tags, workdir) as tracker,
        team.watched(),
        job_folder.listed(workdir),
    ):
        told.facts |= {"run_id": tracker.run_id, "name": tracker.name, "link": tracker.link}
        if team.size > 1:
            team.run_id = team.tell(tracker.run_id)
        if config.tracking.run_id is None and (text := recovery.mention(config.tracking)):
            show.note(console, text)  # of a sweep's jobs, the sweep says so
        aside = job_folder.take(workdir, tracker.run_id, None if before is None else before.folder)
        show.set_aside(console, aside)
        as_recorded = config
        if before is not None and before.same_run(config):  # as if it had never been cut off
            as_recorded = replace(
                config,
                trainer=replace(config.trainer, resume=None),
                tracking=replace(config.tracking, run_id=None),
            )
        record.config(artifacts, as_recorded, overrides, origin)
        record.layers(artifacts, plan)
        data = assembly.data(config, components.source)
        read = {"the data (their digest)": data.digest}
        if before is not None:
            before.check(read)
        show.data(console, data)
        if team.rank == 0:  # it takes long
            record.samples(artifacts, data)
        tracker.log_params(record.parameters(as_recorded, data, plan, pretrained))
        record.datasets(tracker, config, data)
        if (others := config.sweep.data) not in (None, data.digest):
            from gluonexp.sweep.ledger import other_data  # which other runs do not need

            raise GluonexpError(other_data(data.digest, str(others)))
        tracker.log_artifacts(artifacts)
        if before is None:
            networks.set_from(data.train, net, engine, steps, spec)
        frozen = Frozen(engine, plan)
        settings = loop.Settings(
            epochs=config.trainer.epochs,
            batch_size=config.trainer.batch_size,
            seed=config.seed,
            schedule=assembly.schedule(config, components, len(data.train)),
            workdir=workdir,
            augment=components.augment,
            history=[] if before is None else before.history,
            extends=before is not None and not before.owner.unfinished,
            checkpoint_every_steps=config.trainer.checkpoint_every_steps,
            done=0 if before is None else before.step,
            identity={
                **shared,
                **read,
                "engine": resume.engine(config),
                "epochs": config.trainer.epochs,
                "classes": list(spec.classes),
                "pretrained": None if pretrained is None else asdict(pretrained),
                "frozen": frozen.digests if before is None else before.identity.get("frozen"),
            },
            team=team,
            metrics=components.metrics,
        )
        if before is not None:
            before.restore(engine, workdir, team)
            tell(console, before.sentence())
            record.resumed(tracker, before, switch)
            if switch is not None:
                show.note(console, switch)
            for note in before.notes(config, components, settings, len(data.train)):
                show.note(console, note)
        names = [row.parameter for row in plan.rows]
        team.check_alike(lambda: {"the data set": data.digest, **engine.digests(names)})
        if team.rank == 0:
            record.proof(tracker, engine, data.train)
        yield OpenRun(
            config=config,
            components=components,
            spec=spec,
            steps=steps,
            net=net,
            engine=engine,
            frozen=frozen,
            shortcut=assembly.shortcut(
                outlook, engine, net, steps, spec, device, tracker, partial(tell, console)
            ),
            macs=plan.macs,
            data=data,
            settings=settings,
            tracker=tracker,
            told=told,
            workdir=workdir,
            artifacts=artifacts,
        )


def _planned(
    config: Config, net: networks.Network, steps: Preprocessing
) -> tuple[Outline, FreezePlan]:
    layers = outline(net, (steps.channels, steps.height, steps.width))
    return layers, freeze.plan(layers, config.freeze, config.trainer.epochs)
