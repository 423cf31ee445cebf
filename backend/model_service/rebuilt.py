"""A loaded version's runner: made again from the artifact, compared again, measured again.

A manifest is text that an operator can edit and a file that can be swapped: of what it says about its runner only the
name counts. A runner that does not answer as scikit-learn on the manifest's sample rows, here and with the libraries
that are installed now, does not serve: the next best does, or scikit-learn.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any

from backend.domain.errors import SchemaMismatch
from backend.model_service.batch import BatchBuilder
from backend.model_service.comparison import same_on
from backend.model_service.encoding import RowEncoder
from backend.model_service.errors import ModelRefused, RunnerUnsuited
from backend.model_service.manifest import Manifest, Row, RunnerChoice, Verdict
from backend.model_service.runner_kinds import REBUILT, make_runner
from backend.model_service.runners import SCIKIT_LEARN, Runner, SklearnRunner
from backend.model_service.timing import measure_one_row_us

logger = logging.getLogger(__name__)


def rebuild_runner(
    manifest: Manifest, model: Any, encoder: RowEncoder, runner_artifact: bytes | None = None
) -> tuple[Runner, RunnerChoice]:
    """Return the runner that serves, and what is to be told about it.

    Raises:
        ModelRefused: the manifest names an unknown runner, or scikit-learn itself fails on the sample rows.
    """
    try:
        # One by one: a request may be allowed fewer rows than there are samples.
        rows = [encoder.encode([sample]).rows[0] for sample in manifest.sample_rows]
    except SchemaMismatch as error:
        raise ModelRefused("The manifest's sample rows do not fit its inputs.") from error
    reference = SklearnRunner(model, manifest.task, BatchBuilder(manifest.inputs, manifest.container))
    try:
        return _measured(_named(manifest, model, reference, rows, runner_artifact), manifest.runner, rows)
    except ModelRefused:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, RunnerUnsuited) else f"it fails ({type(error).__name__})"
        if manifest.runner.name == SCIKIT_LEARN:
            raise ModelRefused(f"The model fails on its own sample rows ({type(error).__name__}).") from error
    logger.warning("model %s@%s is not served by %s: %s", manifest.name, manifest.version, manifest.runner.name, why)
    reason = f"In place of {manifest.runner.name}, which was registered: {why}."
    name, instead = _next_best(manifest, model, reference, rows)
    try:
        return _measured(instead, replace(manifest.runner, name=name, reason=reason, artifact=None), rows)
    except Exception as error:
        raise ModelRefused(f"The model fails on its own sample rows ({type(error).__name__}).") from error


def _next_best(manifest: Manifest, model: Any, reference: Runner, rows: Sequence[Row]) -> tuple[str, Runner]:
    """Return the fastest of those that answered as scikit-learn at registration, and do so here; else the reference."""
    builder = BatchBuilder(manifest.inputs, manifest.container)
    same = [each for each in manifest.runner.candidates if each.verdict is Verdict.SLOWER and each.name in REBUILT]
    for candidate in sorted(same, key=lambda each: each.one_row_us or inf):
        try:
            runner = make_runner(candidate.name, model, manifest.task, builder)
            if rows and same_on(reference, runner, rows):
                return candidate.name, runner
        except Exception as error:  # noqa: BLE001 - what it cannot do, the reference does
            logger.warning("model %s@%s: %s fails as well: %s", manifest.name, manifest.version, candidate.name, error)
    return SCIKIT_LEARN, reference


def _named(
    manifest: Manifest, model: Any, reference: Runner, rows: Sequence[Row], runner_artifact: bytes | None
) -> Runner:
    name = manifest.runner.name
    if name == SCIKIT_LEARN:
        return reference
    builder = BatchBuilder(manifest.inputs, manifest.container)
    runner = make_runner(name, model, manifest.task, builder, runner_artifact)
    if not rows:
        raise RunnerUnsuited("the manifest holds no sample rows to compare it on")
    if not same_on(reference, runner, rows):
        raise RunnerUnsuited("it does not answer as scikit-learn on the sample rows")
    return runner


def _measured(runner: Runner, choice: RunnerChoice, rows: Sequence[Row]) -> tuple[Runner, RunnerChoice]:
    return runner, replace(choice, one_row_us=measure_one_row_us(runner, row=rows[0])[0]) if rows else choice
