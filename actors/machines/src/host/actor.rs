//! A host's actor: keeps the connection to one hypervisor, looks at all of it in one call, and does its VMs' steps.
//!
//! Owns the connection and the VMs' actors beside it. Asks the directory which VMs belong here, and the roster to keep what
//! it found out. Never decides what a VM should be. After a restart it connects anew and looks: nothing is remembered. A
//! hypervisor that does not answer opens its breaker, which is shown, and no other host waits for it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hiveward_catalogue::host::{
    event::FleetChange,
    fleet::Drain,
    spec::{Capacity, HostSpec, HostUri, Scheme},
};
use hiveward_kernel::{entity::Entity, id::VmId};
use hiveward_runtime::{
    call::{Addr, Reply},
    clock::Deadline,
    resilience::Breaker,
    supervise::{Behaviour, Context, Failure, Supervisor, TimerHandle},
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::Instant,
};

use super::{
    ask_roster,
    backup::BACKUPS_AT_ONCE,
    console::Console,
    driver::{self, Action, Change, Connection, Domain, Driver, DriverError, Usage, simulated::Hypervisor},
    ha,
    looks::{Figures, LIST_AFTER},
    message::{Done, HostMsg},
    network::tending::{Tended, make_ready, needs_networks},
    travel::TRIPS_AT_ONCE,
};
use crate::host::services::MachineServices;

/// Interval at which everything is looked at, whatever the hypervisor says by itself.
const REFRESH_EVERY: Duration = Duration::from_secs(5);
const OPEN_WITHIN: Duration = Duration::from_secs(10);
pub(super) const LIST_WITHIN: Duration = Duration::from_secs(10);
const ROSTER_WITHIN: Duration = Duration::from_secs(5);
/// Number of steps that the hypervisor does at the same time; further ones wait, at most one of each VM.
const STEPS_AT_ONCE: usize = 16;

pub struct Host {
    pub(super) services: MachineServices,
    pub(super) spec: Arc<HostSpec>,
    pub(super) placement: u64,
    /// Supervisor of its VMs' actors; known before its first message.
    pub(super) beside: Arc<OnceLock<Supervisor>>,
}

pub(super) struct Link {
    pub(super) driver: Arc<dyn Driver>,
    /// Guard that ends the pump and the listener when it is dropped.
    _held: oneshot::Sender<()>,
}

/// What a domain was seen as last, and when.
#[derive(Default)]
pub(super) struct Known {
    pub(super) at: u64,
    pub(super) domain: Option<Domain>,
    /// Whether its actor has been told.
    pub(super) told: bool,
    /// Look since which it is in this run: what was measured before that is of another.
    pub(super) since: u64,
    /// Usage in this run; empty while nothing was measured of it.
    pub(super) usage: Usage,
}

impl Known {
    /// Takes in how it was seen after that look or step; another run begins without usage.
    pub(super) fn see(&mut self, at: u64, domain: Option<Domain>) {
        let run = |domain: &Option<Domain>| domain.as_ref().filter(|domain| domain.run.is_on()).map(|domain| domain.boots);
        if run(&self.domain) != run(&domain) {
            (self.since, self.usage) = (at, Usage::default());
        }
        (self.at, self.domain) = (at, domain);
    }

    /// Takes in what it used, as a look measured that began then; passed over if it is off, or in another run since.
    pub(super) fn used(&mut self, begun: u64, seen: &Domain) {
        let same = self.domain.as_ref().is_some_and(|now| now.run.is_on() && seen.run.is_on() && now.boots == seen.boots);
        if same && self.since <= begun {
            self.usage = seen.usage;
        }
    }
}

pub struct State {
    pub(super) link: Option<Link>,
    opening: bool,
    pub(super) breaker: Breaker,
    /// Counter that orders looks and steps: what was seen before a step ended is not news after it.
    pub(super) looks: Arc<AtomicU64>,
    pub(super) listing: bool,
    pub(super) figures: Figures,
    pub(super) list_again: bool,
    pub(super) listed: bool,
    pub(super) foreign: u32,
    pub(super) known: HashMap<VmId, Known>,
    pub(super) children: HashMap<VmId, bool>,
    /// Epoch in which each of them belongs here.
    pub(super) epochs: HashMap<VmId, u64>,
    pub(super) strays: HashSet<VmId>,
    /// Look since which each VM is gone that was here: what was seen before that is no news. Kept until a later look ends.
    pub(super) gone: HashMap<VmId, u64>,
    /// VMs that other hosts made and that are this one's now, as its driver knows them.
    pub(super) adopted: HashSet<VmId>,
    /// Consoles that are listened to, or could not be.
    pub(super) consoles: HashMap<VmId, Console>,
    /// VMs whose migrations away from here have not ended.
    pub(super) migrating: HashSet<VmId>,
    steps: Arc<Semaphore>,
    pub(super) trips: Arc<Semaphore>,
    pub(super) backups: Arc<Semaphore>,
    capacity: Option<Capacity>,
    saying: bool,
    pub(super) last_error: Option<String>,
    pub(super) list_soon: Option<TimerHandle>,
    pub(super) tended: Tended,
    /// Time at which images were swept last, and which were kept then.
    pub(super) swept: Option<(Instant, Vec<String>)>,
    _refresh: TimerHandle,
}

impl State {
    /// Returns the VMs of this host that are on, as they were seen last.
    pub(super) fn running(&self) -> impl Iterator<Item = VmId> {
        let on = |known: &Known| known.domain.as_ref().is_some_and(|domain| domain.run.is_on());
        self.known.iter().filter(move |(vm, known)| self.children.contains_key(vm) && on(known)).map(|(vm, _)| *vm)
    }
}

impl Host {
    pub fn new(services: MachineServices, spec: Arc<HostSpec>, placement: u64, beside: Arc<OnceLock<Supervisor>>) -> Self {
        Self { services, spec, placement, beside }
    }
}

/// Tells itself, also when its mailbox is full for a moment; not when this life is over.
pub(super) async fn deliver(to: &Addr<HostMsg>, msg: HostMsg) {
    to.deliver(msg).await;
}

impl Behaviour for Host {
    type Msg = HostMsg;
    type State = State;

    async fn start(&self, ctx: &Context<HostMsg>) -> Result<State, Failure> {
        let me = self.spec.id;
        let children: HashMap<VmId, bool> = self.services.doors.vms_of(me).into_iter().map(|vm| (vm, false)).collect();
        let here = self.services.me.node;
        let of_here = |host| self.services.directory.location(Entity::Host(host)).is_some_and(|at| at.node == here);
        self.services.meters.keep(of_here);
        let epochs = self.services.directory.read(|known| {
            let of = |vm: &VmId| Some((*vm, known.fleet.vms.get(vm)?.epoch));
            children.keys().filter_map(of).collect()
        });
        let mut state = State {
            link: None,
            opening: false,
            breaker: Breaker::new(driver::BREAKER),
            looks: Arc::default(),
            listing: false,
            figures: Figures::default(),
            list_again: false,
            listed: false,
            foreign: 0,
            known: HashMap::new(),
            children,
            epochs,
            strays: HashSet::new(),
            gone: HashMap::new(),
            adopted: HashSet::new(),
            consoles: HashMap::new(),
            migrating: HashSet::new(),
            steps: Arc::new(Semaphore::new(STEPS_AT_ONCE)),
            trips: Arc::new(Semaphore::new(TRIPS_AT_ONCE)),
            backups: Arc::new(Semaphore::new(BACKUPS_AT_ONCE)),
            capacity: None,
            saying: false,
            last_error: None,
            list_soon: None,
            tended: Tended::default(),
            swept: None,
            _refresh: ctx.every(REFRESH_EVERY, || HostMsg::Refresh),
        };
        self.connect(ctx, &mut state);
        self.sweep_consoles(ctx);
        // Its VMs are looked for when this has started: they are under the same supervisor.
        let _ = ctx.addr().tell(HostMsg::Look);
        Ok(state)
    }

    async fn handle(&self, ctx: &Context<HostMsg>, msg: HostMsg, state: &mut State) -> Result<(), Failure> {
        match msg {
            HostMsg::Act { vm, action, reply } => self.act(ctx, state, vm, action, reply),
            HostMsg::Arrived { vm } => {
                if let Some(known) = state.known.get_mut(&vm) {
                    known.told = false;
                }
                self.list_soon(ctx, state);
            }
            HostMsg::Look => {
                self.look(ctx, state).await?;
                self.tend(ctx, state);
            }
            HostMsg::Usage { vms, reply } => {
                let usage = |vm: &VmId| Some((*vm, state.known.get(vm)?.usage));
                let measured: HashMap<VmId, Usage> = vms.iter().filter_map(usage).collect();
                reply.answer(measured);
            }
            HostMsg::Samples { vm, since, until, points, reply } => {
                reply.answer(self.services.meters.samples(self.spec.id, vm, (since, until), points as usize));
            }
            HostMsg::Loads { since, window_ms, reply } => {
                let (now, window) = (self.services.clock.now(), Duration::from_millis(window_ms));
                reply.answer(self.services.meters.loads(self.spec.id, since, now, window));
            }
            HostMsg::Guest { vm, reply } => {
                let Some(driver) = self.reachable(state) else {
                    reply.answer(None);
                    return Ok(());
                };
                let deadline = reply.deadline();
                ctx.task(async move {
                    let said = driver.guest(vm, deadline).await;
                    reply.answer(said.unwrap_or_default());
                });
            }
            HostMsg::GuestCommand { vm, command, reply } => {
                let Some(driver) = self.reachable(state) else {
                    reply.answer(Err(DriverError::Unreachable { message: "there is no connection to its host now".into() }));
                    return Ok(());
                };
                let deadline = reply.deadline();
                ctx.task(async move {
                    let said = driver.guest_command(vm, command, deadline).await;
                    reply.answer(said);
                });
            }
            HostMsg::Peek { vm, reply } => self.peek(ctx, state, vm, reply),
            HostMsg::Prepare { vm, reply } => self.prepare(ctx, state, vm, reply),
            HostMsg::Clear { vm, reply } => self.clear(ctx, state, vm, reply),
            HostMsg::Migrate { vm, migration, reply } => self.migrate(ctx, state, vm, *migration, reply),
            HostMsg::Abort { vm, reply } => self.abort(ctx, state, vm, reply),
            HostMsg::Leave { seen, reply } => self.leave(ctx, state, seen, reply),
            HostMsg::Job { vm, reply } => self.job(ctx, state, vm, reply),
            HostMsg::ReadConsole { vm, from, wait_ms, reply } => self.read_console(ctx, state, vm, from, wait_ms, reply),
            HostMsg::TypeConsole { vm, bytes, reply } => self.type_console(ctx, state, vm, bytes.into_vec(), reply),
            HostMsg::Backup { vm, new, reply } => self.backup(ctx, state, vm, *new, reply),
            HostMsg::Copy { vm, only, reply } => self.copy(ctx, state, vm, only, reply),
            HostMsg::EndBackup { vm, new, reply } => self.end_backup(ctx, state, vm, *new, reply),
            HostMsg::ConsoleEnded { vm } => self.console_ended(ctx, state, vm),
            HostMsg::MigrationEnded { vm } => {
                state.migrating.remove(&vm);
                self.list_soon(ctx, state);
            }
            HostMsg::Opened(opened) => self.opened(ctx, state, opened),
            HostMsg::Changed(Change::Closed { why }) => {
                state.link = None;
                self.failed(ctx, state, &DriverError::Unreachable { message: why });
            }
            HostMsg::Changed(Change::Domain(_) | Change::Everything) => self.list_soon(ctx, state),
            HostMsg::Refresh => {
                self.list(ctx, state);
                self.figure(ctx, state);
                self.ensure(state).await?;
                self.look(ctx, state).await?;
                self.sweep(ctx, state);
                self.tend(ctx, state);
            }
            HostMsg::Adopted(done) => {
                if let Err(error) = done {
                    tracing::warn!(host = %self.spec.name, %error, "VMs that were found here are not its own yet");
                    state.adopted.clear();
                }
                self.list_soon(ctx, state);
            }
            HostMsg::Tended(tended) => self.tended(ctx, state, tended),
            HostMsg::List => {
                state.list_soon = None;
                self.list(ctx, state);
            }
            HostMsg::Figured { begun, result } => self.figured(state, begun, result),
            HostMsg::Listed { begun, result } => {
                state.listing = false;
                match result {
                    Ok(listing) => self.listed(ctx, state, begun, listing),
                    Err(error) => self.failed(ctx, state, &error),
                }
                if std::mem::take(&mut state.list_again) {
                    self.list_soon(ctx, state);
                }
            }
            HostMsg::Acted { vm, result } => match result {
                Ok(done) => {
                    self.answers(ctx, state);
                    let known = state.known.entry(vm).or_default();
                    if known.at < done.at {
                        known.see(done.at, done.domain);
                        // The VM's actor hears of it by the answer.
                        known.told = true;
                    }
                }
                Err(error) if error.is_of_host() => self.failed(ctx, state, &error),
                Err(_) => self.answers(ctx, state),
            },
            HostMsg::Measured(measured) => match measured {
                Ok(capacity) => {
                    state.capacity = Some(capacity);
                    self.say(ctx, state);
                }
                Err(error) => self.failed(ctx, state, &error),
            },
            HostMsg::Said { done } => {
                state.saying = false;
                if !done {
                    tracing::debug!(host = %self.spec.name, "the roster did not take what was said; it is said again");
                }
            }
            HostMsg::ChildStopped { vm } => {
                state.children.remove(&vm);
                state.epochs.remove(&vm);
                state.known.remove(&vm);
                state.gone.insert(vm, state.looks.fetch_add(1, Ordering::AcqRel) + 1);
                self.sweep_consoles(ctx);
                self.look(ctx, state).await?;
            }
            HostMsg::StrayGone { vm } => {
                state.strays.remove(&vm);
                // What it used may go now.
                state.tended.anew();
                self.tend(ctx, state);
            }
        }
        Ok(())
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        let running = state.known.values().filter(|known| known.domain.as_ref().is_some_and(|domain| domain.run.is_on())).count();
        serde_json::json!({
            "connected": state.link.is_some(), "breakerOpen": state.breaker.is_broken(), "vms": state.children.len(),
            "running": running, "foreign": state.foreign, "strays": state.strays.len(), "placement": self.placement,
            "stepsWaiting": STEPS_AT_ONCE.saturating_sub(state.steps.available_permits()), "lastError": state.last_error,
            "networks": state.tended.observe(), "measuring": state.figures.is_under_way(),
        })
    }
}

// The connection.
impl Host {
    pub(super) fn connect(&self, ctx: &Context<HostMsg>, state: &mut State) {
        if state.opening || state.link.is_some() || state.breaker.is_open(Instant::now()) {
            return;
        }
        state.opening = true;
        let (uri, host, me) = (HostUri::parse(&self.spec.uri), self.spec.id, ctx.addr().clone());
        let pool = self.spec.pool.clone();
        if let Ok(uri) = &uri
            && uri.scheme == Scheme::Simulated
        {
            let peers = self.services.peers.clone();
            Hypervisor::named(&uri.authority).guard(move || peers.may_act());
        }
        ctx.task(async move {
            let opened = match uri {
                Ok(uri) => {
                    let deadline = Deadline::after(OPEN_WITHIN);
                    let waited_ms = u64::try_from(OPEN_WITHIN.as_millis()).unwrap_or(u64::MAX);
                    tokio::time::timeout_at(deadline.instant(), driver::open(&uri, host, &pool, deadline))
                        .await
                        .unwrap_or(Err(DriverError::Expired { waited_ms }))
                }
                Err(refused) => Err(DriverError::Refused { message: refused.message }),
            };
            deliver(&me, HostMsg::Opened(opened.map(Box::new))).await;
        });
    }

    fn opened(&self, ctx: &Context<HostMsg>, state: &mut State, opened: Result<Box<Connection>, DriverError>) {
        state.opening = false;
        let Connection { driver, mut changes, pump } = match opened {
            Ok(connection) => *connection,
            Err(error) => return self.failed(ctx, state, &error),
        };
        let (held, let_go) = oneshot::channel::<()>();
        let me = ctx.addr().clone();
        ctx.task(async move {
            let listen = async {
                while let Some(change) = changes.recv().await {
                    let over = matches!(change, Change::Closed { .. });
                    deliver(&me, HostMsg::Changed(change)).await;
                    if over {
                        return;
                    }
                }
                deliver(&me, HostMsg::Changed(Change::Closed { why: "the connection ended".into() })).await;
            };
            tokio::select! {
                () = listen => {}
                // What it said last is still to be heard: its end alone ends nothing.
                () = async { pump.await; std::future::pending().await } => {}
                _ = let_go => {}
            }
        });
        let (asked, me) = (driver.clone(), ctx.addr().clone());
        ctx.task(async move {
            let measured = asked.capacity(Deadline::after(LIST_WITHIN)).await;
            deliver(&me, HostMsg::Measured(measured)).await;
        });
        state.link = Some(Link { driver, _held: held });
        state.adopted.clear();
        self.list(ctx, state);
        self.figure(ctx, state);
    }

    /// Notes that the hypervisor answers, and tells the roster if that may be news.
    pub(super) fn answers(&self, ctx: &Context<HostMsg>, state: &mut State) {
        if state.breaker.succeeded() {
            tracing::info!(host = %self.spec.name, "the hypervisor answers again");
        }
        if state.last_error.take().is_some() || state.capacity.is_some() {
            self.say(ctx, state);
        }
    }

    fn failed(&self, ctx: &Context<HostMsg>, state: &mut State, error: &DriverError) {
        tracing::debug!(host = %self.spec.name, %error, "a call to the hypervisor failed");
        state.last_error = Some(error.to_string());
        let now = Instant::now();
        if state.breaker.failed(now) {
            tracing::warn!(host = %self.spec.name, %error, "the hypervisor does not answer: nothing is asked of it for a while");
            ctx.set_note("does not answer");
            // Another connection may.
            state.link = None;
            self.say(ctx, state);
        }
        let again = state.breaker.open_until().map_or(LIST_AFTER * 5, |until| until.saturating_duration_since(now));
        state.list_soon = Some(ctx.after(again, HostMsg::List));
    }

    /// Tells the roster what it does not know yet: what the host has, or that it cannot be reached, or is empty now.
    pub(super) fn say(&self, ctx: &Context<HostMsg>, state: &mut State) {
        if state.saying {
            return;
        }
        let (host, placement) = (self.spec.id, self.placement);
        let change = self.services.directory.read(|known| {
            let entry = known.fleet.hosts.get(&host).filter(|entry| entry.place.placement == placement)?;
            if state.breaker.is_broken() {
                let why = state.last_error.clone().unwrap_or_else(|| "it does not answer".into());
                return entry.unreachable.is_none().then_some(FleetChange::Unreachable { host, placement, why });
            }
            let capacity = state.capacity.clone()?;
            if state.link.is_some() && (entry.unreachable.is_some() || entry.capacity.as_ref() != Some(&capacity)) {
                return Some(FleetChange::Reached { host, placement, capacity });
            }
            let on = |vm: &VmId| {
                state.known.get(vm).is_none_or(|known| known.domain.as_ref().is_some_and(|domain| domain.run.is_on()))
            };
            let empty = state.listed && !entry.vms.iter().any(on);
            (entry.drain == Some(Drain::Draining) && empty).then_some(FleetChange::Drained { host, placement })
        });
        let Some(change) = change else { return };
        state.saying = true;
        let (services, me) = (self.services.clone(), ctx.addr().clone());
        ctx.task(async move {
            let said = ask_roster(&services, change, Deadline::after(ROSTER_WITHIN)).await;
            deliver(&me, HostMsg::Said { done: said.is_ok() }).await;
        });
    }
}

// What is asked of it.
impl Host {
    /// Returns the connection, if anything may be asked of it now.
    pub(super) fn reachable(&self, state: &State) -> Option<Arc<dyn Driver>> {
        let link = state.link.as_ref()?;
        (!state.breaker.is_open(Instant::now())).then(|| link.driver.clone())
    }

    fn act(&self, ctx: &Context<HostMsg>, state: &mut State, vm: VmId, action: Action, reply: Reply<Result<Done, DriverError>>) {
        let unreachable = |why: String| Err(DriverError::Unreachable { message: why });
        if state.breaker.is_open(Instant::now()) {
            let why = state.last_error.clone().unwrap_or_else(|| "it does not answer".into());
            return reply.answer(unreachable(why));
        }
        let Some(link) = &state.link else {
            self.connect(ctx, state);
            return reply.answer(unreachable("there is no connection yet".into()));
        };
        if state.strays.contains(&vm) {
            return reply.answer(Err(DriverError::Failed { message: "what is left of it here is being removed".into() }));
        }
        let begins = matches!(action, Action::Define(_) | Action::Start | Action::Resume);
        let turn = needs_networks(&action).then(|| state.tended.turn());
        let (driver, looks, steps, me) = (link.driver.clone(), state.looks.clone(), state.steps.clone(), ctx.addr().clone());
        let (services, spec) = (self.services.clone(), self.spec.clone());
        ctx.task(async move {
            let Ok(_turn) = steps.acquire().await else { return };
            if reply.is_abandoned() {
                return;
            }
            if begins && let Err(message) = ha::may_run(&services, &spec, vm).await {
                return reply.answer(Err(DriverError::Failed { message }));
            }
            let ready = match turn {
                Some(turn) => make_ready(&services, spec.id, &*driver, turn, vm, reply.deadline()).await,
                None => Ok(None),
            };
            let result = match ready {
                // Held until it is done.
                Ok(_networks) => driver.act(vm, action, reply.deadline()).await,
                Err(error) => Err(error),
            };
            let done = result.map(|domain| Done { domain, at: looks.fetch_add(1, Ordering::AcqRel) + 1 });
            // First here, so that a later look is compared with it.
            deliver(&me, HostMsg::Acted { vm, result: done.clone() }).await;
            reply.answer(done);
        });
    }
}
