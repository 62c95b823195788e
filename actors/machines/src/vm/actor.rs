//! A VM's actor: keeps what is wanted of one VM, and brings its domain there step by step.
//!
//! Owns the VM's stream. Asks its host's actor to do one step at a time, and the roster to forget the VM when nothing of it
//! is left. Does nothing before what it was asked is durable. After a restart it replays its stream, waits for a look at the
//! hypervisor, and goes on from what is seen: every step may be repeated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hiveward_catalogue::{directory::Known, host::event::FleetChange, vm::spec::VmSpec};
use hiveward_kernel::{
    commit::{Batch, CommitReply, Committed, Committer},
    id::HostId,
    snapshot::{self, SinceSnapshot},
};
use hiveward_runtime::{
    call::Addr,
    clock::Deadline,
    fault,
    supervise::{Behaviour, Context, Failure, TimerHandle},
};
use tokio::time::Instant;

use super::{
    attempt,
    event::{self, Asked, OperationKind, Seen, VmEvent},
    message::VmMsg,
    migrate::{Move, Side},
    reconcile::{self, Doing, Next, Step},
    shaping,
    state::{HOUSE, SNAPSHOT_FORMAT, VmState},
    steps::{Work, points},
    warm,
};
use crate::host::{ask_roster, driver::Domain, message::HostMsg, services::MachineServices};

const FORGET_WITHIN: Duration = Duration::from_secs(5);

pub struct Vm {
    pub(super) services: MachineServices,
    pub(super) spec: Arc<VmSpec>,
    pub(super) host: HostId,
    /// Epoch of the VM in which it belongs to that host.
    pub(super) epoch: u64,
}

pub struct State {
    pub(super) vm: VmState,
    since_snapshot: SinceSnapshot,
    pub(super) incarnation: u64,
    pub(super) committer: Committer,
    /// Number of batches handed to the committer; `durable` counts those of them that are durable.
    pub(super) handed: u64,
    pub(super) durable: Arc<AtomicU64>,
    pub(super) doing: Doing,
    pub(super) in_flight: Option<Step>,
    /// Look at the domain that came in while a step was under way.
    pub(super) meanwhile: Option<(Option<Domain>, u64)>,
    /// The step before, if it changed nothing that could be seen.
    pub(super) last_step: Option<Step>,
    pub(super) tries: u32,
    pub(super) not_before: Option<Instant>,
    /// When what is known of the domain was seen; 0 before this life saw anything.
    pub(super) seen_at: u64,
    pub(super) fresh: bool,
    pub(super) last_error: Option<String>,
    pub(super) forgetting: bool,
    pub(super) timer: Option<TimerHandle>,
}

impl Vm {
    /// Returns the behaviour of the actor of a VM that belongs to `host` in `epoch`.
    pub fn new(services: MachineServices, spec: Arc<VmSpec>, host: HostId, epoch: u64) -> Self {
        Self { services, spec, host, epoch }
    }
}

pub(super) async fn deliver(to: &Addr<VmMsg>, msg: VmMsg) {
    to.deliver(msg).await;
}

impl Behaviour for Vm {
    type Msg = VmMsg;
    type State = State;

    async fn start(&self, ctx: &Context<VmMsg>) -> Result<State, Failure> {
        Box::pin(self.come_alive(ctx)).await
    }

    async fn handle(&self, ctx: &Context<VmMsg>, msg: VmMsg, state: &mut State) -> Result<(), Failure> {
        Box::pin(self.take(ctx, msg, state)).await
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        serde_json::json!({
            "wanted": format!("{:?}", state.vm.wanted), "seen": format!("{:?}", state.vm.seen), "status": state.vm.status(),
            "operation": state.vm.active().map(|active| active.kind.name()), "step": state.in_flight.map(|step| format!("{step:?}")),
            "tries": state.tries, "lastError": state.last_error, "incarnation": state.incarnation,
        })
    }
}

impl Vm {
    async fn come_alive(&self, ctx: &Context<VmMsg>) -> Result<State, Failure> {
        let (vm, stream) = (self.spec.id, self.spec.id.key());
        let life = self.services.ledger.claim(&stream).await?;
        // Up to there is known now whether it belongs here: a node that was away for long acts on nothing older.
        self.services.directory.catch_up()?;
        let added = self.services.directory.read(|known| known.fleet.vms.get(&vm).map(|entry| entry.added_at));
        let new = || VmState::new(&self.spec, added.unwrap_or_else(|| self.services.clock.now()));
        let mut replayed = snapshot::restored(&life, SNAPSHOT_FORMAT)?.unwrap_or_else(new);
        for event in &life.events {
            replayed.apply(&VmEvent::decode(&event.kind, event.format, &event.body)?, event.at);
        }
        let me = ctx.addr().clone();
        let (committer, committing) =
            Committer::new(self.services.ledger.clone(), stream, life.incarnation, life.version, move |error| {
                let _ = me.tell(VmMsg::CommitFailed { message: error.to_string() });
            });
        ctx.task(committing);
        // Nothing is there of a VM that is quite new; if this is its second life, its steps may be repeated.
        let fresh = life.version == 0;
        let state = State {
            vm: replayed,
            since_snapshot: SinceSnapshot::of(&life),
            incarnation: life.incarnation,
            committer,
            handed: 0,
            durable: Arc::default(),
            doing: Doing { boots: fresh.then_some(0), ..Doing::default() },
            in_flight: None,
            meanwhile: None,
            last_step: None,
            tries: 0,
            not_before: None,
            seen_at: 0,
            fresh,
            last_error: None,
            forgetting: false,
            timer: None,
        };
        if !fresh {
            self.ask_for_a_look();
        }
        let _ = ctx.addr().tell(VmMsg::Drive);
        Ok(state)
    }

    async fn take(&self, ctx: &Context<VmMsg>, msg: VmMsg, state: &mut State) -> Result<(), Failure> {
        match msg {
            VmMsg::Ask { ask, reply } => self.ask(state, ctx, ask, reply).await?,
            VmMsg::Recalled { ask, before, reply } => self.recalled(state, ctx, ask, before, reply).await?,
            VmMsg::Observed { domain, at } => {
                if state.in_flight.is_some() {
                    // The step's own answer is the news, unless this is newer still.
                    state.meanwhile = Some((domain, at));
                } else if at > state.seen_at {
                    self.see(ctx, state, domain, at).await?;
                }
            }
            VmMsg::CancelMigration { principal, reply } => self.cancel(ctx, state, &principal, reply).await?,
            VmMsg::Schedule { schedule, reply } => self.schedule(ctx, state, schedule, reply).await?,
            VmMsg::Drain => {
                if state.vm.is_on() && state.vm.active().is_none() {
                    // What could not be moved is stopped.
                    let stays = state.vm.could_not_be_moved() || !state.vm.snapshots.is_empty();
                    let kind = if stays { OperationKind::Stop } else { OperationKind::Migrate };
                    self.ask_oneself(ctx, state, kind).await?;
                }
            }
            VmMsg::Stepped { step, result } => self.stepped(ctx, state, step, result).await?,
            VmMsg::Drive => {}
            VmMsg::Tick => state.timer = None,
            VmMsg::Forgotten { done } => {
                state.forgetting = false;
                if !done {
                    state.not_before = Some(Instant::now() + self.again_after(state));
                }
            }
            VmMsg::CommitFailed { message } => return Err(Failure::new(message)),
        }
        self.drive(ctx, state).await
    }

    pub(super) async fn record(
        &self,
        ctx: &Context<VmMsg>,
        state: &mut State,
        events: Vec<VmEvent>,
        reply: Option<(u64, CommitReply<u64>)>,
    ) -> Result<(), Failure> {
        let now = self.services.clock.now();
        let mut batch = Batch::asked_by(reply.as_ref().and_then(|(_, reply)| reply.asker()));
        for event in &events {
            batch.push(event.kind(), event::FORMAT, event.encode()?);
            state.vm.apply(event, now);
        }
        let (vm, directory) = (&state.vm, &self.services.directory);
        state.since_snapshot.go_with(&mut batch, SNAPSHOT_FORMAT, vm, vm.removed, directory.read(Known::all_read_snapshots))?;
        state.handed += 1;
        let (handed, durable, me) = (state.handed, state.durable.clone(), ctx.addr().clone());
        batch.then(move |cursor| {
            durable.store(handed, Ordering::Release);
            if let Some((number, reply)) = reply {
                reply.answer(Ok(Committed { value: number, cursor }));
            }
            // A full mailbox has something in it that drives as well.
            let _ = me.tell(VmMsg::Drive);
        });
        Ok(state.committer.hand_over(batch).await?)
    }

    /// Asks the host to look at this VM. A host without a life does not hear it, and looks when it has one.
    pub(super) fn ask_for_a_look(&self) {
        if let Some(host) = self.services.doors.of::<HostMsg>(self.host) {
            let _ = host.tell(HostMsg::Arrived { vm: self.spec.id });
        }
    }

    pub(super) fn begin_operation(&self, state: &mut State) {
        state.doing = Doing { boots: state.doing.boots, ..Doing::default() };
        (state.last_step, state.tries, state.not_before) = (None, 0, None);
    }

    async fn ask_oneself(&self, ctx: &Context<VmMsg>, state: &mut State, kind: OperationKind) -> Result<(), Failure> {
        let sought = state.doing.sought;
        self.begin_operation(state);
        // It was looked for, and is recovered because no host has it.
        state.doing.sought = sought.filter(|_| kind == OperationKind::Recover);
        let asked = Asked {
            number: state.vm.last_number() + 1,
            kind,
            principal: HOUSE.into(),
            operation: None,
            force: false,
            grace_ms: self.spec.stop_grace_ms,
            boots: state.doing.boots,
            migration: (kind == OperationKind::Migrate).then(|| Box::new(Move::anywhere(self.host))),
            subject: state
                .vm
                .schedule
                .as_ref()
                .filter(|_| kind == OperationKind::Backup)
                .map(|schedule| schedule.subject(&state.vm)),
            epoch: self.epoch,
        };
        self.record(ctx, state, vec![VmEvent::Asked(Box::new(asked))], None).await
    }

    pub(super) async fn see(
        &self,
        ctx: &Context<VmMsg>,
        state: &mut State,
        domain: Option<Domain>,
        at: u64,
    ) -> Result<(), Failure> {
        (state.seen_at, state.fresh) = (at, true);
        state.doing.boots = domain.as_ref().map_or(Some(0), |domain| domain.boots);
        let seen = domain.map_or(Seen::Absent, |domain| Seen::There(domain.run));
        if seen != state.vm.seen {
            // What could not be done before may be possible now.
            (state.last_step, state.tries, state.not_before) = (None, 0, None);
            state.doing.sought = None;
            ctx.set_note(seen.words());
            self.record(ctx, state, vec![VmEvent::Seen { seen, epoch: self.epoch }], None).await?;
        }
        Ok(())
    }

    /// Does what is next, until something must be waited for.
    async fn drive(&self, ctx: &Context<VmMsg>, state: &mut State) -> Result<(), Failure> {
        while state.in_flight.is_none() && state.fresh && self.is_here() {
            let now = self.services.clock.now();
            state.doing.side = self.side(state);
            state.doing.over = self.is_over(state);
            state.doing.comes_back = self.epoch > state.vm.ran_in;
            (state.doing.claim, state.doing.holds) = shaping::claim(&self.services, &self.spec, self.host, &state.vm);
            match reconcile::next(&state.vm, state.doing, now) {
                Next::Do(step) => {
                    if state.durable.load(Ordering::Acquire) < state.handed || self.is_held_back(ctx, state) {
                        return Ok(());
                    }
                    if state.last_step == Some(step) {
                        // It was done and nothing came of it: not again at once.
                        state.last_step = None;
                        state.not_before = Some(Instant::now() + self.again_after(state));
                        continue;
                    }
                    self.begin(ctx, state, step).await?;
                }
                Next::Wait { until } => {
                    state.timer = Some(ctx.after(until.since(now).max(Duration::from_millis(1)), VmMsg::Tick));
                    return Ok(());
                }
                Next::End(outcome) => {
                    let Some(number) = state.vm.active().map(|active| active.number) else { return Ok(()) };
                    self.record(ctx, state, vec![VmEvent::Ended { number, outcome }], None).await?;
                    if self.is_drained() && state.vm.is_on() && state.vm.could_not_be_moved() {
                        self.ask_oneself(ctx, state, OperationKind::Stop).await?;
                    }
                }
                Next::Abandon { why } => {
                    let Some(number) = state.vm.active().map(|active| active.number) else { return Ok(()) };
                    self.record(ctx, state, vec![VmEvent::Abandoned { number, why }], None).await?;
                }
                Next::Recover => {
                    if self.is_held_back(ctx, state) {
                        return Ok(());
                    }
                    tracing::warn!(vm = %self.spec.name, seen = ?state.vm.seen, "a VM ended by itself and is started again");
                    self.ask_oneself(ctx, state, OperationKind::Recover).await?;
                }
                Next::Ask { kind } => self.ask_oneself(ctx, state, kind).await?,
                Next::Adopt { wanted, why } => self.record(ctx, state, vec![VmEvent::Adopted { wanted, why }], None).await?,
                Next::GiveUp { message } => self.record(ctx, state, vec![VmEvent::GivenUp { message }], None).await?,
                Next::Idle => {
                    if state.vm.is_leased && !state.vm.removed {
                        state.timer = Some(ctx.after(attempt::LOOKED_AT_EVERY, VmMsg::Tick));
                    }
                    self.forget(ctx, state);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Tells whether the VM must wait before more is done; then it sets a timer.
    fn is_held_back(&self, ctx: &Context<VmMsg>, state: &mut State) -> bool {
        let wait = state.not_before.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if wait.is_zero() {
            state.not_before = None;
            return false;
        }
        state.timer = Some(ctx.after(wait, VmMsg::Tick));
        true
    }

    async fn begin(&self, ctx: &Context<VmMsg>, state: &mut State, step: Step) -> Result<(), Failure> {
        fault::point(points(step).0, ctx.key()).await?;
        (state.in_flight, state.last_step) = (Some(step), Some(step));
        let (services, spec, host, me) = (self.services.clone(), self.spec_now(), self.host, ctx.addr().clone());
        let work = Work::of(&state.vm, &state.doing, services, spec, host, step);
        ctx.task(async move {
            let result = work.done().await;
            deliver(&me, VmMsg::Stepped { step, result }).await;
        });
        Ok(())
    }

    /// Returns the VM's spec with the shape that it has by now.
    pub(super) fn spec_now(&self) -> Arc<VmSpec> {
        let find = |known: &Known| known.fleet.vms.get(&self.spec.id).map(|entry| entry.spec.clone());
        self.services.directory.read(find).unwrap_or_else(|| self.spec.clone())
    }

    /// Tells whether the roster, as known here, has the VM on this host and in this epoch; else this life is about to end.
    fn is_here(&self) -> bool {
        let at = self.services.directory.read(|known| known.fleet.vms.get(&self.spec.id).map(|vm| (vm.host, vm.epoch)));
        at.is_none_or(|at| at == (self.host, self.epoch))
    }

    /// Tells whether nobody needs any more a VM that lives for an attempt, or waits for one.
    fn is_over(&self, state: &State) -> bool {
        if state.vm.active().is_some() || state.vm.removed || !state.vm.is_leased {
            return false;
        }
        let of = |known: &Known| known.fleet.vms.get(&self.spec.id).map(|entry| (entry.spec.clone(), entry.leased_at));
        let Some((spec, since)) = self.services.directory.read(of) else { return false };
        match (spec.lease, &spec.warm) {
            (Some(lease), _) => attempt::is_over(&self.services, lease, since),
            (None, Some(warm)) => warm::is_over(&self.services, self.spec.id, warm, !state.vm.is_on()),
            (None, None) => false,
        }
    }

    fn is_drained(&self) -> bool {
        self.services.directory.read(|known| known.fleet.hosts.get(&self.host).is_some_and(|entry| entry.drain.is_some()))
    }

    /// Returns where this actor stands in the migration that is under way, if one is.
    fn side(&self, state: &State) -> Side {
        let asked = state.vm.active().and_then(|active| active.migration.as_ref());
        if asked.is_some_and(|asked| asked.from != self.host) {
            return Side::Arrived;
        }
        let bound = self.services.directory.read(|known| {
            known.fleet.vms.get(&self.spec.id).is_some_and(|entry| entry.host == self.host && entry.moving.is_some())
        });
        if bound { Side::Bound } else { Side::Free }
    }

    /// Tells the roster that nothing of a removed VM is left, until it knows; then this actor is stopped.
    fn forget(&self, ctx: &Context<VmMsg>, state: &mut State) {
        let durable = state.durable.load(Ordering::Acquire) >= state.handed;
        if !state.vm.removed || state.forgetting || !durable || self.is_held_back(ctx, state) {
            return;
        }
        state.forgetting = true;
        let (services, vm, me) = (self.services.clone(), self.spec.id, ctx.addr().clone());
        ctx.task(async move {
            let asked = ask_roster(&services, FleetChange::RemoveVm { vm }, Deadline::after(FORGET_WITHIN)).await;
            deliver(&me, VmMsg::Forgotten { done: asked.is_ok() }).await;
        });
    }
}
