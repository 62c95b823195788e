//! Keeps children alive: starts them in order, restarts what fails as the strategy says, gives up when it fails too often.
//!
//! A supervisor that gives up stops its children in reverse order and fails, and its own supervisor decides: one level
//! at a time. Under `OneForOne` children start and stop beside each other, so one that hangs holds up nobody.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::{sync::oneshot, time::Instant};

use super::{
    backoff::Backoff,
    child_spec::{ChildSpec, GRACE_DEFAULT, Parent, Restart, Shutdown, Strategy, SupervisorSpec},
    intensity::{Intensity, Window},
    tree::{ActorStatus, Change, Node, Tree},
};
use crate::clock::Deadline;

/// How long a killed child may take to be gone before it is left behind and said so.
const KILL_WAIT: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("a child named {0} is there already")]
    Duplicate(Arc<str>),
    #[error("{name} did not start: {message}")]
    Failed { name: Arc<str>, message: String },
    #[error("its supervisor is not running; nothing happened")]
    Gone,
    #[error("not started by the deadline; it may still start")]
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    #[error("there is no child named {0}")]
    NotFound(Arc<str>),
    #[error("its supervisor is not running")]
    Gone,
    #[error("not stopped by the deadline; it is being stopped")]
    Expired,
}

enum Msg {
    Start(ChildSpec, oneshot::Sender<Result<(), StartError>>),
    /// Answers at once; a start that fails is a failure like any other.
    Enlist(ChildSpec, oneshot::Sender<Result<(), StartError>>),
    Stop(Arc<str>, oneshot::Sender<Result<(), StopError>>),
    /// Stops a child and starts it again, whatever its status; a child that was given up gets another chance.
    Restart(Arc<str>, oneshot::Sender<Result<(), StopError>>),
    Started { name: Arc<str>, generation: u64, result: Result<ActorCell, String> },
    /// A backoff is over.
    Due { name: Arc<str>, generation: u64 },
}

impl ractor::Message for Msg {}

type Handle = Arc<ArcSwapOption<ActorRef<Msg>>>;

/// A running supervisor; follows it through its own restarts. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor {
    handle: Handle,
}

impl Supervisor {
    /// Starts a whole tree. Answers when every child has started, or with the first that has not, and then nothing runs.
    pub async fn root(spec: SupervisorSpec, tree: Tree) -> Result<Self, StartError> {
        let node = tree.add(None, spec.name.clone(), spec.kind, None);
        let handle = Handle::default();
        let name = spec.name.clone();
        let actor = Keeper { spec, node, tree, handle: handle.clone() };
        Actor::spawn(None, actor, ()).await.map_err(|error| StartError::Failed { name, message: error.to_string() })?;
        Ok(Self { handle })
    }

    fn actor(&self) -> Option<ActorRef<Msg>> {
        self.handle.load_full().map(|actor| (*actor).clone())
    }

    async fn ask<T, E>(&self, deadline: Deadline, gone: E, expired: E, make: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Msg) -> Result<T, E> {
        let (reply, answer) = oneshot::channel();
        let Some(actor) = self.actor() else { return Err(gone) };
        if actor.send_message(make(reply)).is_err() {
            return Err(gone);
        }
        match tokio::time::timeout_at(deadline.instant(), answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(gone),
            Err(_) => Err(expired),
        }
    }

    /// Adds a child; answers when it has started. A child that fails its first start is not kept.
    pub async fn start_child(&self, spec: ChildSpec, deadline: Deadline) -> Result<(), StartError> {
        self.ask(deadline, StartError::Gone, StartError::Expired, |reply| Msg::Start(spec, reply)).await
    }

    /// Adds a child without waiting for its start: a start that fails is restarted as a failed life would be.
    pub async fn enlist_child(&self, spec: ChildSpec, deadline: Deadline) -> Result<(), StartError> {
        self.ask(deadline, StartError::Gone, StartError::Expired, |reply| Msg::Enlist(spec, reply)).await
    }

    /// Stops a child and forgets it.
    pub async fn stop_child(&self, name: &str, deadline: Deadline) -> Result<(), StopError> {
        self.ask(deadline, StopError::Gone, StopError::Expired, |reply| Msg::Stop(name.into(), reply)).await
    }

    pub async fn restart_child(&self, name: &str, deadline: Deadline) -> Result<(), StopError> {
        self.ask(deadline, StopError::Gone, StopError::Expired, |reply| Msg::Restart(name.into(), reply)).await
    }

    pub fn is_running(&self) -> bool {
        self.actor().is_some_and(|actor| actor.get_status() == ractor::ActorStatus::Running)
    }

    /// Stops all of it, children first, each as its spec says.
    pub async fn shutdown(&self, within: Duration) {
        if let Some(actor) = self.actor() {
            stop_cell(&actor.get_cell(), Shutdown::Grace(within)).await;
        }
    }
}

pub(super) fn child_spec(spec: SupervisorSpec) -> (ChildSpec, Supervisor) {
    let handle = Handle::default();
    let supervisor = Supervisor { handle: handle.clone() };
    let cleared = handle.clone();
    let (name, kind) = (spec.name.clone(), spec.kind);
    let child = ChildSpec {
        name,
        kind,
        key: None,
        restart: Restart::Permanent,
        backoff: Backoff::none(),
        crash_loop: None,
        shutdown: Shutdown::Grace(GRACE_DEFAULT * 6),
        essential: false,
        start: Arc::new(move |parent: Parent| {
            let actor = Keeper { spec: spec.clone(), node: parent.node, tree: parent.tree, handle: handle.clone() };
            Box::pin(async move {
                let (actor, _) = Actor::spawn_linked(None, actor, (), parent.cell).await.map_err(|error| error.to_string())?;
                Ok(actor.get_cell())
            })
        }),
        clear: Arc::new(move || cleared.store(None)),
    };
    (child, supervisor)
}

/// Stops an actor as asked, and kills it if it does not.
async fn stop_cell(cell: &ActorCell, shutdown: Shutdown) {
    if let Shutdown::Grace(grace) = shutdown
        && cell.stop_and_wait(None, Some(grace)).await.is_ok()
    {
        return;
    }
    if cell.get_status() == ractor::ActorStatus::Stopped {
        return;
    }
    if cell.kill_and_wait(Some(KILL_WAIT)).await.is_err() && cell.get_status() != ractor::ActorStatus::Stopped {
        tracing::error!(actor = %cell.get_id(), "an actor does not yield even to a kill: it blocks its thread; it is left behind");
    }
}

struct Keeper {
    spec: SupervisorSpec,
    node: Arc<Node>,
    tree: Tree,
    handle: Handle,
}

struct Child {
    spec: ChildSpec,
    node: Arc<Node>,
    order: u64,
    cell: Option<ActorCell>,
    /// Grows with every start, so that what belongs to an earlier one is told apart.
    generation: u64,
    in_a_row: u32,
    started: Instant,
    window: Window,
    waiting: Option<oneshot::Sender<Result<(), StartError>>>,
}

struct Children {
    by_name: HashMap<Arc<str>, Child>,
    order: BTreeMap<u64, Arc<str>>,
    by_actor: HashMap<ActorId, Arc<str>>,
    /// Ends that were heard of before the start they belong to.
    early: HashMap<ActorId, End>,
    window: Window,
    next_order: u64,
}

enum End {
    Orderly,
    Failed(String),
}

/// The supervisor gives up.
struct GiveUp(String);

impl Actor for Keeper {
    type Msg = Msg;
    type State = Children;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Children, ActorProcessingErr> {
        self.node.begin_life(Arc::default(), 0, None);
        let mut children = Children {
            by_name: HashMap::new(),
            order: BTreeMap::new(),
            by_actor: HashMap::new(),
            early: HashMap::new(),
            window: Window::default(),
            next_order: 0,
        };
        for spec in &self.spec.children {
            let name = self.add(&mut children, spec.clone(), None);
            if let Err(message) = self.start_now(&myself, &mut children, &name).await {
                self.stop_all(&mut children).await;
                return Err(format!("{name} did not start: {message}").into());
            }
        }
        self.handle.store(Some(Arc::new(myself)));
        Ok(children)
    }

    async fn post_start(&self, _: ActorRef<Msg>, _: &mut Children) -> Result<(), ActorProcessingErr> {
        self.node.set_status(ActorStatus::Running);
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, children: &mut Children) -> Result<(), ActorProcessingErr> {
        let kept = match msg {
            Msg::Start(spec, reply) => {
                if children.by_name.contains_key(&spec.name) {
                    // Who asked may have given up.
                    let _ = reply.send(Err(StartError::Duplicate(spec.name)));
                } else {
                    let name = self.add(children, spec, Some(reply));
                    self.start_beside(&myself, children, &name);
                }
                Ok(())
            }
            Msg::Enlist(spec, reply) => {
                let answer = if children.by_name.contains_key(&spec.name) {
                    Err(StartError::Duplicate(spec.name))
                } else {
                    let name = self.add(children, spec, None);
                    self.start_beside(&myself, children, &name);
                    Ok(())
                };
                // Who asked may have given up.
                let _ = reply.send(answer);
                Ok(())
            }
            Msg::Stop(name, reply) => {
                self.stop_one(children, &name, reply);
                Ok(())
            }
            Msg::Restart(name, reply) => {
                self.restart_one(&myself, children, &name, reply).await;
                Ok(())
            }
            Msg::Started { name, generation, result } => self.started(&myself, children, name, generation, result).await,
            Msg::Due { name, generation } => {
                if children.by_name.get(&name).is_some_and(|child| child.generation == generation && child.cell.is_none()) {
                    self.restart(&myself, children, &name).await
                } else {
                    Ok(())
                }
            }
        };
        self.keep_on(children, kept).await
    }

    async fn handle_supervisor_evt(&self, myself: ActorRef<Msg>, event: SupervisionEvent, children: &mut Children) -> Result<(), ActorProcessingErr> {
        let (actor, end) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), End::Failed(error.to_string())),
            SupervisionEvent::ActorTerminated(cell, _, reason) => match reason {
                Some(reason) if reason == "killed" => (cell.get_id(), End::Failed("it was killed".into())),
                _ => (cell.get_id(), End::Orderly),
            },
            _ => return Ok(()),
        };
        let kept = match children.by_actor.remove(&actor) {
            Some(name) => self.ended(&myself, children, name, end).await,
            None => {
                // Of a child that was stopped on purpose, or whose start we have not heard of yet.
                if children.by_name.values().any(|child| child.cell.is_none() && child.node.status() == ActorStatus::Starting) {
                    children.early.insert(actor, end);
                }
                Ok(())
            }
        };
        self.keep_on(children, kept).await
    }

    async fn post_stop(&self, _: ActorRef<Msg>, children: &mut Children) -> Result<(), ActorProcessingErr> {
        self.node.set_status(ActorStatus::Stopping);
        self.stop_all(children).await;
        Ok(())
    }
}

impl Keeper {
    async fn keep_on(&self, children: &mut Children, kept: Result<(), GiveUp>) -> Result<(), ActorProcessingErr> {
        match kept {
            Ok(()) => Ok(()),
            Err(GiveUp(message)) => {
                tracing::error!(supervisor = self.node.path(), %message, "gives up");
                self.tree.tell(&self.node, Change::GaveUp { message: message.clone() });
                self.handle.store(None);
                self.stop_all(children).await;
                Err(message.into())
            }
        }
    }

    fn add(&self, children: &mut Children, spec: ChildSpec, waiting: Option<oneshot::Sender<Result<(), StartError>>>) -> Arc<str> {
        let name = spec.name.clone();
        let node = self.tree.add(Some(&self.node), name.clone(), spec.kind, spec.key.clone());
        let order = children.next_order;
        children.next_order += 1;
        children.order.insert(order, name.clone());
        children.by_name.insert(
            name.clone(),
            Child { spec, node, order, cell: None, generation: 0, in_a_row: 0, started: Instant::now(), window: Window::default(), waiting },
        );
        name
    }

    fn forget(&self, children: &mut Children, name: &Arc<str>) -> Option<Child> {
        let child = children.by_name.remove(name)?;
        children.order.remove(&child.order);
        if let Some(cell) = &child.cell {
            children.by_actor.remove(&cell.get_id());
        }
        (child.spec.clear)();
        Some(child)
    }

    /// Prepares a start: the call to make, and its number.
    fn begin(&self, myself: &ActorRef<Msg>, child: &mut Child) -> (impl Future<Output = Result<ActorCell, String>> + Send + use<>, u64) {
        child.generation += 1;
        child.started = Instant::now();
        child.node.set_status(ActorStatus::Starting);
        let parent = Parent { cell: myself.get_cell(), node: child.node.clone(), tree: self.tree.clone() };
        ((child.spec.start)(parent), child.generation)
    }

    async fn start_now(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>) -> Result<(), String> {
        let Some(child) = children.by_name.get_mut(name) else { return Ok(()) };
        let (starting, _) = self.begin(myself, child);
        let cell = starting.await?;
        children.by_actor.insert(cell.get_id(), name.clone());
        self.is_up(child, cell);
        Ok(())
    }

    fn start_beside(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>) {
        let Some(child) = children.by_name.get_mut(name) else { return };
        let (starting, generation) = self.begin(myself, child);
        let (myself, name) = (myself.clone(), name.clone());
        // Ends by itself at the child's start timeout.
        tokio::spawn(async move {
            let result = starting.await;
            if let Err(ractor::MessagingErr::SendErr(Msg::Started { result: Ok(cell), .. })) = myself.send_message(Msg::Started { name, generation, result }) {
                cell.kill();
            }
        });
    }

    fn is_up(&self, child: &mut Child, cell: ActorCell) {
        child.cell = Some(cell);
        let change = match child.node.ready() {
            Some(took) => Change::Restarted { took },
            None => Change::Started,
        };
        self.tree.tell(&child.node, change);
        if let Some(waiting) = child.waiting.take() {
            // Who asked may have given up.
            let _ = waiting.send(Ok(()));
        }
    }

    async fn started(&self, myself: &ActorRef<Msg>, children: &mut Children, name: Arc<str>, generation: u64, result: Result<ActorCell, String>) -> Result<(), GiveUp> {
        let Some(child) = children.by_name.get_mut(&name).filter(|child| child.generation == generation) else {
            // It was stopped while it started.
            if let Ok(cell) = result {
                children.early.remove(&cell.get_id());
                cell.stop(None);
            }
            return Ok(());
        };
        match result {
            Ok(cell) => {
                let actor = cell.get_id();
                self.is_up(child, cell);
                match children.early.remove(&actor) {
                    Some(end) => self.ended(myself, children, name, end).await,
                    None => {
                        children.by_actor.insert(actor, name);
                        Ok(())
                    }
                }
            }
            Err(message) => match child.waiting.take() {
                Some(waiting) => {
                    // Who asked may have given up.
                    let _ = waiting.send(Err(StartError::Failed { name: name.clone(), message }));
                    if let Some(child) = self.forget(children, &name) {
                        self.tree.remove(&child.node);
                    }
                    Ok(())
                }
                None => self.failed(myself, children, name, format!("it did not start: {message}")).await,
            },
        }
    }

    async fn ended(&self, myself: &ActorRef<Msg>, children: &mut Children, name: Arc<str>, end: End) -> Result<(), GiveUp> {
        let Some(child) = children.by_name.get_mut(&name) else { return Ok(()) };
        child.cell = None;
        (child.spec.clear)();
        match (end, child.spec.restart) {
            (End::Failed(message), Restart::Temporary) => {
                child.node.failed(message.clone());
                self.tree.tell(&child.node, Change::Failed { message });
                if let Some(child) = self.forget(children, &name) {
                    self.tree.remove(&child.node);
                }
                Ok(())
            }
            (End::Failed(message), _) => self.failed(myself, children, name, message).await,
            (End::Orderly, Restart::Permanent) => self.failed(myself, children, name, "it stopped by itself".into()).await,
            (End::Orderly, _) => {
                child.node.set_status(ActorStatus::Stopped);
                self.tree.tell(&child.node, Change::Stopped);
                Ok(())
            }
        }
    }

    async fn failed(&self, myself: &ActorRef<Msg>, children: &mut Children, name: Arc<str>, message: String) -> Result<(), GiveUp> {
        let Some(child) = children.by_name.get_mut(&name) else { return Ok(()) };
        tracing::warn!(actor = child.node.path(), %message, "failed");
        child.node.failed(message.clone());
        self.tree.tell(&child.node, Change::Failed { message: message.clone() });
        let now = Instant::now();
        let reset_after = child.spec.backoff.reset_after;
        child.in_a_row = if !reset_after.is_zero() && now.duration_since(child.started) >= reset_after { 1 } else { child.in_a_row.saturating_add(1) };
        if let Some(own) = child.spec.crash_loop {
            if !child.window.admit(&own, now) {
                child.node.set_status(ActorStatus::Failed);
                let message = format!("given up after {} restarts within {} ms: {message}", own.restarts_max, own.period.as_millis());
                self.tree.tell(&child.node, Change::GaveUp { message });
                return Ok(());
            }
        } else if !child.spec.essential && !children.window.admit(&self.spec.intensity, now) {
            child.node.set_status(ActorStatus::Failed);
            let Intensity { restarts_max, period } = self.spec.intensity;
            return Err(GiveUp(format!("more than {restarts_max} restarts within {} ms, last {name}: {message}", period.as_millis())));
        }
        child.node.set_status(ActorStatus::Restarting);
        let wait = child.spec.backoff.wait(child.in_a_row, fastrand::f64());
        if wait.is_zero() {
            return self.restart(myself, children, &name).await;
        }
        let generation = child.generation;
        // Ends by itself after the wait; a later generation makes it void.
        let myself = myself.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            // The supervisor may be gone by then, and the child with it.
            let _ = myself.send_message(Msg::Due { name, generation });
        });
        Ok(())
    }

    /// Starts a failed child again, and with it whom the strategy names.
    async fn restart(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>) -> Result<(), GiveUp> {
        let Some(child) = children.by_name.get_mut(name) else { return Ok(()) };
        child.node.restarted();
        let first = match self.spec.strategy {
            Strategy::OneForOne => {
                self.start_beside(myself, children, name);
                return Ok(());
            }
            Strategy::OneForAll => 0,
            Strategy::RestForOne => child.order,
        };
        let group: Vec<Arc<str>> = children.order.range(first..).map(|(_, name)| name.clone()).collect();
        for member in group.iter().rev() {
            self.halt(children, member).await;
        }
        for member in &group {
            if let Err(message) = self.start_now(myself, children, member).await {
                // Boxed: a start that fails is a failure like any other, and leads back here until intensity stops it.
                return Box::pin(self.failed(myself, children, member.clone(), format!("it did not start: {message}"))).await;
            }
        }
        Ok(())
    }

    /// Stops one child that stays in the tree.
    async fn halt(&self, children: &mut Children, name: &Arc<str>) {
        let Some(child) = children.by_name.get_mut(name) else { return };
        let Some(cell) = child.cell.take() else { return };
        children.by_actor.remove(&cell.get_id());
        child.node.set_status(ActorStatus::Stopping);
        (child.spec.clear)();
        stop_cell(&cell, child.spec.shutdown).await;
        child.node.set_status(ActorStatus::Stopped);
        self.tree.tell(&child.node, Change::Stopped);
    }

    fn stop_one(&self, children: &mut Children, name: &Arc<str>, reply: oneshot::Sender<Result<(), StopError>>) {
        let Some(child) = self.forget(children, name) else {
            // Who asked may have given up.
            let _ = reply.send(Err(StopError::NotFound(name.clone())));
            return;
        };
        child.node.set_status(ActorStatus::Stopping);
        let tree = self.tree.clone();
        // Ends by itself at the child's grace and the kill after it.
        tokio::spawn(async move {
            if let Some(cell) = &child.cell {
                stop_cell(cell, child.spec.shutdown).await;
            }
            child.node.set_status(ActorStatus::Stopped);
            tree.remove(&child.node);
            let _ = reply.send(Ok(()));
        });
    }

    async fn restart_one(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>, reply: oneshot::Sender<Result<(), StopError>>) {
        if !children.by_name.contains_key(name) {
            let _ = reply.send(Err(StopError::NotFound(name.clone())));
            return;
        }
        self.halt(children, name).await;
        if let Some(child) = children.by_name.get_mut(name) {
            child.window = Window::default();
            child.in_a_row = 0;
            child.node.restarted();
        }
        self.start_beside(myself, children, name);
        let _ = reply.send(Ok(()));
    }

    async fn stop_all(&self, children: &mut Children) {
        let names: Vec<Arc<str>> = children.order.values().rev().cloned().collect();
        if self.spec.strategy == Strategy::OneForOne {
            let mut stopping = Vec::new();
            for name in &names {
                if let Some(child) = children.by_name.get_mut(name)
                    && let Some(cell) = child.cell.take()
                {
                    child.node.set_status(ActorStatus::Stopping);
                    (child.spec.clear)();
                    let (node, shutdown) = (child.node.clone(), child.spec.shutdown);
                    stopping.push(async move {
                        stop_cell(&cell, shutdown).await;
                        node.set_status(ActorStatus::Stopped);
                    });
                }
            }
            futures_util::future::join_all(stopping).await;
        } else {
            for name in &names {
                self.halt(children, name).await;
            }
        }
        // A supervisor that is started again makes its children's records anew.
        for (_, child) in children.by_name.drain() {
            self.tree.remove(&child.node);
        }
        children.order.clear();
        children.by_actor.clear();
        self.node.set_status(ActorStatus::Stopped);
    }
}
