//! What an actor's author writes, and the adapter that runs it in the actor library.

use std::{
    sync::{Arc, atomic::{AtomicUsize, Ordering}},
    time::Duration,
};

use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::tree::{Node, Tree};
use crate::{
    call::{Addr, Door, Envelope, TellError},
    fault,
    id::Key,
};

/// An actor. One value per life; its state is made in `start`. A failure or panic anywhere ends the life, and the
/// supervisor decides on the next one.
pub trait Behaviour: Send + Sync + 'static {
    type Msg: Send + 'static;
    type State: Send + 'static;

    /// Makes the state. Until it returns nothing is handled, though messages are admitted.
    fn start(&self, ctx: &Context<Self::Msg>) -> impl Future<Output = Result<Self::State, Failure>> + Send;

    fn handle(&self, ctx: &Context<Self::Msg>, msg: Self::Msg, state: &mut Self::State) -> impl Future<Output = Result<(), Failure>> + Send;

    /// A last word in an orderly stop; not after a failure.
    fn stop(&self, ctx: &Context<Self::Msg>, state: &mut Self::State) -> impl Future<Output = ()> + Send {
        let _ = (ctx, state);
        async {}
    }

    /// The state as tests, operators and the dashboard see it. Never a secret.
    fn observe(&self, state: &Self::State) -> serde_json::Value {
        let _ = state;
        serde_json::Value::Null
    }
}

/// Why an actor dies. Made from any error with `?`, or from words.
#[derive(Debug)]
pub struct Failure(Box<dyn std::error::Error + Send + Sync>);

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl Failure {
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

/// A timer; dropping it means that its message is not sent.
#[must_use = "dropping the handle stops the timer"]
pub struct TimerHandle(AbortHandle);

impl Drop for TimerHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a life knows of itself.
pub struct Context<M: Send + 'static> {
    addr: Addr<M>,
    node: Arc<Node>,
    tree: Tree,
    /// Cancelled when this life ends, however it ends.
    over: CancellationToken,
}

/// How long a timer waits to try again when the mailbox is full.
const TIMER_RETRY: Duration = Duration::from_millis(10);

impl<M: Send + 'static> Context<M> {
    pub fn addr(&self) -> &Addr<M> {
        &self.addr
    }

    pub fn key(&self) -> Option<&Key> {
        self.node.key.as_ref()
    }

    pub fn path(&self) -> &str {
        self.node.path()
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// A few words on what it is doing, shown in the tree until the next life.
    pub fn set_note(&self, note: &str) {
        self.node.set_note(note);
    }

    /// Ends this life in an orderly way after the present message.
    pub fn stop(&self) {
        self.addr.stop_self();
    }

    /// Runs `future` until it ends or this life does.
    pub fn task(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.spawn(future);
    }

    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let over = self.over.clone();
        tokio::spawn(async move {
            tokio::select! { biased; () = over.cancelled() => {} () = future => {} }
        })
        .abort_handle()
    }

    /// Tells itself `msg` after `wait`, later if its mailbox is full then.
    pub fn after(&self, wait: Duration, msg: M) -> TimerHandle {
        let addr = self.addr.clone();
        TimerHandle(self.spawn(async move {
            tokio::time::sleep(wait).await;
            let mut msg = msg;
            while let Err(TellError::Busy(back)) = addr.tell(msg) {
                msg = back;
                tokio::time::sleep(TIMER_RETRY).await;
            }
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

/// Starts one life, linked to its supervisor.
pub(super) async fn spawn<B: Behaviour>(
    behaviour: B,
    node: Arc<Node>,
    tree: Tree,
    door: Door<B::Msg>,
    bound: usize,
    start_timeout: Duration,
    supervisor: ActorCell,
) -> Result<ActorCell, String> {
    let life = Life { behaviour, node, tree, door, bound, start_timeout };
    match Actor::spawn_linked(None, life, (), supervisor).await {
        Ok((actor, _)) => Ok(actor.get_cell()),
        Err(ractor::SpawnErr::StartupFailed(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

struct Life<B: Behaviour> {
    behaviour: B,
    node: Arc<Node>,
    tree: Tree,
    door: Door<B::Msg>,
    bound: usize,
    start_timeout: Duration,
}

struct Living<B: Behaviour> {
    ctx: Context<B::Msg>,
    state: B::State,
    depth: Arc<AtomicUsize>,
    _over: DropGuard,
}

impl<B: Behaviour> Actor for Life<B> {
    type Msg = Envelope<B::Msg>;
    type State = Living<B>;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Self::Msg>, (): ()) -> Result<Living<B>, ActorProcessingErr> {
        let depth = Arc::new(AtomicUsize::new(0));
        let addr = Addr::new(myself, depth.clone(), self.bound);
        let watched = addr.clone();
        self.node.begin_life(
            depth.clone(),
            self.bound,
            Some(Arc::new(move |deadline| {
                let watched = watched.clone();
                Box::pin(async move { watched.observe(deadline).await })
            })),
        );
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        let ctx = Context { addr, node: self.node.clone(), tree: self.tree.clone(), over };
        let starting = async {
            fault::point("actor.start", self.node.key.as_ref()).await?;
            self.behaviour.start(&ctx).await
        };
        let state = match tokio::time::timeout(self.start_timeout, starting).await {
            Ok(Ok(state)) => state,
            Ok(Err(failure)) => return Err(failure.to_string().into()),
            Err(_) => return Err(format!("it did not start within {} ms", self.start_timeout.as_millis()).into()),
        };
        // From here on it answers.
        self.door.set(Some(&ctx.addr));
        Ok(Living { ctx, state, depth, _over: guard })
    }

    async fn handle(&self, _: ActorRef<Self::Msg>, envelope: Self::Msg, living: &mut Living<B>) -> Result<(), ActorProcessingErr> {
        match envelope {
            Envelope::User(msg) => {
                living.depth.fetch_sub(1, Ordering::Relaxed);
                fault::point("actor.handle", self.node.key.as_ref()).await?;
                self.behaviour.handle(&living.ctx, msg, &mut living.state).await.map_err(|failure| failure.to_string().into())
            }
            Envelope::Observe(reply) => {
                // Who asked may have given up.
                let _ = reply.send(self.behaviour.observe(&living.state));
                Ok(())
            }
        }
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, living: &mut Living<B>) -> Result<(), ActorProcessingErr> {
        fault::point("actor.stop", self.node.key.as_ref()).await?;
        self.behaviour.stop(&living.ctx, &mut living.state).await;
        Ok(())
    }
}
