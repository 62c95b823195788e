//! The children of a supervisor as it remembers them, by name, by order of start and by the actor of the present life.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ractor::ActorId;
use tokio::{task::JoinHandle, time::Instant};

use super::{
    child_spec::{ChildSpec, Life, Shutdown},
    intensity::Window,
    supervisor::{Asked, StartError, StopError},
    tree::Node,
};

/// The present state of a child.
#[derive(Default)]
pub(super) enum Being {
    /// It is stopped, given up, or waiting for its backoff.
    #[default]
    Down,
    /// It is being started beside the supervisor; the task sends word when it is through.
    Starting(JoinHandle<Result<Life, String>>),
    Up(Life),
    /// It is being stopped beside the supervisor; the task sends word when it is through.
    Stopping(JoinHandle<()>),
}

impl Being {
    /// Waits until nothing of it runs.
    pub(super) async fn end(self, shutdown: Shutdown) {
        match self {
            Self::Down => {}
            Self::Starting(starting) => {
                starting.abort();
                // It may have been through already.
                if let Ok(Ok(life)) = starting.await {
                    life.end(shutdown).await;
                }
            }
            Self::Up(life) => life.end(shutdown).await,
            // It ends by itself at the child's grace and the kill after it.
            Self::Stopping(stopping) => drop(stopping.await),
        }
    }
}

/// The next step after a stop that was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    Forget,
    Start,
}

pub(super) struct Child {
    pub(super) spec: ChildSpec,
    pub(super) node: Arc<Node>,
    pub(super) order: u64,
    /// True if the supervisor's spec names it, so that its place in the order counts.
    pub(super) fixed: bool,
    pub(super) being: Being,
    pub(super) then: Then,
    /// The number of the start, which grows with every one, so that what belongs to an earlier one is told apart.
    pub(super) generation: u64,
    pub(super) in_a_row: u32,
    pub(super) started: Instant,
    pub(super) window: Window,
    /// The number of times in a row that it was given up.
    pub(super) given_up: u32,
    /// The caller that asked for the first start.
    pub(super) starter: Option<Asked<StartError>>,
    /// The callers that asked for a stop or restart.
    pub(super) stoppers: Vec<Asked<StopError>>,
}

impl Child {
    /// Lets callers and readers know at once that there is no life.
    pub(super) fn clear(&self) {
        (self.spec.clear)();
        self.node.end_life();
    }

    pub(super) fn answer_stoppers(&mut self, result: &Result<(), StopError>) {
        for asked in self.stoppers.drain(..) {
            asked.answer(result.clone());
        }
    }
}

pub(super) enum End {
    Orderly,
    Failed(String),
}

#[derive(Default)]
pub(super) struct Children {
    pub(super) by_name: HashMap<Arc<str>, Child>,
    pub(super) order: BTreeMap<u64, Arc<str>>,
    pub(super) by_actor: HashMap<ActorId, Arc<str>>,
    /// The ends that were heard of before the start they belong to; kept only while something is starting.
    pub(super) early: HashMap<ActorId, End>,
    pub(super) window: Window,
    starting: usize,
    next_order: u64,
}

impl Children {
    pub(super) fn add(&mut self, spec: ChildSpec, node: Arc<Node>, fixed: bool, starter: Option<Asked<StartError>>) -> Arc<str> {
        let (name, order) = (spec.name.clone(), self.next_order);
        self.next_order += 1;
        self.order.insert(order, name.clone());
        let child = Child {
            spec,
            node,
            order,
            fixed,
            being: Being::Down,
            then: Then::Forget,
            generation: 0,
            in_a_row: 0,
            started: Instant::now(),
            window: Window::default(),
            given_up: 0,
            starter,
            stoppers: Vec::new(),
        };
        self.by_name.insert(name.clone(), child);
        name
    }

    /// Forgets a child, which must be down.
    pub(super) fn forget(&mut self, name: &str) -> Option<Child> {
        let child = self.by_name.remove(name)?;
        self.order.remove(&child.order);
        Some(child)
    }

    pub(super) fn set(&mut self, name: &str, being: Being) {
        let Some(child) = self.by_name.get_mut(name) else { return };
        match &being {
            Being::Starting(_) => self.starting += 1,
            Being::Up(life) => drop(self.by_actor.insert(life.cell.get_id(), child.spec.name.clone())),
            Being::Down | Being::Stopping(_) => {}
        }
        child.being = being;
    }

    /// Leaves the child down, and hands over what it was doing.
    pub(super) fn take(&mut self, name: &str) -> Being {
        let Some(child) = self.by_name.get_mut(name) else { return Being::Down };
        let being = std::mem::take(&mut child.being);
        match &being {
            Being::Up(life) => drop(self.by_actor.remove(&life.cell.get_id())),
            Being::Starting(_) => self.starting = self.starting.saturating_sub(1),
            Being::Down | Being::Stopping(_) => {}
        }
        being
    }

    /// Forgets ends that no start can belong to any more.
    pub(super) fn settle(&mut self) {
        if self.starting == 0 {
            self.early.clear();
        }
    }

    /// Keeps the end of an actor that is nobody's present life: it was stopped on purpose, or its start was not heard of yet.
    pub(super) fn ended_early(&mut self, actor: ActorId, end: End) {
        if self.starting > 0 {
            self.early.insert(actor, end);
        }
    }
}
