//! The trait that an actor's author implements, and the adapter that runs it in the actor library.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    child_spec::{Life, Parent},
    tree::{ActorStatus, Node, Tree},
};
use crate::{
    call::{Addr, Depth, Door, Envelope, TellError},
    fault,
    id::Key,
};

/// An actor. There is one value per life; its state is made in `start`. A failure or panic anywhere ends the life, and the
/// supervisor decides on the next one.
pub trait Behaviour: Send + Sync + 'static {
    type Msg: Send + 'static;
    type State: Send + 'static;

    /// Makes the state. Until it returns nothing is handled, though messages are admitted.
    fn start(&self, ctx: &Context<Self::Msg>) -> impl Future<Output = Result<Self::State, Failure>> + Send;

    fn handle(
        &self,
        ctx: &Context<Self::Msg>,
        msg: Self::Msg,
        state: &mut Self::State,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Runs last in an orderly stop, and not after a failure.
    fn stop(&self, ctx: &Context<Self::Msg>, state: &mut Self::State) -> impl Future<Output = ()> + Send {
        let _ = (ctx, state);
        async {}
    }

    /// Shows the state as tests, operators and the dashboard see it. Never put a secret in it.
    fn observe(&self, state: &Self::State) -> serde_json::Value {
        let _ = state;
        serde_json::Value::Null
    }
}

/// The reason why an actor dies. It is made from any error with `?`, or from words.
#[derive(Debug)]
pub struct Failure(Box<dyn std::error::Error + Send + Sync>);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl Failure {
    /// Makes a failure from words.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into().into())
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// A timer. Dropping it means that its message is not sent.
#[must_use = "dropping the handle stops the timer"]
pub struct TimerHandle(AbortHandle);

impl Drop for TimerHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All that a life knows of itself.
pub struct Context<M: Send + 'static> {
    addr: Addr<M>,
    node: Arc<Node>,
    tree: Tree,
    /// A token that is cancelled when this life ends, however it ends.
    over: CancellationToken,
}

impl<M: Send + 'static> Context<M> {
    /// Returns the address of this life.
    pub fn addr(&self) -> &Addr<M> {
        &self.addr
    }

    /// Returns the key of the entity that this actor is, if it has one.
    pub fn key(&self) -> Option<&Key> {
        self.node.key.as_ref()
    }

    /// Returns the path of this actor in the tree: names from the root, joined by `/`.
    pub fn path(&self) -> &str {
        self.node.path()
    }

    /// Returns the tree that this actor is in.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Shows a few words on what it is doing in the tree, until the next life.
    pub fn set_note(&self, note: &str) {
        self.node.set_note(note);
    }

    /// Ends this life in an orderly way after the present message.
    pub fn stop(&self) {
        self.addr.stop_self();
    }

    /// Runs `future` until it ends or this life does. A panic in it ends this life too.
    pub fn task(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn(future);
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let (over, addr) = (self.over.clone(), self.addr.clone());
        // Boxed, because what is moved into an async block and awaited there is kept twice.
        let mut future = Box::pin(AssertUnwindSafe(future).catch_unwind());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                ended = &mut future => if let Err(panic) = ended {
                    addr.task_failed(panic_words(&*panic));
                }
            }
        })
        .abort_handle()
    }

    /// Tells itself `msg` after `wait`, later if its mailbox is full then.
    pub fn after(&self, wait: Duration, msg: M) -> TimerHandle {
        let addr = self.addr.clone();
        TimerHandle(self.spawn(async move {
            tokio::time::sleep(wait).await;
            addr.deliver(msg).await;
        }))
    }

    /// Tells itself what `make` makes, every `period`; a turn at which its mailbox is full is left out.
    pub fn every(&self, period: Duration, make: impl Fn() -> M + Send + 'static) -> TimerHandle {
        let addr = self.addr.clone();
        TimerHandle(self.spawn(async move {
            let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
            turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                turns.tick().await;
                if let Err(TellError::Gone(_)) = addr.tell(make()) {
                    return;
                }
            }
        }))
    }
}

/// Returns the words that a panic said.
pub(super) fn panic_words(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", words.unwrap_or("without words"))
}

/// The way in which the lives of one child are made.
pub(super) struct Making<B: Behaviour> {
    pub(super) factory: Arc<dyn Fn() -> B + Send + Sync>,
    pub(super) door: Door<B::Msg>,
    pub(super) bound: usize,
    pub(super) start_timeout: Duration,
    pub(super) stop_timeout: Duration,
}

impl<B: Behaviour> Making<B> {
    /// Starts one life, linked to its supervisor.
    pub(super) async fn spawn(self: Arc<Self>, parent: Parent) -> Result<Life, String> {
        let behaviour = catch_unwind(AssertUnwindSafe(|| (self.factory)())).map_err(|panic| panic_words(&*panic))?;
        let adapter = Adapter { behaviour, node: parent.node, tree: parent.tree, making: self };
        match Actor::spawn_linked(None, adapter, (), parent.cell).await {
            Ok((actor, join)) => Ok(Life { cell: actor.get_cell(), join }),
            Err(ractor::SpawnErr::StartupFailed(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

struct Adapter<B: Behaviour> {
    behaviour: B,
    node: Arc<Node>,
    tree: Tree,
    making: Arc<Making<B>>,
}

struct Living<B: Behaviour> {
    ctx: Context<B::Msg>,
    /// The state; none once this life has failed or stopped. Its contents are dropped before its supervisor hears of the end, so
    /// that the next life finds files and locks free.
    state: Option<B::State>,
    depth: Arc<Depth>,
    over: Option<DropGuard>,
}

impl<B: Behaviour> Living<B> {
    fn let_go(&mut self) {
        self.over = None;
        let state = self.state.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(state))) {
            tracing::error!(actor = self.ctx.path(), panic = panic_words(&*panic), "its state panicked while it was let go");
        }
    }
}

/// A guard that drops the state unless the message was handled: after a failure, in a panic's unwinding, and when a kill cancels
/// the handling. It is cheaper at every message than catching its panic.
struct LetGo<'a, B: Behaviour>(&'a mut Living<B>);

impl<B: Behaviour> Drop for LetGo<'_, B> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl<B: Behaviour> Adapter<B> {
    /// Handles envelopes that are not messages of the actor: a look at the state, and the panic of a task.
    fn aside(&self, envelope: Envelope<B::Msg>, living: &mut Living<B>) -> Result<(), ActorProcessingErr> {
        match (envelope, &living.state) {
            (Envelope::Observe(look), Some(state)) => {
                let (reply, _ticket) = *look;
                // A look must not kill: whoever looks hears `Dropped`. And who asked may have given up.
                if let Ok(seen) = catch_unwind(AssertUnwindSafe(|| self.behaviour.observe(state))) {
                    let _ = reply.send(seen);
                }
                Ok(())
            }
            (Envelope::TaskFailed(message), _) => {
                living.let_go();
                Err(format!("a task of it {message}").into())
            }
            _ => Ok(()),
        }
    }

    async fn point(&self, name: &'static str) -> Result<(), Failure> {
        Ok(fault::actor_point(name, self.node.key.as_ref(), self.node.path()).await?)
    }
}

/// Puts the failure in the words that the tree shows.
fn outcome(ended: Result<Result<(), Failure>, Box<dyn Any + Send>>) -> Result<(), String> {
    match ended {
        Ok(Ok(())) => Ok(()),
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(panic) => Err(panic_words(&*panic)),
    }
}

impl<B: Behaviour> Actor for Adapter<B> {
    type Msg = Envelope<B::Msg>;
    type State = Living<B>;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, (): ()) -> Result<Living<B>, ActorProcessingErr> {
        let depth = Arc::new(Depth::default());
        let addr = Addr::new(myself, depth.clone(), self.making.bound);
        let watched = addr.clone();
        self.node.begin_life(
            depth.clone(),
            self.making.bound,
            Some(Arc::new(move |deadline| {
                let watched = watched.clone();
                Box::pin(async move { watched.observe(deadline).await })
            })),
        );
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        let ctx = Context { addr, node: self.node.clone(), tree: self.tree.clone(), over };
        let starting = AssertUnwindSafe(async {
            self.point("actor.start").await?;
            self.behaviour.start(&ctx).await
        });
        let state = match tokio::time::timeout(self.making.start_timeout, starting.catch_unwind()).await {
            Ok(Ok(Ok(state))) => state,
            Ok(Ok(Err(failure))) => return Err(failure.to_string().into()),
            Ok(Err(panic)) => return Err(panic_words(&*panic).into()),
            Err(_) => return Err(format!("not within {} ms", self.making.start_timeout.as_millis()).into()),
        };
        // From here on it answers.
        self.making.door.set(Some(&ctx.addr));
        Ok(Living { ctx, state: Some(state), depth, over: Some(guard) })
    }

    async fn handle(
        &self,
        _: ActorRef<Self::Msg>,
        envelope: Self::Msg,
        living: &mut Living<B>,
    ) -> Result<(), ActorProcessingErr> {
        let msg = match envelope {
            Envelope::User(msg) => msg,
            other => return self.aside(other, living),
        };
        living.depth.begin();
        let unless_handled = LetGo(living);
        let Living { ctx, state: Some(state), .. } = &mut *unless_handled.0 else { return Ok(()) };
        fault::actor_point("actor.handle", self.node.key.as_ref(), self.node.path()).await?;
        self.behaviour.handle(ctx, msg, state).await.map_err(|failure| failure.to_string())?;
        std::mem::forget(unless_handled);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, living: &mut Living<B>) -> Result<(), ActorProcessingErr> {
        self.node.set_status(ActorStatus::Stopping);
        let Some(state) = &mut living.state else { return Ok(()) };
        let stopping = AssertUnwindSafe(async {
            self.point("actor.stop").await?;
            self.behaviour.stop(&living.ctx, state).await;
            Ok(())
        });
        let stopped = match tokio::time::timeout(self.making.stop_timeout, stopping.catch_unwind()).await {
            Ok(stopped) => outcome(stopped).map_err(|message| format!("in its stop: {message}")),
            Err(_) => Err(format!("it did not stop within {} ms", self.making.stop_timeout.as_millis())),
        };
        living.let_go();
        stopped.map_err(Into::into)
    }
}
