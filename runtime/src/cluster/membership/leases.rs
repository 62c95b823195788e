//! The tasks that ask for leases, and grant them, in time.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{MembershipSetup, NodeState, ask_every};
use crate::{
    clock::{BootClock, BootTime, Deadline},
    cluster::lease::{Ask, Grant, Grantor, Holder, NotGranted, Phase},
    ledger::AppendError,
    net::{
        desk::{Desk, number},
        rpc::RpcError,
    },
    op::NodeId,
};

/// The pause between two looks at the phase of the own lease.
const PHASE_EVERY: Duration = Duration::from_millis(50);
/// The pause between two looks of a leader at whose lease is over.
const OVERDUE_EVERY: Duration = Duration::from_millis(100);
/// The pause between asks while no lease is held: nothing runs here until one is.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const ASK_WITHIN: Duration = Duration::from_millis(1_000);

#[derive(Serialize, Deserialize)]
struct LeaseAsk {
    ask: Ask,
    /// True if nothing that was placed there before runs any more.
    holds_nothing: bool,
}

#[derive(Serialize, Deserialize)]
enum LeaseAnswer {
    Granted(Grant),
    NotGranted(NotGranted),
    NotLeading,
}

/// The lease of one node as its grantor counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    pub node: NodeId,
    /// The time before the node is called lost; none if it is lost already.
    pub left: Option<Duration>,
}

struct Granting {
    term: u64,
    grantor: Grantor,
}

pub struct Leases {
    pub setup: MembershipSetup,
    desk: Desk<LeaseAsk, LeaseAnswer>,
    holder: Mutex<Holder>,
    granting: Mutex<Option<Granting>>,
}

fn now() -> Option<BootTime> {
    BootClock.now()
}

impl Leases {
    /// Makes a node's side of leases, with none held; it answers nobody before [`Self::open`].
    pub fn new(setup: MembershipSetup) -> Self {
        let holder = Mutex::new(Holder::new(setup.terms, setup.generation));
        // The Raft lane: leases must not wait behind other things either.
        let desk = Desk::new(setup.lane.clone(), number::LEASES);
        Self { setup, desk, holder, granting: Mutex::default() }
    }

    /// Answers nodes that ask for their leases from now on, until [`Self::close`].
    pub fn open(self: &Arc<Self>) {
        let leases = Arc::downgrade(self);
        self.desk.open(move |peer, asked| {
            let leases = leases.upgrade();
            async move { Ok(leases.ok_or("this node is stopping")?.answer(peer, &asked)) }
        });
    }

    /// Stops answering nodes that ask for their leases.
    pub fn close(&self) {
        self.desk.close();
    }

    /// Tells whether nobody else could take over, so that no lease is needed.
    fn alone(&self) -> bool {
        let nodes = self.setup.book.nodes();
        let mut left = nodes.iter().filter(|known| known.state != NodeState::Removed).peekable();
        match left.peek() {
            // A founder that has not written its own name yet; a joiner waits to be told.
            None => self.setup.ledger.leadership().borrow().is_me,
            Some(_) => left.all(|known| known.node == self.setup.node),
        }
    }

    /// Returns the phase of this node's own lease, by the clock at this moment.
    pub fn phase(&self) -> Phase {
        if self.alone() {
            return Phase::Held;
        }
        // Without the clock there is no lease.
        now().map_or(Phase::Over, |now| self.holder.lock().phase(now))
    }

    /// Returns how long until this node begins to stop what it holds: none if it holds no lease, the greatest if it needs none.
    pub fn stops_in(&self) -> Option<Duration> {
        if self.alone() {
            return Some(Duration::MAX);
        }
        let (holder, now) = (self.holder.lock(), now()?);
        holder.holds().then(|| holder.left(now).saturating_sub(self.setup.terms.stop_within))
    }

    /// Tells whether this node's disk is full.
    pub fn no_room(&self) -> bool {
        matches!(self.setup.ledger.takes_writes(), Err(AppendError::DiskFull { .. }))
    }

    fn tell_phase(&self) {
        let phase = self.phase();
        self.setup.lease.send_if_modified(|before| {
            let changed = *before != phase;
            if changed {
                tracing::info!(?phase, "this node's lease");
                *before = phase;
            }
            changed
        });
    }

    /// Returns how each node's lease stands; empty on a node that does not grant.
    pub fn view(&self) -> Vec<LeaseView> {
        let granting = self.granting.lock();
        let (Some(granting), Some(now)) = (granting.as_ref(), now()) else { return Vec::new() };
        let nodes = self.setup.book.nodes();
        let there = nodes.iter().filter(|known| known.state != NodeState::Removed);
        there.map(|known| LeaseView { node: known.node, left: granting.grantor.left(known.node, now) }).collect()
    }

    /// Answers a node as the leader. A lost node that holds nothing is taken in again, and is granted a lease after that.
    fn answer(self: &Arc<Self>, node: NodeId, asked: &LeaseAsk) -> LeaseAnswer {
        let known = self.setup.book.nodes().into_iter().find(|known| known.node == node);
        let removed = known.as_ref().is_none_or(|known| known.state == NodeState::Removed);
        let mut granting = self.granting.lock();
        let (Some(granting), Some(now)) = (granting.as_mut(), now()) else { return LeaseAnswer::NotLeading };
        if let Some((term, at)) = self.setup.ledger.confirmed()
            && term == granting.term
        {
            granting.grantor.confirmed(at);
        }
        if removed {
            // Its entry may not be in the ledger yet.
            return LeaseAnswer::NotGranted(NotGranted::Unconfirmed);
        }
        match granting.grantor.grant(node, asked.ask, now) {
            Ok(grant) => LeaseAnswer::Granted(grant),
            Err(why @ NotGranted::Lost { .. }) => {
                if asked.holds_nothing {
                    self.take_in(node, asked.ask.generation, granting.term);
                }
                LeaseAnswer::NotGranted(why)
            }
            Err(why) => LeaseAnswer::NotGranted(why),
        }
    }

    /// Writes that a lost node is back; then it is granted leases again.
    fn take_in(self: &Arc<Self>, node: NodeId, generation: u64, term: u64) {
        let (leases, back) = (Arc::downgrade(self), self.setup.book.back(node, generation));
        // Ends with the write, which is bounded.
        tokio::spawn(async move {
            match back.await {
                Ok(()) => {
                    let Some(leases) = leases.upgrade() else { return };
                    let mut granting = leases.granting.lock();
                    if let (Some(granting), Some(now)) = (granting.as_mut().filter(|granting| granting.term == term), now()) {
                        granting.grantor.taken_in(node, now);
                    }
                }
                Err(refused) => tracing::warn!(%node, why = refused.message, "a lost node could not be taken in again yet"),
            }
        });
    }
}

/// Asks for this node's lease again and again, and tells what phase it is in.
pub async fn hold(leases: Arc<Leases>) {
    let every = ask_every(&leases.setup.terms);
    let asking = async {
        let mut leadership = leases.setup.ledger.leadership();
        loop {
            leadership.borrow_and_update();
            ask(&leases).await;
            let pause = if leases.phase() == Phase::Held { every } else { every.min(ASK_AGAIN) };
            // Of a new leader at once: it has promised nothing yet.
            if matches!(tokio::time::timeout(pause, leadership.changed()).await, Ok(Err(_))) {
                return;
            }
        }
    };
    let telling = async {
        loop {
            leases.tell_phase();
            tokio::time::sleep(PHASE_EVERY.min(every)).await;
        }
    };
    tokio::join!(asking, telling);
}

async fn ask(leases: &Arc<Leases>) {
    let setup = &leases.setup;
    let Some(leader) = setup.ledger.leadership().borrow().leader else { return };
    // What lives here could not write what it decides: it is to live elsewhere, and comes back with room.
    if leases.no_room() && !leases.alone() {
        return;
    }
    let Some(asked_at) = now() else { return };
    let asked = LeaseAsk { ask: leases.holder.lock().ask(asked_at), holds_nothing: setup.book.holds_nothing() };
    let answer = if leader == setup.node {
        leases.answer(setup.node, &asked)
    } else {
        match leases.desk.ask(leader, &asked, Deadline::after(ASK_WITHIN)).await {
            Ok(answer) => answer,
            Err(error @ RpcError::Unclear { .. }) => {
                tracing::warn!(%error, "the leader's answer about this node's lease");
                return;
            }
            // Silence is what the lease is for.
            Err(_) => return,
        }
    };
    let Some(now) = now() else { return };
    match answer {
        LeaseAnswer::Granted(grant) => leases.holder.lock().granted(&grant, now),
        LeaseAnswer::NotGranted(NotGranted::Lost { .. }) => leases.holder.lock().lost(),
        LeaseAnswer::NotGranted(NotGranted::Unconfirmed) | LeaseAnswer::NotLeading => {}
    }
    leases.tell_phase();
}

/// Counts everyone's lease while this node leads, and tells the book whose is over. Ends when the ledger is gone.
pub async fn grant(leases: Arc<Leases>) {
    let mut leadership = leases.setup.ledger.leadership();
    loop {
        let now_leads = leadership.borrow_and_update().clone();
        if !now_leads.is_me {
            *leases.granting.lock() = None;
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let term = now_leads.term;
        let fresh = leases.granting.lock().as_ref().is_none_or(|granting| granting.term != term);
        if fresh {
            // What the ledger says of nodes must be known up to the election.
            let head = leases.setup.ledger.head();
            let mut cursor = leases.setup.book.cursor();
            if cursor.wait_for(|cursor| *cursor >= head).await.is_err() {
                return;
            }
            let nodes = leases.setup.book.nodes();
            let Some(now) = now() else { continue };
            let members = nodes.iter().filter(|known| known.state != NodeState::Removed).map(|known| known.node);
            let lost = nodes.iter().filter(|known| known.state == NodeState::Lost).map(|known| known.node);
            let grantor = Grantor::elected(leases.setup.terms, now, members, lost);
            *leases.granting.lock() = Some(Granting { term, grantor });
        }
        let changed = tokio::time::timeout(OVERDUE_EVERY, leadership.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return;
        }
        overdue(&leases, term).await;
    }
}

async fn overdue(leases: &Arc<Leases>, term: u64) {
    let nodes = leases.setup.book.nodes();
    let over = {
        let mut granting = leases.granting.lock();
        let (Some(granting), Some(now)) = (granting.as_mut().filter(|granting| granting.term == term), now()) else { return };
        // Who joined or went since.
        for known in &nodes {
            match known.state {
                NodeState::Removed => granting.grantor.removed(known.node),
                NodeState::Lost => granting.grantor.declared_lost(known.node),
                _ if granting.grantor.left(known.node, now).is_none() && !granting.grantor.is_lost(known.node) => {
                    granting.grantor.taken_in(known.node, now);
                }
                _ => {}
            }
        }
        granting.grantor.overdue(now)
    };
    // Without a quorum nothing can be written, and nothing is called lost.
    if over.is_empty() || leases.setup.ledger.takes_writes().is_err() {
        return;
    }
    for node in over {
        let ms = leases.setup.terms.length.as_millis();
        let why = format!("it did not ask for its lease of {ms} ms in time");
        match leases.setup.book.lost(node, why).await {
            Ok(()) => {
                if let Some(granting) = leases.granting.lock().as_mut().filter(|granting| granting.term == term) {
                    granting.grantor.declared_lost(node);
                }
            }
            Err(refused) => {
                tracing::warn!(%node, why = refused.message, "a node whose lease is over could not be written as lost")
            }
        }
    }
}
