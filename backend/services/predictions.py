"""The heart: one prediction request, from a verified caller to a metered answer.

Every protocol translates into :meth:`PredictionService.predict` and back. The order is the order of cost: refuse
early, ask admission once, run only the rows that nobody asked before, make the usage durable, then answer.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from backend.domain.admission import (
    AdmissionDecision,
    AdmissionRequest,
    Lease,
    Settlement,
    Verdict,
)
from backend.domain.api_keys import KeyGrant
from backend.domain.callers import PredictCaller
from backend.domain.clock import Clock
from backend.domain.errors import (
    DeadlineExceeded,
    EnforcementUnavailable,
    Forbidden,
    MeteringUnavailable,
    Unauthenticated,
)
from backend.domain.ids import new_id
from backend.domain.models import ModelInfo, ModelRef
from backend.domain.predictions import PredictCommand, PredictionAnswer, ReplayedAnswer
from backend.domain.scopes import Scope
from backend.domain.usage import UsageEvent, decide_billing
from backend.services.foreseen import Foreseen
from backend.services.outcomes import OutcomeMeter, held, refuse
from backend.services.ports import Admission, EncodedRows, KeyDirectory, Ledger, Metrics, ModelCatalog, ServedModel
from backend.services.prepared_rows import prepare
from backend.services.settling import Settler


class PredictionService:
    """Answers predictions; everything it needs comes through its ports."""

    def __init__(
        self,
        *,
        catalog: ModelCatalog,
        admission: Admission,
        ledger: Ledger,
        keys: KeyDirectory,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._catalog = catalog
        self._admission = admission
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        text = "Requests let through in shadow that their limits would have refused."
        self._overruns = {
            reason: metrics.counter("forecourt_shadow_refusals_total", text, reason=str(reason))
            for reason in (Verdict.RATE_LIMITED, Verdict.QUOTA_EXCEEDED)
        }
        self._outcomes = OutcomeMeter(metrics)
        self._settler = Settler(admission)
        self._under_way = 0

    async def predict(self, caller: PredictCaller, command: PredictCommand) -> PredictionAnswer | ReplayedAnswer:
        """Answer one request.

        Raises:
            ForecourtError: one of the refusals that API.md lists under predictions. Nothing was charged then.
        """
        self._under_way += 1
        try:
            answer = await self._answer(caller, command)
        except BaseException as error:
            self._outcomes.failed(error)
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._settler.settle_when_answered()
        self._outcomes.answered(answer)
        return answer

    async def _answer(self, caller: PredictCaller, command: PredictCommand) -> PredictionAnswer | ReplayedAnswer:
        question = command.question
        if Scope.PREDICT not in caller.scopes:
            caller = await self._permitted(caller, lambda asking: asking.require(Scope.PREDICT))
        model = self._catalog.resolve(ModelRef.parse(question.model), f"{caller.tenant_id}:{caller.credential_id}")
        if caller.models is not None:
            caller = await self._permitted(caller, lambda asking: _require_call(asking, model.info, question.model))
        rows, cache_keys = prepare(caller, command, model)
        make_event = partial(self._event, caller, command, model.info)
        foreseen = Foreseen(make_event, self._ledger.prepare, rows.count, self._clock) if question.is_repeated else None
        request = _asking(caller, command, model, rows.count, cache_keys, foreseen)
        if self._settler.is_filling(request.cache_keys):
            # Whoever asks for a row again finds it in the cache.
            await self._settler.settle_first(caller.tenant_id)
        decision = await self._admission.admit(caller.tenant_id, request)
        if decision.verdict is not Verdict.ADMITTED:
            caller, decision = await self._unless_refused(caller, command, model, request, decision)
        if decision.replay is not None:
            return ReplayedAnswer(answer=decision.replay, standing=decision.standing)
        if decision.overrun is not None:
            self._overruns[decision.overrun].add()
        lease = held(decision)
        cached = decision.cached or (None,) * rows.count
        hits = rows.count - cached.count(None)
        if hits:
            model.count_cached(hits)
        fill: tuple[tuple[bytes, bytes], ...] = ()
        if hits == rows.count:
            predictions = [row for row in cached if row is not None]
        else:
            predictions = await self._complete(caller, command, model, rows, cached, lease)
            if command.fills_cache:
                fill = _cache_fill(cache_keys, cached, predictions)
        event = None if foreseen is None else foreseen.event_of(lease, hits)
        # In the month whose quota paid for it, should midnight have passed meanwhile.
        event = event or self._event(caller, command, model.info, lease.id, lease.period, rows.count, hits)
        answer = PredictionAnswer(event, model.info, predictions, decision.standing)
        kept = command.render(answer) if command.idempotency is not None else None
        anticipate = command.anticipate
        meanwhile = None if anticipate is None else partial(anticipate, answer)
        await self._book(event, Settlement(lease, fill, kept), meanwhile)
        return answer

    async def settled(self) -> None:
        """Wait until everything that was answered is settled."""
        await self._settler.settled()

    async def _unless_refused(
        self,
        caller: PredictCaller,
        command: PredictCommand,
        model: ServedModel,
        request: AdmissionRequest,
        decision: AdmissionDecision,
    ) -> tuple[PredictCaller, AdmissionDecision]:
        """Go on with what was decided; when the caller's grant turns out to be stale, read it again and ask once more.

        Raises:
            ForecourtError: what the verdict means.
        """
        if decision.verdict is Verdict.STALE:
            caller = await self._reread(caller)
            _require_call(caller, model.info, command.question.model)
            request = _asking(caller, command, model, request.cost, request.cache_keys)
            decision = await self._admission.admit(caller.tenant_id, request)
            if decision.verdict is Verdict.STALE:
                # Somebody changes the key faster than it can be read.
                await self._reread(caller)
                raise EnforcementUnavailable(retry_after_s=1)
        refuse(decision)
        return caller, decision

    async def _permitted(self, caller: PredictCaller, check: Callable[[PredictCaller], None]) -> PredictCaller:
        """Refuse nobody because of what was cached: a key that was widened meanwhile passes."""
        try:
            check(caller)
        except Forbidden:
            if caller.lookup_id is None:
                raise
            caller = self._caller_of(await self._keys.recheck(caller.lookup_id), caller, fresh=False)
            check(caller)
        return caller

    async def _reread(self, caller: PredictCaller) -> PredictCaller:
        grant = await self._keys.reload(caller.lookup_id) if caller.lookup_id else None
        return self._caller_of(grant, caller, fresh=True)

    def _caller_of(self, grant: KeyGrant | None, caller: PredictCaller, *, fresh: bool) -> PredictCaller:
        """Return the caller as its key is now."""
        now = self._clock.now()
        # The secret may have been replaced meanwhile.
        if grant is None or not grant.key.accepts(caller.generation, now):
            raise Unauthenticated
        grant.require_usable(now, caller.address)
        return PredictCaller.from_key(grant, address=caller.address, fresh=fresh, generation=caller.generation)

    async def _complete(
        self,
        caller: PredictCaller,
        command: PredictCommand,
        model: ServedModel,
        rows: EncodedRows,
        cached: Sequence[bytes | None],
        lease: Lease,
    ) -> list[bytes]:
        """Run the rows that the cache did not hold, within the caller's deadline; or else give the lease back."""
        missing = [index for index, row in enumerate(cached) if row is None]
        options, deadline_s = command.question.options, command.deadline_s
        try:
            computed = model.run_at_once(rows, missing, options)
            if computed is None:
                running = model.run(rows, missing, options, share=caller.tenant_id, deadline_s=deadline_s)
                computed = await (running if deadline_s is None else _within(deadline_s, running))
        except BaseException:
            await self._settler.release(lease)
            raise
        if len(missing) == len(cached):
            return computed
        fresh = iter(computed)
        return [next(fresh) if row is None else row for row in cached]

    def _event(
        self,
        caller: PredictCaller,
        command: PredictCommand,
        model: ModelInfo,
        event_id: str,
        period: str,
        units: int,
        cached_units: int,
    ) -> UsageEvent:
        billable_units, reason = decide_billing(
            environment=caller.environment, units=units, cached_units=cached_units, plan=caller.plan
        )
        return UsageEvent(
            id=event_id,
            tenant_id=caller.tenant_id,
            credential_id=caller.credential_id,
            environment=caller.environment,
            model=model.name,
            model_version=model.version,
            units=units,
            cached_units=cached_units,
            billable_units=billable_units,
            reason=reason,
            plan_id=caller.plan.id,
            plan_version=caller.plan.version,
            request_id=command.request_id,
            occurred_at=self._clock.now(),
            period=period,
        )

    async def _book(self, event: UsageEvent, settlement: Settlement, meanwhile: Callable[[], object] | None) -> None:
        """Make the usage durable, then settle. What is settled is not on the caller's clock, but for a replay."""
        try:
            await self._ledger.append(event.tenant_id, event, meanwhile)
        except MeteringUnavailable:
            await self._settler.release(settlement.lease)
            raise
        except asyncio.CancelledError:
            # The caller left while the event was being written. It will be written, so the lease is used.
            self._settler.settle_soon(settlement)
            raise
        if settlement.answer is None:
            self._settler.settle_soon(settlement)
        else:
            # A retry may arrive right after this answer: it must find it.
            await self._settler.settle(settlement)


async def _within(deadline_s: float, running: Awaitable[list[bytes]]) -> list[bytes]:
    try:
        async with asyncio.timeout(deadline_s):
            return await running
    except TimeoutError as error:
        raise DeadlineExceeded from error


def _asking(
    caller: PredictCaller,
    command: PredictCommand,
    model: ServedModel,
    cost: int,
    cache_keys: tuple[bytes, ...],
    foreseen: Foreseen | None = None,
) -> AdmissionRequest:
    """Return what is asked of admission for a caller, under a lease of its own."""
    return AdmissionRequest(
        new_id("evt") if foreseen is None else foreseen.event_id,
        caller.credential_id,
        caller.environment,
        caller.epochs,
        cost,
        caller.rates_for(model.info.name),
        caller.quotas,
        command.idempotency,
        cache_keys if command.reads_cache else (),
        caller.enforcement,
        command.others_follow,
        foreseen,
    )


def _require_call(caller: PredictCaller, model: ModelInfo, reference: str) -> None:
    caller.require(Scope.PREDICT)
    caller.require_model(model, reference)


def _cache_fill(
    cache_keys: Sequence[bytes], cached: Sequence[bytes | None], predictions: Sequence[bytes]
) -> tuple[tuple[bytes, bytes], ...]:
    rows = zip(cache_keys, cached, predictions, strict=True)
    return tuple([(key, prediction) for key, hit, prediction in rows if hit is None])
