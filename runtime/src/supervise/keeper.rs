//! The actor behind a supervisor: starts children in order, restarts what fails as the strategy says, gives up when it
//! fails too often.
//!
//! A supervisor that gives up stops its children in reverse order and fails, and its own supervisor decides: one level
//! at a time. Under `OneForOne` children are started, stopped and restarted beside each other, so one that hangs holds
//! up nobody; a start that needs no wait is made on the spot, because a hop to another task costs more than the start.
//! When it is started again it begins with the children of its spec; those added later are its owner's to add again.

use std::{sync::Arc, time::Duration};

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;

use super::{
    child_spec::{ChildSpec, Life, Parent, Restart, Shutdown, Strategy, SupervisorSpec},
    children::{Being, Child, Children, End, Then},
    intensity::{Intensity, Window},
    supervisor::{Asked, Handle, StartError, StopError},
    tree::{ActorStatus, Change, Node, Tree},
};

pub(super) enum Msg {
    Start(ChildSpec, Asked<StartError>),
    /// A child to add without a wait: it answers at once; a start that fails is a failure like any other.
    Enlist(ChildSpec, Asked<StartError>),
    Stop(Arc<str>, Asked<StopError>),
    Restart(Arc<str>, Asked<StopError>),
    /// Word that a start beside us is through, one way or the other.
    Started {
        name: Arc<str>,
        generation: u64,
    },
    /// Word that a stop beside us is through.
    Stopped {
        name: Arc<str>,
        generation: u64,
    },
    /// Word that a backoff is over.
    Due {
        name: Arc<str>,
        generation: u64,
    },
}

impl ractor::Message for Msg {}

pub(super) struct Keeper {
    pub(super) spec: SupervisorSpec,
    pub(super) node: Arc<Node>,
    pub(super) tree: Tree,
    pub(super) handle: Handle,
}

/// The reason why the supervisor gives up.
pub(super) struct GiveUp(String);

impl Actor for Keeper {
    type Msg = Msg;
    type State = Children;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Msg>, (): ()) -> Result<Children, ActorProcessingErr> {
        // A life before this one may have been killed before it could clear up.
        self.tree.clear(&self.node);
        self.node.begin_life(Arc::default(), 0, None);
        let mut children = Children::default();
        for spec in &self.spec.children {
            if children.by_name.contains_key(&spec.name) {
                self.stop_all(&mut children).await;
                return Err(StartError::Duplicate(spec.name.clone()).into());
            }
            let node = self.tree.add(Some(&self.node), spec.name.clone(), spec.kind, spec.key.clone());
            let name = children.add(spec.clone(), node, true, None);
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
            Msg::Start(spec, asked) => {
                self.start_new(&myself, children, spec, asked).await;
                Ok(())
            }
            Msg::Enlist(spec, asked) => {
                self.enlist(&myself, children, spec, asked).await;
                Ok(())
            }
            Msg::Stop(name, asked) => {
                self.stop_beside(&myself, children, &name, Then::Forget, asked).await;
                Ok(())
            }
            Msg::Restart(name, asked) => {
                self.stop_beside(&myself, children, &name, Then::Start, asked).await;
                Ok(())
            }
            Msg::Started { name, generation } => self.started(&myself, children, name, generation).await,
            Msg::Stopped { name, generation } => {
                if children
                    .by_name
                    .get(&name)
                    .is_some_and(|child| child.generation == generation && matches!(child.being, Being::Stopping(_)))
                {
                    children.take(&name);
                    self.stopped(&myself, children, &name).await;
                }
                Ok(())
            }
            Msg::Due { name, generation } => {
                if children
                    .by_name
                    .get(&name)
                    .is_some_and(|child| child.generation == generation && matches!(child.being, Being::Down))
                {
                    self.restart(&myself, children, &name).await;
                }
                Ok(())
            }
        };
        self.keep_on(children, kept).await
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        children: &mut Children,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, end) = match event {
            SupervisionEvent::ActorFailed(cell, error) => (cell.get_id(), End::Failed(error.to_string())),
            SupervisionEvent::ActorTerminated(cell, _, reason) => match reason {
                Some(reason) if reason == "killed" => (cell.get_id(), End::Failed("it was killed".into())),
                _ => (cell.get_id(), End::Orderly),
            },
            _ => return Ok(()),
        };
        let kept = match children.by_actor.get(&actor).cloned() {
            Some(name) => self.ended(&myself, children, name, end).await,
            None => {
                children.ended_early(actor, end);
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
        let Err(GiveUp(message)) = kept else { return Ok(()) };
        tracing::error!(supervisor = self.node.path(), %message, "gives up");
        self.node.failed(message.clone());
        self.tree.tell(&self.node, Change::GaveUp { message: message.clone() });
        self.handle.store(None);
        self.stop_all(children).await;
        self.node.set_status(ActorStatus::Failed);
        Err(message.into())
    }

    async fn start_new(&self, myself: &ActorRef<Msg>, children: &mut Children, spec: ChildSpec, asked: Asked<StartError>) {
        if children.by_name.contains_key(&spec.name) {
            return asked.answer(Err(StartError::Duplicate(spec.name)));
        }
        let node = self.tree.add(Some(&self.node), spec.name.clone(), spec.kind, spec.key.clone());
        let name = children.add(spec, node, false, Some(asked));
        self.start_beside(myself, children, &name).await;
    }

    async fn enlist(&self, myself: &ActorRef<Msg>, children: &mut Children, spec: ChildSpec, asked: Asked<StartError>) {
        if children.by_name.contains_key(&spec.name) {
            return asked.answer(Err(StartError::Duplicate(spec.name)));
        }
        let node = self.tree.add(Some(&self.node), spec.name.clone(), spec.kind, spec.key.clone());
        let name = children.add(spec, node, false, None);
        asked.answer(Ok(()));
        self.start_beside(myself, children, &name).await;
    }

    /// Prepares a start; returns the call to make, and its number.
    fn begin(
        &self,
        myself: &ActorRef<Msg>,
        child: &mut Child,
    ) -> (futures_util::future::BoxFuture<'static, Result<Life, String>>, u64) {
        if child.generation > 0 {
            child.node.restarted();
        }
        child.generation += 1;
        child.started = Instant::now();
        child.node.set_status(ActorStatus::Starting);
        let parent = Parent { cell: myself.get_cell(), node: child.node.clone(), tree: self.tree.clone() };
        ((child.spec.start)(parent), child.generation)
    }

    async fn start_now(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>) -> Result<(), String> {
        let Some(child) = children.by_name.get_mut(name) else { return Ok(()) };
        let (starting, _) = self.begin(myself, child);
        let life = starting.await?;
        self.is_up(children, name, life);
        Ok(())
    }

    /// Starts a child on the spot if the start needs no wait, else beside us.
    async fn start_beside(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>) {
        let Some(child) = children.by_name.get_mut(name) else { return };
        let (mut starting, generation) = self.begin(myself, child);
        match futures_util::poll!(&mut starting) {
            std::task::Poll::Ready(Ok(life)) => self.is_up(children, name, life),
            // A failure comes back as a message like any other, so that a crash loop leaves room for other messages.
            std::task::Poll::Ready(Err(message)) => self.go_on_beside(myself, children, name, generation, async { Err(message) }),
            std::task::Poll::Pending => self.go_on_beside(myself, children, name, generation, starting),
        }
    }

    /// Goes on with a start in a task, which is the child's while it starts; it ends by itself at the child's start timeout.
    fn go_on_beside(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut Children,
        name: &Arc<str>,
        generation: u64,
        starting: impl Future<Output = Result<Life, String>> + Send + 'static,
    ) {
        let (myself, told) = (myself.clone(), name.clone());
        let task = tokio::spawn(async move {
            let result = starting.await;
            // Whoever ends the supervisor ends this task and what it started.
            let _ = myself.send_message(Msg::Started { name: told, generation });
            result
        });
        children.set(name, Being::Starting(task));
    }

    fn is_up(&self, children: &mut Children, name: &Arc<str>, life: Life) {
        children.set(name, Being::Up(life));
        let Some(child) = children.by_name.get_mut(name) else { return };
        let change = match child.node.ready() {
            Some(took) => Change::Restarted { took },
            None => Change::Started,
        };
        self.tree.tell(&child.node, change);
        if let Some(asked) = child.starter.take() {
            asked.answer(Ok(()));
        }
        child.answer_stoppers(&Ok(()));
    }

    async fn started(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut Children,
        name: Arc<str>,
        generation: u64,
    ) -> Result<(), GiveUp> {
        if children.by_name.get(&name).is_none_or(|child| child.generation != generation) {
            return Ok(());
        }
        let result = match children.take(&name) {
            Being::Starting(task) => task.await.unwrap_or_else(|error| Err(error.to_string())),
            other => {
                // It was stopped while it started.
                children.set(&name, other);
                return Ok(());
            }
        };
        let kept = match result {
            Ok(life) => {
                let early = children.early.remove(&life.cell.get_id());
                self.is_up(children, &name, life);
                match early {
                    Some(end) => self.ended(myself, children, name, end).await,
                    None => Ok(()),
                }
            }
            Err(message) => self.not_started(myself, children, name, message).await,
        };
        children.settle();
        kept
    }

    async fn not_started(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut Children,
        name: Arc<str>,
        message: String,
    ) -> Result<(), GiveUp> {
        let Some(child) = children.by_name.get_mut(&name) else { return Ok(()) };
        if let Some(asked) = child.starter.take() {
            self.forget(children, &name);
            asked.answer(Err(StartError::Failed { name, message }));
            return Ok(());
        }
        child.answer_stoppers(&Err(StopError::NotStarted { name: name.clone(), message: message.clone() }));
        self.failed(myself, children, name, format!("it did not start: {message}")).await
    }

    async fn ended(&self, myself: &ActorRef<Msg>, children: &mut Children, name: Arc<str>, end: End) -> Result<(), GiveUp> {
        children.take(&name);
        let Some(child) = children.by_name.get_mut(&name) else { return Ok(()) };
        child.clear();
        match (end, child.spec.restart) {
            (End::Failed(message), Restart::Temporary) => {
                child.node.failed(message.clone());
                self.tree.tell(&child.node, Change::Failed { message });
                self.forget(children, &name);
                Ok(())
            }
            (End::Orderly, Restart::Temporary) => {
                self.tree.tell(&child.node, Change::Stopped);
                self.forget(children, &name);
                Ok(())
            }
            (End::Orderly, Restart::Transient) => {
                child.node.set_status(ActorStatus::Stopped);
                self.tree.tell(&child.node, Change::Stopped);
                Ok(())
            }
            (End::Failed(message), _) => self.failed(myself, children, name, message).await,
            (End::Orderly, Restart::Permanent) => self.failed(myself, children, name, "it stopped by itself".into()).await,
        }
    }

    async fn failed(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut Children,
        name: Arc<str>,
        message: String,
    ) -> Result<(), GiveUp> {
        let Some(child) = children.by_name.get_mut(&name) else { return Ok(()) };
        tracing::warn!(actor = child.node.path(), %message, "failed");
        child.node.failed(message.clone());
        self.tree.tell(&child.node, Change::Failed { message: message.clone() });
        let now = Instant::now();
        let reset_after = child.spec.backoff.reset_after;
        child.in_a_row = if !reset_after.is_zero() && now.duration_since(child.started) >= reset_after {
            1
        } else {
            child.in_a_row.saturating_add(1)
        };
        if child.spec.essential {
            // Never given up; its backoff keeps the loop slow.
        } else if let Some(own) = child.spec.crash_loop {
            let lived = now.duration_since(child.started);
            if child.spec.tried_again.is_some_and(|pauses| lived >= pauses.reset_after) {
                child.given_up = 0;
            }
            // One that was given up before has one try, not as many as at first.
            if child.given_up > 0 || !child.window.admit(&own, now) {
                child.given_up = child.given_up.saturating_add(1);
                child.node.set_status(ActorStatus::Failed);
                let mut message =
                    format!("given up after {} restarts within {} ms: {message}", own.restarts_max, own.period.as_millis());
                if let Some(pauses) = child.spec.tried_again {
                    let pause = pauses.wait(child.given_up.saturating_add(1), fastrand::f64());
                    message = format!("{message}; it is tried again in {} s", pause.as_secs());
                    later(myself, name, child.generation, pause);
                }
                child.node.set_note(&message);
                self.tree.tell(&child.node, Change::GaveUp { message });
                return Ok(());
            }
        } else if !children.window.admit(&self.spec.intensity, now) {
            child.node.set_status(ActorStatus::Failed);
            let Intensity { restarts_max, period } = self.spec.intensity;
            return Err(GiveUp(format!(
                "more than {restarts_max} restarts within {} ms, last {name}: {message}",
                period.as_millis()
            )));
        }
        child.node.set_status(ActorStatus::Restarting);
        let wait = child.spec.backoff.wait(child.in_a_row, fastrand::f64());
        if wait.is_zero() {
            self.restart(myself, children, &name).await;
            return Ok(());
        }
        later(myself, name, child.generation, wait);
        Ok(())
    }

    /// Starts a failed child again, and with it those that the strategy names.
    async fn restart(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>) {
        let first = match self.spec.strategy {
            Strategy::OneForOne => return self.start_beside(myself, children, name).await,
            Strategy::OneForAll => 0,
            Strategy::RestForOne => children.by_name.get(name).map_or(0, |child| child.order),
        };
        let group: Vec<Arc<str>> = children.order.range(first..).map(|(_, name)| name.clone()).collect();
        for member in group.iter().rev() {
            self.halt(children, member).await;
        }
        for member in &group {
            let Some(child) = children.by_name.get(member) else { continue };
            if child.spec.restart == Restart::Temporary {
                self.forget(children, member);
                continue;
            }
            // What was given up stays so until somebody asks for it.
            if child.node.status() == ActorStatus::Failed {
                continue;
            }
            if let Err(message) = self.start_now(myself, children, member).await {
                let generation = children.by_name.get(member).map_or(0, |child| child.generation);
                // Comes back as a message: those after it start when it does.
                return self.go_on_beside(myself, children, member, generation, async { Err(message) });
            }
        }
    }

    /// Stops one child that stays, unless it was on its way out.
    async fn halt(&self, children: &mut Children, name: &Arc<str>) {
        let Some(child) = children.by_name.get_mut(name) else { return };
        let leaves = match child.being {
            Being::Down => return,
            Being::Stopping(_) => child.then == Then::Forget,
            Being::Starting(_) | Being::Up(_) => false,
        };
        child.clear();
        child.node.set_status(ActorStatus::Stopping);
        let shutdown = child.spec.shutdown;
        children.take(name).end(shutdown).await;
        let Some(child) = children.by_name.get(name) else { return };
        child.node.set_status(ActorStatus::Stopped);
        self.tree.tell(&child.node, Change::Stopped);
        if leaves {
            self.forget(children, name);
        }
    }

    /// Stops a child beside us; what follows when it is down is `then`.
    async fn stop_beside(
        &self,
        myself: &ActorRef<Msg>,
        children: &mut Children,
        name: &Arc<str>,
        then: Then,
        asked: Asked<StopError>,
    ) {
        let Some(child) = children.by_name.get_mut(name) else { return asked.answer(Err(StopError::NotFound(name.clone()))) };
        if matches!(child.being, Being::Stopping(_)) {
            match (child.then, then) {
                (Then::Forget, Then::Start) => return asked.answer(Err(StopError::NotFound(name.clone()))),
                _ => child.then = then,
            }
            return child.stoppers.push(asked);
        }
        child.then = then;
        child.stoppers.push(asked);
        if let Some(asked) = child.starter.take() {
            asked.answer(Err(StartError::Failed { name: name.clone(), message: "it was stopped while it started".into() }));
        }
        if matches!(child.being, Being::Down) {
            return self.stopped(myself, children, name).await;
        }
        child.clear();
        child.node.set_status(ActorStatus::Stopping);
        let (generation, shutdown) = (child.generation, child.spec.shutdown);
        let being = children.take(name);
        children.settle();
        let (myself, told) = (myself.clone(), name.clone());
        // Ends by itself at the child's grace and the kill after it.
        let task = tokio::spawn(async move {
            being.end(shutdown).await;
            // The supervisor may have stopped meanwhile, and waited for this.
            let _ = myself.send_message(Msg::Stopped { name: told, generation });
        });
        children.set(name, Being::Stopping(task));
    }

    async fn stopped(&self, myself: &ActorRef<Msg>, children: &mut Children, name: &Arc<str>) {
        let Some(child) = children.by_name.get_mut(name) else { return };
        match child.then {
            Then::Forget => self.forget(children, name),
            Then::Start => {
                child.window = Window::default();
                child.in_a_row = 0;
                self.start_beside(myself, children, name).await;
            }
        }
    }

    /// Forgets a child, which must be down, and answers those who asked for its stop.
    fn forget(&self, children: &mut Children, name: &Arc<str>) {
        let Some(mut child) = children.forget(name) else { return };
        child.clear();
        child.node.set_status(ActorStatus::Stopped);
        self.tree.remove(&child.node);
        child.answer_stoppers(&Ok(()));
    }

    /// Stops all children: under `OneForOne` the added ones all at once first, then the rest one by one in reverse order.
    async fn stop_all(&self, children: &mut Children) {
        if self.spec.strategy == Strategy::OneForOne {
            let added: Vec<Arc<str>> = children
                .order
                .values()
                .rev()
                .filter(|name| children.by_name.get(*name).is_some_and(|child| !child.fixed))
                .cloned()
                .collect();
            let mut stopping = Vec::with_capacity(added.len());
            for name in &added {
                let being = children.take(name);
                if let Some(child) = children.by_name.get(name) {
                    child.clear();
                    child.node.set_status(ActorStatus::Stopping);
                    stopping.push(Self::end_of(child.node.clone(), being, child.spec.shutdown));
                }
            }
            futures_util::future::join_all(stopping).await;
        }
        let names: Vec<Arc<str>> = children.order.values().rev().cloned().collect();
        for name in &names {
            self.halt(children, name).await;
        }
        // A supervisor that is started again makes its children's records anew.
        for name in &names {
            self.forget(children, name);
        }
        self.node.set_status(ActorStatus::Stopped);
    }

    async fn end_of(node: Arc<Node>, being: Being, shutdown: Shutdown) {
        being.end(shutdown).await;
        node.set_status(ActorStatus::Stopped);
    }
}

/// Starts a child again after a while. Ends by itself; a later generation makes it void.
fn later(myself: &ActorRef<Msg>, name: Arc<str>, generation: u64, wait: Duration) {
    let myself = myself.clone();
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        // The supervisor may be gone by then, and the child with it.
        let _ = myself.send_message(Msg::Due { name, generation });
    });
}
