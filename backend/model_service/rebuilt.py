"""A loaded version's runner: made again from the artifact, compared again, measured again.

A manifest is text that an operator can edit and a file that can be swapped: of what it says about its runner only the
name counts. A runner that does not answer as scikit-learn on the manifest's sample rows, here and with the libraries
that are installed now, does not serve: scikit-learn does.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from backend.domain.errors import SchemaMismatch
from backend.model_service.batch import BatchBuilder
from backend.model_service.encoding import RowEncoder
from backend.model_service.errors import ModelRefused, RunnerUnsuited
from backend.model_service.evaluation import measure_one_row_us
from backend.model_service.gate import same_on
from backend.model_service.manifest import Manifest, Row, RunnerChoice
from backend.model_service.runner_kinds import make_runner
from backend.model_service.runners import SCIKIT_LEARN, Runner, SklearnRunner

logger = logging.getLogger(__name__)


def rebuild_runner(manifest: Manifest, model: Any, encoder: RowEncoder) -> tuple[Runner, RunnerChoice]:
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
        return _measured(_named(manifest, model, reference, rows), manifest.runner, rows)
    except ModelRefused:
        raise
    except Exception as error:
        why = str(error) if isinstance(error, RunnerUnsuited) else f"it fails ({type(error).__name__})"
        if manifest.runner.name == SCIKIT_LEARN:
            raise ModelRefused(f"The model fails on its own sample rows ({type(error).__name__}).") from error
    logger.warning("model %s@%s is not served by %s: %s", manifest.name, manifest.version, manifest.runner.name, why)
    reason = f"In place of {manifest.runner.name}, which was registered: {why}."
    try:
        return _measured(reference, replace(manifest.runner, name=SCIKIT_LEARN, reason=reason), rows)
    except Exception as error:
        raise ModelRefused(f"The model fails on its own sample rows ({type(error).__name__}).") from error


def _named(manifest: Manifest, model: Any, reference: Runner, rows: Sequence[Row]) -> Runner:
    name = manifest.runner.name
    if name == SCIKIT_LEARN:
        return reference
    runner = make_runner(name, model, manifest.task, BatchBuilder(manifest.inputs, manifest.container))
    if not rows:
        raise RunnerUnsuited("the manifest holds no sample rows to compare it on")
    if not same_on(reference, runner, rows):
        raise RunnerUnsuited("it does not answer as scikit-learn on the sample rows")
    return runner


def _measured(runner: Runner, choice: RunnerChoice, rows: Sequence[Row]) -> tuple[Runner, RunnerChoice]:
    return runner, replace(choice, one_row_us=measure_one_row_us(runner, row=rows[0])[0]) if rows else choice
