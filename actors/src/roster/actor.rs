//! The roster's actor: names are unique because it alone gives them, and so are places.
//!
//! Exists on every node and acts on the one that leads; elsewhere it holds nothing and says so. When its node begins to
//! lead it claims the stream, which fences whoever acted before, and goes on from the directory, which is the same fold.
//! Never starts or stops an entity: each node's residents do, by the directory.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use hiveward_catalogue::{
    directory::NodeStatus,
    part::{PartChange, budget::BudgetChange},
    roster::{
        event::{self, NodeRecord, RosterEvent},
        message::RosterMsg,
    },
};
use hiveward_kernel::{
    commit::{Batch, CommitReply, Committed, Committer},
    id::{AgentId, ProjectId},
    operation::{Operation, used_otherwise},
};
use hiveward_runtime::{
    error::{Code, Refused},
    id::Key,
    ledger::Cursor,
    net::identity::JoinToken,
    op::{Asker, NodeId},
    supervise::{Behaviour, Context, Failure, TimerHandle},
};
use tokio::time::Instant;

use super::{
    decide,
    fleet::{Fleeting, Waiting},
};
use crate::house::House;

/// How often a drain is checked.
const TICK_EVERY: Duration = Duration::from_millis(250);
const BUDGETS_LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
/// The most entities that are moved off a draining node at once; the next ones follow after the next tick.
const MOVES_PER_STEP: usize = 64;
pub const DRAIN_WITHIN_MAX: Duration = Duration::from_secs(24 * 3600);

/// Events, and who asked for them.
pub(super) type AskedFor = (Option<Arc<Asker>>, Vec<RosterEvent>);

pub struct Roster {
    pub(super) house: House,
}

#[derive(Default)]
pub struct State {
    /// What it acts with, while this node leads.
    acting: Option<Acting>,
    looking: Option<TimerHandle>,
}

pub(super) struct Acting {
    term: u64,
    pub(super) fleet: Fleeting,
    pub(super) committer: Committer,
    /// The time for each draining node at which what it holds is stopped.
    drains: HashMap<NodeId, Instant>,
    movable: Vec<(AgentId, u64)>,
    tick: Option<TimerHandle>,
    /// What comes back from lost hosts, and when.
    pub(super) lost: super::lost::Losing,
    /// The coordinators that were brought elsewhere because they failed where they were.
    pub(super) tried: super::given_up::Tried,
    /// Whether a snapshot is being written.
    pub(super) writing_down: Arc<AtomicBool>,
}

impl Roster {
    pub fn new(house: House) -> Self {
        Self { house }
    }
}

pub(super) fn not_leading() -> Refused {
    Refused::new(Code::Unavailable, "this node does not lead; nothing happened")
}

impl Behaviour for Roster {
    type Msg = RosterMsg;
    type State = State;

    async fn start(&self, ctx: &Context<RosterMsg>) -> Result<State, Failure> {
        let mut leader = self.house.peers.leader();
        leader.mark_unchanged();
        let mut state = State::default();
        self.follow(ctx, &mut state).await?;
        state.looking = Some(ctx.every(BUDGETS_LOOKED_AT_EVERY, || RosterMsg::LookAtBudgets));
        let me = ctx.addr().clone();
        ctx.task(async move {
            // If nobody drives it any more it stays as it is.
            while leader.changed().await.is_ok() {
                me.deliver(RosterMsg::Leadership).await;
            }
        });
        Ok(state)
    }

    async fn handle(&self, ctx: &Context<RosterMsg>, msg: RosterMsg, state: &mut State) -> Result<(), Failure> {
        match msg {
            RosterMsg::Leadership => return self.follow(ctx, state).await,
            RosterMsg::CommitFailed { message } => return Err(Failure::new(message)),
            _ => {}
        }
        match &mut state.acting {
            Some(acting) => Box::pin(self.act(ctx, acting, msg)).await,
            None => {
                refuse(msg);
                Ok(())
            }
        }
    }

    fn observe(&self, state: &State) -> serde_json::Value {
        let (swarms, agents, nodes, unplaced) =
            self.house.directory.read(|known| (known.swarms.len(), known.agents.len(), known.nodes.len(), known.unplaced.len()));
        let leading = state.acting.is_some();
        let written_down_at = self.house.ledger.snapshot_parts(&RosterEvent::stream()).ok().flatten().map(|parts| parts.version);
        serde_json::json!({
            "swarms": swarms, "agents": agents, "nodes": nodes, "unplaced": unplaced, "leading": leading,
            "writtenDownAt": written_down_at,
        })
    }
}

/// Refuses a message: nothing happened, and the asker looks for the node that leads.
fn refuse(msg: RosterMsg) {
    match msg {
        RosterMsg::AddSwarm { reply, .. }
        | RosterMsg::AddSwarmIn { reply, .. }
        | RosterMsg::RemoveSwarm { reply, .. }
        | RosterMsg::AddAgents { reply, .. }
        | RosterMsg::RemoveAgent { reply, .. }
        | RosterMsg::DrainNode { reply, .. }
        | RosterMsg::CancelDrain { reply, .. }
        | RosterMsg::RemoveNode { reply, .. }
        | RosterMsg::NodeJoined { reply, .. }
        | RosterMsg::NodeLost { reply, .. }
        | RosterMsg::NodeDown { reply, .. }
        | RosterMsg::SetBudget { reply, .. }
        | RosterMsg::RemoveBudget { reply, .. }
        | RosterMsg::Declare { reply, .. }
        | RosterMsg::Fleet { reply, .. }
        | RosterMsg::NodeBack { reply, .. } => reply.answer(Err(not_leading())),
        RosterMsg::IssueToken { reply, .. } => reply.answer(Err(not_leading())),
        RosterMsg::Admit { reply, .. } => reply.answer(Err(not_leading())),
        RosterMsg::Head { reply } => reply.answer(Err(not_leading())),
        RosterMsg::Movable { .. }
        | RosterMsg::GivenUp { .. }
        | RosterMsg::CommitFleet
        | RosterMsg::Leadership
        | RosterMsg::Tick
        | RosterMsg::LookAtBudgets
        | RosterMsg::CommitFailed { .. } => {}
    }
}

impl Roster {
    /// Takes over if this node leads and it has not yet, and lets go if it does not lead.
    async fn follow(&self, ctx: &Context<RosterMsg>, state: &mut State) -> Result<(), Failure> {
        let leadership = self.house.peers.leader().borrow().clone();
        if !leadership.is_me {
            if state.acting.take().is_some() {
                tracing::info!("this node no longer leads; the roster acts elsewhere");
            }
            ctx.set_note("does not lead");
            return Ok(());
        }
        if state.acting.as_ref().is_some_and(|acting| acting.term == leadership.term) {
            return Ok(());
        }
        // Another term may have had another leader in between, so what is known is read again.
        state.acting = None;
        let stream = RosterEvent::stream();
        let life = self.house.ledger.claim(&stream).await?;
        self.house.directory.catch_up()?;
        let me = ctx.addr().clone();
        let failed = move |error: hiveward_runtime::ledger::AppendError| {
            let _ = me.tell(RosterMsg::CommitFailed { message: error.to_string() });
        };
        let (committer, committing) = Committer::new(self.house.ledger.clone(), stream, life.incarnation, life.version, failed);
        ctx.task(committing);
        let mut acting = Acting {
            term: leadership.term,
            fleet: Fleeting::default(),
            committer,
            drains: HashMap::new(),
            movable: Vec::new(),
            tick: None,
            lost: Default::default(),
            tried: Default::default(),
            writing_down: Arc::default(),
        };
        let now = self.house.clock.now();
        self.house.directory.read(|known| {
            for (node, entry) in known.nodes.iter().filter(|(_, entry)| entry.status == NodeStatus::Draining) {
                let within = entry.drain.map_or(Duration::ZERO, |drain| {
                    // This is by the wall clock, which may have jumped: never longer than it was given.
                    Duration::from_millis(drain.within_ms).saturating_sub(now.since(drain.since))
                });
                acting.drains.insert(*node, Instant::now() + within);
            }
        });
        let events = self.house.directory.read(|known| {
            let mine = known.nodes.get(&self.house.me.node).map(|entry| &entry.record);
            let own = (mine != Some(&*self.house.me)).then(|| RosterEvent::NodeJoined { record: (*self.house.me).clone() });
            let opened = mine.is_none().then_some(&*self.house.me);
            let placed = decide::place_the_unplaced(known, opened);
            own.into_iter().chain(placed).collect::<Vec<_>>()
        });
        if !events.is_empty() {
            self.commit(&mut acting, events).await?;
        }
        self.arm(ctx, &mut acting);
        state.acting = Some(acting);
        ctx.set_note("leads");
        Ok(())
    }

    async fn act(&self, ctx: &Context<RosterMsg>, acting: &mut Acting, msg: RosterMsg) -> Result<(), Failure> {
        let directory = &self.house.directory;
        match msg {
            RosterMsg::AddSwarm { spec, operation, reply } => {
                let events = directory.read(|known| decide::add_swarm_in(known, ProjectId::DEFAULT, &spec, operation.as_ref()));
                self.answer(acting, operation, reply, spec.id.key(), events).await
            }
            RosterMsg::AddSwarmIn { project, spec, operation, reply } => {
                let events = directory.read(|known| decide::add_swarm_in(known, project, &spec, operation.as_ref()));
                self.answer(acting, operation, reply, spec.id.key(), events).await
            }
            RosterMsg::RemoveSwarm { swarm, operation, reply } => {
                let events = directory.read(|known| {
                    let entry = known.swarms.get(&swarm).ok_or_else(|| Refused::not_found(swarm))?;
                    if entry.spec.shard != 0 {
                        let message = format!("{swarm} is a shard of swarm {}; remove the swarm", entry.spec.name);
                        return Err(Refused::new(Code::Refused, message));
                    }
                    let shards = known.shards_of(swarm);
                    let agents: usize =
                        shards.iter().filter_map(|shard| known.swarms.get(shard)).map(|entry| entry.agents.len()).sum();
                    if agents > 0 {
                        let message = format!("{agents} agents belong to the swarm; remove them first");
                        return Err(Refused::new(Code::Refused, message));
                    }
                    let removed = |shard| RosterEvent::SwarmRemoved {
                        swarm: shard,
                        operation: operation.clone().filter(|_| shard == swarm),
                    };
                    Ok(shards.into_iter().map(removed).collect())
                });
                self.answer(acting, operation, reply, swarm.key(), events).await
            }
            RosterMsg::AddAgents { specs, operation, reply } => {
                let Some(first) = specs.first().map(|spec| spec.id.key()) else {
                    reply.answer(Err(Refused::invalid("agents", "no agent was named; nothing happened")));
                    return Ok(());
                };
                let events = directory.read(|known| decide::add_agents(known, &specs, operation.as_ref()));
                self.answer(acting, operation, reply, first, events).await
            }
            RosterMsg::RemoveAgent { agent, operation, reply } => {
                let events = directory.read(|known| {
                    let entry = known.agents.get(&agent).ok_or_else(|| Refused::not_found(agent))?;
                    Ok(vec![RosterEvent::AgentRemoved { agent, swarm: entry.spec.swarm, operation: operation.clone() }])
                });
                self.answer(acting, operation, reply, agent.key(), events).await
            }
            RosterMsg::Head { reply } => {
                reply.answer(Ok(self.house.ledger.head()));
                Ok(())
            }
            RosterMsg::IssueToken { token, expires_at, reply } => {
                let Ok(token) = token.parse::<JoinToken>() else {
                    reply.answer(Err(Refused::invalid("token", "it is no join token; nothing happened")));
                    return Ok(());
                };
                let mut book = directory.read(|known| known.tokens.clone());
                match book.issue(&token, self.house.clock.now(), expires_at) {
                    Ok(()) => {
                        let issued = (reply.asker().cloned(), vec![RosterEvent::TokenIssued { book }]);
                        let cursor = self.commit_for(acting, vec![issued]).await?;
                        reply.answer(Ok(Committed { value: (), cursor }));
                    }
                    Err(refused) => reply.answer(Err(Refused::new(Code::Limit, refused.to_string()))),
                }
                Ok(())
            }
            RosterMsg::Admit { decide, reply } => {
                let (mut book, members, removed) =
                    directory.read(|known| (known.tokens.clone(), members(known), decide::removed(known)));
                match decide(&mut book, &members, &removed) {
                    None => reply.answer(Ok(())),
                    Some(record) => {
                        let mut events = vec![RosterEvent::TokenUsed { node: record.node, book }];
                        events.extend(self.joined(record));
                        self.commit(acting, events).await?;
                        reply.answer(Ok(()));
                    }
                }
                Ok(())
            }
            RosterMsg::NodeJoined { record, reply } => {
                let key = record.node.key();
                let gone = directory.read(|known| decide::removed(known).contains(&record.node));
                let events = if gone {
                    // Its last words, which were on their way when it went: they do not bring it back.
                    Err(Refused::new(Code::Refused, format!("{} was removed from this cluster", record.node)))
                } else {
                    Ok(self.joined(record))
                };
                self.answer(acting, None, reply, key, events).await
            }
            RosterMsg::NodeLost { node, why, reply } => {
                let events = directory.read(|known| {
                    let entry = known.nodes.get(&node).ok_or_else(|| Refused::not_found(node))?;
                    if matches!(entry.status, NodeStatus::Lost | NodeStatus::Removed) {
                        return Ok(Vec::new());
                    }
                    let hosts = decide::lose_hosts(known, node, true, &format!("{node} is lost"));
                    let moved = decide::empty(known, node, "is lost", &format!("{node} is lost"));
                    Ok(std::iter::once(RosterEvent::NodeLost { node, why }).chain(hosts).chain(moved).collect())
                });
                acting.drains.remove(&node);
                self.answer(acting, None, reply, node.key(), events).await
            }
            RosterMsg::NodeDown { node, reply } => {
                let moved = directory.read(|known| decide::coordinate_elsewhere(known, node));
                self.answer(acting, None, reply, node.key(), Ok(moved)).await
            }
            RosterMsg::NodeBack { node, generation, reply } => {
                let events = directory.read(|known| {
                    let entry = known.nodes.get(&node).filter(|entry| entry.status != NodeStatus::Removed);
                    let entry = entry.ok_or_else(|| Refused::not_found(node))?;
                    if entry.status != NodeStatus::Lost && entry.generation == generation {
                        return Ok(Vec::new());
                    }
                    let opens = matches!(entry.status, NodeStatus::Lost | NodeStatus::Up);
                    let placed = decide::place_the_unplaced(known, opens.then_some(&entry.record));
                    Ok(std::iter::once(RosterEvent::NodeBack { node, generation }).chain(placed).collect())
                });
                self.answer(acting, None, reply, node.key(), events).await
            }
            RosterMsg::DrainNode { node, within_ms, operation, reply } => {
                let within = Duration::from_millis(within_ms).min(DRAIN_WITHIN_MAX);
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                let events = directory.read(|known| {
                    decide::may_drain(known, node)?;
                    Ok(vec![RosterEvent::NodeDraining { node, within_ms, operation: operation.clone() }])
                });
                if events.is_ok() {
                    acting.drains.insert(node, Instant::now() + within);
                }
                self.answer(acting, operation, reply, node.key(), events).await?;
                self.drain(ctx, acting).await
            }
            RosterMsg::CancelDrain { node, operation, reply } => {
                let events = directory.read(|known| {
                    let entry = known.nodes.get(&node).ok_or_else(|| Refused::not_found(node))?;
                    if !matches!(entry.status, NodeStatus::Draining | NodeStatus::Drained) {
                        let message = format!("{node} is {}: there is no drain to cancel", entry.status.name());
                        return Err(Refused::new(Code::Refused, message));
                    }
                    let placed = decide::place_the_unplaced(known, Some(&entry.record));
                    let cancelled = RosterEvent::NodeDrainCancelled { node, operation: operation.clone() };
                    Ok(std::iter::once(cancelled).chain(placed).collect())
                });
                acting.drains.remove(&node);
                self.answer(acting, operation, reply, node.key(), events).await
            }
            RosterMsg::RemoveNode { node, force, operation, reply } => {
                let before = operation.as_ref().map(|operation| self.house.declared_before(operation)).transpose();
                let before = before.map(Option::flatten);
                let events = directory.read(|known| {
                    if before?.is_some() {
                        return Ok(Vec::new());
                    }
                    decide::may_remove(known, node, force)?;
                    self.house.node_changes.removable(node)?;
                    let moved = decide::empty(known, node, "was removed", &format!("{node} was removed"));
                    let hosts = decide::lose_hosts(known, node, false, &format!("{node} was removed"));
                    let removed = RosterEvent::NodeRemoved { node, operation: operation.clone() };
                    Ok(std::iter::once(removed).chain(hosts).chain(moved).collect())
                });
                let removed = events.as_ref().is_ok_and(|events: &Vec<_>| !events.is_empty());
                acting.drains.remove(&node);
                self.answer(acting, operation, reply, node.key(), events).await?;
                if removed {
                    self.house.node_changes.removed(node);
                }
                Ok(())
            }
            RosterMsg::Movable { agents } => {
                acting.movable.extend(agents);
                self.drain(ctx, acting).await
            }
            RosterMsg::GivenUp { swarm, node, placement, why } => {
                self.try_elsewhere(acting, swarm, (node, placement), &why).await
            }
            RosterMsg::Tick => {
                acting.tick = None;
                self.drain(ctx, acting).await
            }
            RosterMsg::SetBudget { scope, budget, operation, reply } => {
                self.declare(acting, Ok(PartChange::Budget(BudgetChange::Set { scope, budget })), operation, reply).await
            }
            RosterMsg::RemoveBudget { scope, operation, reply } => {
                self.declare(acting, Ok(PartChange::Budget(BudgetChange::Remove { scope })), operation, reply).await
            }
            RosterMsg::Declare { declaration, operation, reply } => {
                self.declare(acting, declaration.change(), operation, reply).await
            }
            RosterMsg::Fleet { change, operation, reply } => {
                self.wait_for_fleet(ctx, acting, Waiting { change, operation, reply }).await
            }
            RosterMsg::CommitFleet => self.commit_fleet(acting).await,
            RosterMsg::LookAtBudgets => {
                self.bring_back(acting).await?;
                self.write_down_if_due(ctx, acting)?;
                self.warn(acting).await
            }
            RosterMsg::Leadership | RosterMsg::CommitFailed { .. } => Ok(()),
        }
    }

    fn joined(&self, mut record: NodeRecord) -> Vec<RosterEvent> {
        self.house.directory.read(|known| {
            let known_as = known.nodes.get(&record.node);
            // An older version does not say its key. It has not lost it by that.
            record.key = record.key.or(known_as.and_then(|entry| entry.record.key));
            if known_as.is_some_and(|entry| entry.record == record && entry.status != NodeStatus::Removed) {
                return Vec::new();
            }
            let opens = known_as.is_none_or(|entry| matches!(entry.status, NodeStatus::Up | NodeStatus::Removed));
            let placed = decide::place_the_unplaced(known, opens.then_some(&record));
            std::iter::once(RosterEvent::NodeJoined { record }).chain(placed).collect()
        })
    }

    /// Moves the next entities off nodes that drain; at a drain's deadline, all of them.
    async fn drain(&self, ctx: &Context<RosterMsg>, acting: &mut Acting) -> Result<(), Failure> {
        let movable = std::mem::take(&mut acting.movable);
        let drains: Vec<_> = acting.drains.iter().map(|(node, until)| (*node, *until)).collect();
        for (node, until) in drains {
            let events = self.house.directory.read(|known| {
                let entry = known.nodes.get(&node).filter(|entry| entry.status == NodeStatus::Draining)?;
                if entry.entities == 0 {
                    return Some(vec![RosterEvent::NodeDrained { node }]);
                }
                if Instant::now() >= until {
                    return Some(decide::empty(known, node, "is drained", "the drain of its node came to its deadline"));
                }
                Some(decide::drain_step(known, node, &movable, MOVES_PER_STEP))
            });
            match events {
                None => drop(acting.drains.remove(&node)),
                Some(events) if events.is_empty() => {}
                Some(events) => {
                    self.commit(acting, events).await?;
                }
            }
        }
        self.arm(ctx, acting);
        Ok(())
    }

    fn arm(&self, ctx: &Context<RosterMsg>, acting: &mut Acting) {
        if acting.drains.is_empty() {
            acting.tick = None;
        } else if acting.tick.is_none() {
            acting.tick = Some(ctx.after(TICK_EVERY, RosterMsg::Tick));
        }
    }

    /// Answers a repeated operation as before, a refusal as it is, and the rest when it is in the ledger.
    pub(super) async fn answer(
        &self,
        acting: &mut Acting,
        operation: Option<Operation>,
        reply: CommitReply<Key>,
        key: Key,
        events: Result<Vec<RosterEvent>, Refused>,
    ) -> Result<(), Failure> {
        let before = operation.as_ref().map(|operation| self.house.declared_before(operation)).transpose().map(Option::flatten);
        let before = match before {
            Ok(before) => operation.zip(before),
            Err(refused) => {
                reply.answer(Err(refused));
                return Ok(());
            }
        };
        match before {
            Some((operation, (input, key))) => {
                let answer = used_before(&operation, input, key);
                reply.answer(answer.map(|value| Committed { value, cursor: self.house.ledger.head() }));
            }
            None => match events {
                Err(refused) => reply.answer(Err(refused)),
                Ok(events) => {
                    let cursor = self.commit_for(acting, vec![(reply.asker().cloned(), events)]).await?;
                    reply.answer(Ok(Committed { value: key, cursor }));
                }
            },
        }
        Ok(())
    }

    /// Commits what the roster decided of itself, as [`Self::commit_for`] does.
    pub(super) async fn commit(&self, acting: &mut Acting, events: Vec<RosterEvent>) -> Result<Cursor, Failure> {
        self.commit_for(acting, vec![(None, events)]).await
    }

    /// Commits events with who asked for them, and waits for the disk: the roster changes seldom, and what follows needs the
    /// commit.
    pub(super) async fn commit_for(&self, acting: &mut Acting, events: Vec<AskedFor>) -> Result<Cursor, Failure> {
        let mut batch = Batch::default();
        for (asker, events) in &events {
            batch.on_behalf_of(asker.as_ref());
            for event in events {
                batch.push(event.kind(), event::FORMAT, event.encode()?);
            }
        }
        if batch.is_empty() {
            return Ok(self.house.ledger.head());
        }
        let (done, wait) = tokio::sync::oneshot::channel();
        batch.then(move |cursor| {
            // The roster waits, unless it was killed.
            let _ = done.send(cursor);
        });
        acting.committer.hand_over(batch).await?;
        let cursor = wait.await?;
        self.house.directory.catch_up()?;
        Ok(cursor)
    }
}

/// Returns the answer to an operation that was done before.
pub(super) fn used_before(operation: &Operation, input: [u8; 16], key: Key) -> Result<Key, Refused> {
    if input == operation.input {
        return Ok(key);
    }
    Err(used_otherwise(operation))
}

fn members(known: &hiveward_catalogue::directory::Known) -> Vec<NodeRecord> {
    let there = known.nodes.values().filter(|entry| entry.status != NodeStatus::Removed);
    there.map(|entry| entry.record.clone()).collect()
}
