//! The handle to a running supervisor: start, stop and restart children, and shut down.
//!
//! Asks the keeper, the actor that does it. Never touches a child itself.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use ractor::{Actor, ActorRef};
use tokio::sync::oneshot;

use super::{
    backoff::Backoff,
    child_spec::{ChildSpec, GRACE_DEFAULT, Life, Parent, Restart, Shutdown, SupervisorSpec},
    keeper::{Keeper, Msg},
    tree::Tree,
};
use crate::{call::Ticket, clock::Deadline};

/// The largest number of requests that one supervisor holds unanswered; one more is refused with `Busy`.
const REQUESTS_MAX: usize = 16_384;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error("a child named {0} is there already")]
    Duplicate(Arc<str>),
    #[error("{name} did not start: {message}")]
    Failed { name: Arc<str>, message: String },
    #[error("its supervisor has too many requests; nothing happened")]
    Busy,
    #[error("its supervisor is not running; nothing is kept of it")]
    Gone,
    #[error("not started by the deadline; it may still start")]
    Expired,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    #[error("there is no child named {0}")]
    NotFound(Arc<str>),
    /// A restart has stopped the child, which did not start; its restart goes on as its spec says.
    #[error("{name} did not start again: {message}")]
    NotStarted { name: Arc<str>, message: String },
    #[error("its supervisor has too many requests; nothing happened")]
    Busy,
    #[error("its supervisor is not running")]
    Gone,
    #[error("not done by the deadline; it is being done")]
    Expired,
}

/// The caller that waits for an answer.
pub(super) struct Asked<E> {
    reply: oneshot::Sender<Result<(), E>>,
    _ticket: Ticket,
}

impl<E> Asked<E> {
    /// Sends the answer. The caller may have given up; then the answer is dropped.
    pub(super) fn answer(self, result: Result<(), E>) {
        let _ = self.reply.send(result);
    }
}

pub(super) type Handle = Arc<ArcSwapOption<ActorRef<Msg>>>;

/// The handle to a running supervisor, which it follows through restarts. Cheap to clone; dropping it stops nothing.
#[derive(Clone)]
pub struct Supervisor {
    handle: Handle,
    requests: Arc<AtomicUsize>,
}

impl Supervisor {
    /// Starts a whole tree. Answers when every child has started, or with the first that has not, and then nothing runs.
    pub async fn root(spec: SupervisorSpec, tree: Tree) -> Result<Self, StartError> {
        let node = tree.add(None, spec.name.clone(), spec.kind, None);
        let supervisor = Self { handle: Handle::default(), requests: Arc::default() };
        let name = spec.name.clone();
        let keeper = Keeper { spec, node, tree, handle: supervisor.handle.clone() };
        Actor::spawn(None, keeper, ()).await.map_err(|error| StartError::Failed { name, message: error.to_string() })?;
        Ok(supervisor)
    }

    fn actor(&self) -> Option<ActorRef<Msg>> {
        self.handle.load_full().map(|actor| (*actor).clone())
    }

    async fn ask<E>(
        &self,
        deadline: Deadline,
        [busy, gone, expired]: [E; 3],
        make: impl FnOnce(Asked<E>) -> Msg,
    ) -> Result<(), E> {
        let Some(ticket) = Ticket::take(&self.requests, REQUESTS_MAX) else { return Err(busy) };
        let (reply, answer) = oneshot::channel();
        let Some(actor) = self.actor() else { return Err(gone) };
        if actor.send_message(make(Asked { reply, _ticket: ticket })).is_err() {
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
        self.ask(deadline, [StartError::Busy, StartError::Gone, StartError::Expired], |asked| Msg::Start(spec, asked)).await
    }

    /// Adds a child without waiting for its start: a start that fails is restarted as a failed life would be.
    pub async fn enlist_child(&self, spec: ChildSpec, deadline: Deadline) -> Result<(), StartError> {
        self.ask(deadline, [StartError::Busy, StartError::Gone, StartError::Expired], |asked| Msg::Enlist(spec, asked)).await
    }

    /// Stops a child and forgets it; answers when it is gone. Until then its name is taken.
    pub async fn stop_child(&self, name: &str, deadline: Deadline) -> Result<(), StopError> {
        self.ask(deadline, [StopError::Busy, StopError::Gone, StopError::Expired], |asked| Msg::Stop(name.into(), asked)).await
    }

    /// Stops a child and starts it again, whatever its status; a child that was given up gets another chance.
    pub async fn restart_child(&self, name: &str, deadline: Deadline) -> Result<(), StopError> {
        self.ask(deadline, [StopError::Busy, StopError::Gone, StopError::Expired], |asked| Msg::Restart(name.into(), asked)).await
    }

    /// Tells whether the supervisor runs now, and is neither starting, stopping nor between two lives.
    pub fn is_running(&self) -> bool {
        self.actor().is_some_and(|actor| actor.get_status() == ractor::ActorStatus::Running)
    }

    /// Waits until this supervisor has stopped or given up; for a root that is the end of the whole tree.
    pub async fn ended(&self) {
        if let Some(actor) = self.actor() {
            // Without a time limit it fails only when the actor is gone.
            let _ = actor.get_cell().wait(None).await;
        }
    }

    /// Stops the supervisor and all below it, children first, each as its spec says. What has not stopped `within` is killed.
    pub async fn shutdown(&self, within: Duration) {
        let Some(actor) = self.actor() else { return };
        let cell = actor.get_cell();
        if cell.stop_and_wait(None, Some(within)).await.is_err() && cell.get_status() != ractor::ActorStatus::Stopped {
            tracing::error!(?within, "the tree did not stop in time and is killed");
            let _ = cell.kill_and_wait(Some(within)).await;
        }
        self.handle.store(None);
    }
}

pub(super) fn child_spec(spec: SupervisorSpec) -> (ChildSpec, Supervisor) {
    let supervisor = Supervisor { handle: Handle::default(), requests: Arc::default() };
    let (handle, cleared) = (supervisor.handle.clone(), supervisor.handle.clone());
    let (name, kind) = (spec.name.clone(), spec.kind);
    let child = ChildSpec {
        name,
        kind,
        key: None,
        restart: Restart::Permanent,
        backoff: Backoff::none(),
        crash_loop: None,
        tried_again: None,
        shutdown: Shutdown::Grace(GRACE_DEFAULT * 6),
        essential: false,
        start: Arc::new(move |parent: Parent| {
            let keeper = Keeper { spec: spec.clone(), node: parent.node, tree: parent.tree, handle: handle.clone() };
            Box::pin(async move {
                let (actor, join) =
                    Actor::spawn_linked(None, keeper, (), parent.cell).await.map_err(|error| error.to_string())?;
                Ok(Life { cell: actor.get_cell(), join })
            })
        }),
        clear: Arc::new(move || cleared.store(None)),
    };
    (child, supervisor)
}
