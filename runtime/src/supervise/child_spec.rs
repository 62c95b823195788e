//! The spec of a child: how it starts, whether it is restarted, how it is stopped.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use ractor::ActorCell;

use super::{
    backoff::Backoff,
    behaviour::{Behaviour, Making},
    intensity::Intensity,
    supervisor,
    tree::{Node, Tree},
};
use crate::{call::Door, id::Key};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// The child is always restarted.
    Permanent,
    /// The child is restarted after a failure, not after an orderly stop.
    Transient,
    /// The child is never restarted.
    Temporary,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Only the child that failed is restarted.
    OneForOne,
    /// All children are restarted.
    OneForAll,
    /// The child that failed is restarted, and those started after it.
    RestForOne,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// The child is asked to stop, and killed if it has not within this time.
    Grace(Duration),
    /// The child is killed at its next wait.
    Kill,
}

pub(super) type Start = Arc<dyn Fn(Parent) -> BoxFuture<'static, Result<Life, String>> + Send + Sync>;
pub(super) type Clear = Arc<dyn Fn() + Send + Sync>;

/// The time that a killed child may take to be gone before it is left behind and that is logged.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// One running life.
pub(super) struct Life {
    pub(super) cell: ActorCell,
    /// A task that ends when nothing of this life is left.
    pub(super) join: tokio::task::JoinHandle<()>,
}

impl Life {
    /// Stops it as asked, and kills it if it does not; waits until it is gone, or does not yield even to that.
    pub(super) async fn end(mut self, shutdown: Shutdown) {
        if let Shutdown::Grace(grace) = shutdown {
            self.cell.stop(None);
            if tokio::time::timeout(grace, &mut self.join).await.is_ok() {
                return;
            }
        }
        self.cell.kill();
        if tokio::time::timeout(KILL_WAIT, &mut self.join).await.is_err() {
            tracing::error!(actor = %self.cell.get_id(), "an actor does not yield even to a kill: it blocks its thread; it is left behind");
        }
    }
}

/// The supervisor under which a child is started.
pub(super) struct Parent {
    pub(super) cell: ActorCell,
    pub(super) node: Arc<Node>,
    pub(super) tree: Tree,
}

#[derive(Clone)]
pub struct ChildSpec {
    pub(super) name: Arc<str>,
    pub(super) kind: &'static str,
    pub(super) key: Option<Key>,
    pub(super) restart: Restart,
    pub(super) backoff: Backoff,
    pub(super) crash_loop: Option<Intensity>,
    pub(super) tried_again: Option<Backoff>,
    pub(super) shutdown: Shutdown,
    pub(super) essential: bool,
    pub(super) start: Start,
    /// A function that lets callers know at once that there is no life.
    pub(super) clear: Clear,
}

/// An actor's spec in the making; [`build`](ActorSpec::build) gives the spec and the door to the actor.
pub struct ActorSpec<B: Behaviour> {
    name: Arc<str>,
    kind: &'static str,
    key: Option<Key>,
    restart: Restart,
    backoff: Backoff,
    crash_loop: Option<Intensity>,
    tried_again: Option<Backoff>,
    shutdown: Shutdown,
    essential: bool,
    bound: usize,
    start_timeout: Duration,
    factory: Arc<dyn Fn() -> B + Send + Sync>,
}

pub const MAILBOX_BOUND_DEFAULT: usize = 1024;
pub const START_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
pub const GRACE_DEFAULT: Duration = Duration::from_secs(5);

impl ChildSpec {
    /// Begins the spec of an actor; `factory` makes the value of each life. It is always restarted unless it says otherwise.
    pub fn actor<B: Behaviour>(
        name: impl Into<Arc<str>>,
        kind: &'static str,
        factory: impl Fn() -> B + Send + Sync + 'static,
    ) -> ActorSpec<B> {
        ActorSpec {
            name: name.into(),
            kind,
            key: None,
            restart: Restart::Permanent,
            backoff: Backoff::none(),
            crash_loop: None,
            tried_again: None,
            shutdown: Shutdown::Grace(GRACE_DEFAULT),
            essential: false,
            bound: MAILBOX_BOUND_DEFAULT,
            start_timeout: START_TIMEOUT_DEFAULT,
            factory: Arc::new(factory),
        }
    }

    /// Makes a supervisor a child; its handle follows it through restarts.
    pub fn supervisor(spec: SupervisorSpec) -> (Self, supervisor::Supervisor) {
        supervisor::child_spec(spec)
    }

    /// Sets when the child is restarted.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Makes it essential: its supervisor never gives up on it, and restarts it with backoff for ever.
    pub fn essential(mut self) -> Self {
        self.essential = true;
        self.backoff = Backoff::default();
        self
    }
}

impl<B: Behaviour> ActorSpec<B> {
    /// Gives the actor a key, by which it is found in the tree.
    pub fn key(mut self, key: Key) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets when the actor is restarted. The default is always.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Sets the waits before restarts. The default is none, and for an essential actor [`Backoff::default`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Bounds its restarts: when it restarts more often than this, it alone is given up, and shown so; its supervisor and
    /// siblings go on. Without this, its restarts count against its supervisor's intensity.
    pub fn crash_loop(mut self, intensity: Intensity) -> Self {
        self.crash_loop = Some(intensity);
        self
    }

    /// Lets it be started again after it was given up for its crash loop, which is shown. The pause before that grows each time
    /// it is given up anew; the first pause is that after the first failure in a row.
    pub fn tried_again(mut self, pauses: Backoff) -> Self {
        self.tried_again = Some(pauses);
        self
    }

    /// Sets how the actor is stopped. The default is a grace of [`GRACE_DEFAULT`].
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.shutdown = shutdown;
        self
    }

    /// Makes it essential: its supervisor never gives up on it, and restarts it with backoff for ever.
    pub fn essential(mut self) -> Self {
        self.essential = true;
        self
    }

    /// Sets how many messages are admitted and not begun; one more is refused with `Busy`.
    pub fn mailbox(mut self, bound: usize) -> Self {
        self.bound = bound;
        self
    }

    /// Sets how long a life may take to start; after that the start has failed.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.start_timeout = timeout;
        self
    }

    /// Returns the spec, and the door that follows the actor through its restarts.
    pub fn build(self) -> (ChildSpec, Door<B::Msg>) {
        let door = Door::default();
        let outside = door.clone();
        let making = Arc::new(Making {
            factory: self.factory,
            door: door.clone(),
            bound: self.bound,
            start_timeout: self.start_timeout,
            stop_timeout: match self.shutdown {
                Shutdown::Grace(grace) => grace,
                Shutdown::Kill => GRACE_DEFAULT,
            },
        });
        let start: Start = Arc::new(move |parent| Box::pin(making.clone().spawn(parent)));
        let spec = ChildSpec {
            name: self.name,
            kind: self.kind,
            key: self.key,
            restart: self.restart,
            // What is never given up must not be restarted in a hot loop.
            backoff: if self.essential && self.backoff.first.is_zero() { Backoff::default() } else { self.backoff },
            crash_loop: self.crash_loop,
            tried_again: self.tried_again,
            shutdown: self.shutdown,
            essential: self.essential,
            start,
            clear: Arc::new(move || outside.set(None)),
        };
        (spec, door)
    }
}

#[derive(Clone)]
pub struct SupervisorSpec {
    pub name: Arc<str>,
    pub kind: &'static str,
    pub strategy: Strategy,
    pub intensity: Intensity,
    /// The children, started in this order and stopped in the reverse.
    pub children: Vec<ChildSpec>,
}

impl SupervisorSpec {
    /// Makes the spec of a supervisor with the default intensity.
    pub fn new(name: impl Into<Arc<str>>, strategy: Strategy, children: Vec<ChildSpec>) -> Self {
        Self { name: name.into(), kind: "supervisor", strategy, intensity: Intensity::default(), children }
    }

    /// Sets how often its children may be restarted before it gives up.
    pub fn intensity(mut self, intensity: Intensity) -> Self {
        self.intensity = intensity;
        self
    }
}
