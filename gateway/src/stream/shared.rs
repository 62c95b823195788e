//! One execution per query for everybody who subscribed to the same one.
//!
//! Dashboards ask for the same events with the same selection. A subscriber reads with a stream of its own until it has
//! caught up, then joins the *group* of its query: one stream that executes the selection once per event and hands the
//! finished answer round. A subscriber that falls out of the group's ring, or whose group ends, reads on with a stream of its own
//! from where it is: nothing is missed and nothing comes twice. A group without members ends at its next answer.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use async_graphql::{
    Request, Variables,
    parser::types::{DocumentOperations, ExecutableDocument, OperationDefinition, OperationType, Selection},
};
use futures_util::{FutureExt, StreamExt, stream, stream::BoxStream};
use hiveward_runtime::{ledger::Cursor, op::TraceId};
use parking_lot::Mutex;
use tokio::{sync::broadcast, task::AbortHandle};

use crate::{
    bound::{Held, Memory, Meter},
    engine::{self, Caller, Engine, EngineAnswer, Position, Prepared},
};

/// The number of answers that a member may be behind before it reads by itself again.
const RING: usize = 512;
/// The most bytes that the rings of all groups hold. A group whose next answer would be over it ends, and its members read by
/// themselves.
const RINGS_BYTES_MAX: usize = 32 << 20;
/// The most different queries that are shared at once; subscribers of further ones read by themselves.
const GROUPS_MAX: usize = 64;

type Answers = BoxStream<'static, (EngineAnswer, Option<String>)>;

/// What makes two subscriptions the same. The cursor to begin after is no part of it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    query: String,
    operation: Option<String>,
    variables: String,
    /// Who asks, and in which project: what one sees must never come from another's execution.
    who: Arc<str>,
    project: Option<Arc<str>>,
}

struct Group {
    ring: broadcast::Sender<Shared>,
    /// The cursor of the last answer that went into the ring, or where the group began.
    reached: Cursor,
    runner: AbortHandle,
}

impl Drop for Group {
    fn drop(&mut self) {
        self.runner.abort();
    }
}

/// What is handed round: an answer, its cursor, and its bytes among those of all rings.
type Shared = (Cursor, EngineAnswer, Arc<Held>);

#[derive(Default)]
struct Groups {
    open: Mutex<HashMap<Key, Group>>,
    memory: Memory,
}

/// All groups of one gateway; dropping it ends them.
#[derive(Default)]
pub struct Shares {
    groups: Arc<Groups>,
}

impl Shares {
    /// Runs a subscription, shared with others of the same query where that can be told.
    pub fn stream(&self, engine: &Arc<dyn Engine>, prepared: Prepared, caller: Caller, position: Position) -> Answers {
        let Some(key) = key(&prepared, &caller) else {
            return engine::stream(&**engine, prepared, caller, position);
        };
        let variables = prepared.request.variables.clone();
        let meter = prepared.meter.anew();
        let own = engine::stream(&**engine, prepared, caller.clone(), position.clone());
        let member = Member {
            source: Source { engine: engine.clone(), variables, key, caller, meter },
            groups: self.groups.clone(),
            reached: None,
            from: From::Own(own, position),
        };
        stream::unfold(member, |mut member| async move { member.next().await.map(|answer| (answer, member)) }).boxed()
    }
}

/// Returns the key of a subscription whose answers depend on nothing but its text, its variables and the event.
fn key(prepared: &Prepared, caller: &Caller) -> Option<Key> {
    if prepared.operation != Some(OperationType::Subscription) {
        return None;
    }
    let request = &prepared.request;
    let operation = operation(prepared.document.as_ref()?, request.operation_name.as_deref())?;
    let [root] = operation.selection_set.node.items.as_slice() else { return None };
    let Selection::Field(root) = &root.node else { return None };
    if root.node.name.node != "events" || !root.node.directives.is_empty() {
        return None;
    }
    let mut variables = request.variables.clone();
    let mut cursor_variable = None;
    if let Some(after) = root.node.get_argument("after") {
        let _only_looked_at = after.node.clone().into_const_with(|name| {
            cursor_variable = Some(name);
            Err::<_, ()>(())
        });
    }
    if let Some(name) = cursor_variable {
        // It is declared once and used once, so nothing else in the answer hangs on it.
        if request.query.matches(&format!("${name}")).count() != 2 {
            return None;
        }
        variables.remove(&name);
    }
    Some(Key {
        query: request.query.clone(),
        operation: request.operation_name.clone(),
        variables: serde_json::to_string(&variables).ok()?,
        who: caller.principal.name.clone(),
        project: caller.project.clone(),
    })
}

fn operation<'a>(document: &'a ExecutableDocument, name: Option<&str>) -> Option<&'a OperationDefinition> {
    match (&document.operations, name) {
        (DocumentOperations::Single(operation), _) => Some(&operation.node),
        (DocumentOperations::Multiple(operations), Some(name)) => operations.get(name).map(|operation| &operation.node),
        (DocumentOperations::Multiple(_), None) => None,
    }
}

/// What it takes to run the subscription again from another cursor.
#[derive(Clone)]
struct Source {
    engine: Arc<dyn Engine>,
    variables: Variables,
    key: Key,
    caller: Caller,
    meter: Arc<Meter>,
}

impl Source {
    fn after(&self, cursor: Cursor) -> (Answers, Position) {
        let mut request = Request::new(self.key.query.clone()).variables(self.variables.clone());
        request.operation_name.clone_from(&self.key.operation);
        let prepared =
            Prepared { request, operation: Some(OperationType::Subscription), document: None, meter: self.meter.anew() };
        let position = Position::resuming(Some(cursor.to_string()));
        let caller = Caller { trace: TraceId::new(), ..self.caller.clone() };
        (engine::stream(&*self.engine, prepared, caller, position.clone()), position)
    }
}

enum From {
    Own(Answers, Position),
    Group(broadcast::Receiver<Shared>),
}

struct Member {
    source: Source,
    groups: Arc<Groups>,
    /// The cursor up to which everything was handed out.
    reached: Option<Cursor>,
    from: From,
}

impl Member {
    async fn next(&mut self) -> Option<(EngineAnswer, Option<String>)> {
        loop {
            match &mut self.from {
                From::Group(ring) => match ring.recv().await {
                    Ok((cursor, ..)) if Some(cursor) <= self.reached => {}
                    Ok((cursor, answer, _)) => {
                        self.reached = Some(cursor);
                        return Some((answer, Some(cursor.to_string())));
                    }
                    Err(_lagged_or_ended) => {
                        let (own, position) = self.source.after(self.reached?);
                        self.from = From::Own(own, position);
                    }
                },
                From::Own(own, position) => {
                    let ready = own.next().now_or_never();
                    let answer = match ready {
                        Some(answer) => answer,
                        None => {
                            self.reached = reached(position).max(self.reached);
                            if let Some(ring) = self.reached.and_then(|at| join(&self.groups, &self.source, at)) {
                                self.from = From::Group(ring);
                                continue;
                            }
                            own.next().await
                        }
                    };
                    self.reached = reached(position).max(self.reached);
                    return answer;
                }
            }
        }
    }
}

fn reached(position: &Position) -> Option<Cursor> {
    position.reached()?.parse().ok()
}

/// Returns the group's ring, if everything it hands out from now on follows `at` without a gap.
fn join(shared: &Arc<Groups>, source: &Source, at: Cursor) -> Option<broadcast::Receiver<Shared>> {
    let mut groups = shared.open.lock();
    if let Some(group) = groups.get(&source.key) {
        return (at >= group.reached).then(|| group.ring.subscribe());
    }
    if groups.len() >= GROUPS_MAX {
        groups.retain(|_, group| group.ring.receiver_count() > 0);
    }
    if groups.len() >= GROUPS_MAX {
        return None;
    }
    let (ring, receiver) = broadcast::channel(RING);
    let (answers, _) = source.after(at);
    // The map owns it and aborts it; it also ends by itself when it has no members.
    let runner = tokio::spawn(run(answers, source.key.clone(), Arc::downgrade(shared))).abort_handle();
    groups.insert(source.key.clone(), Group { ring, reached: at, runner });
    Some(receiver)
}

async fn run(mut answers: Answers, key: Key, shared: Weak<Groups>) {
    loop {
        let answer = answers.next().await;
        let Some(shared) = shared.upgrade() else { return };
        // This is under the lock, so that who joins gets the answer by the ring or sees a `reached` that covers it.
        let mut groups = shared.open.lock();
        let Some(group) = groups.get_mut(&key) else { return };
        let next = answer.and_then(|(answer, at)| Some((at?.parse::<Cursor>().ok()?, answer)));
        match next {
            Some((cursor, answer))
                if cursor > group.reached
                    && group.ring.receiver_count() > 0
                    && shared.memory.taken() + answer.json.len() <= RINGS_BYTES_MAX =>
            {
                group.reached = cursor;
                let held = Arc::new(shared.memory.hold(answer.json.len()));
                let _all_left = group.ring.send((cursor, answer, held));
            }
            // Nobody listens, it failed, or it is too large to be kept: each member reads on by itself and hears the reason itself.
            _ => {
                groups.remove(&key);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_graphql::{Context, EmptyMutation, Object, Schema, Subscription};
    use futures_util::Stream;
    use hiveward_runtime::{clock::Deadline, ledger::Cursor};
    use tokio::sync::watch;

    use super::*;
    use hiveward_access::role::{Grant, Role};

    use crate::{auth::Principal, limit::DocumentLimits};

    /// Events 1, 2, 3 … up to whatever the test has let happen.
    #[derive(Clone)]
    struct World(watch::Sender<u64>, Arc<AtomicUsize>);

    struct Event(u64);

    #[Object]
    impl Event {
        async fn cursor(&self, ctx: &Context<'_>) -> u64 {
            ctx.data_unchecked::<World>().1.fetch_add(1, Ordering::Relaxed);
            self.0
        }
    }

    struct Nothing;

    #[Object]
    impl Nothing {
        async fn none(&self) -> bool {
            true
        }
    }

    struct Feed;

    #[Subscription]
    impl Feed {
        async fn events(&self, ctx: &Context<'_>, after: Option<u64>) -> impl Stream<Item = Event> {
            let world = ctx.data_unchecked::<World>();
            let position = ctx.data_unchecked::<Position>().clone();
            let happened = world.0.subscribe();
            let resumed = position.resume_after().map(|after| after.parse().unwrap());
            let from: u64 = resumed.or(after).unwrap_or(*happened.borrow());
            position.reach(Cursor(from));
            stream::unfold(from, move |at| {
                let (mut happened, position) = (happened.clone(), position.clone());
                async move {
                    happened.wait_for(|last| *last > at).await.ok()?;
                    position.reach(Cursor(at + 1));
                    Some((Event(at + 1), at + 1))
                }
            })
        }
    }

    struct Scene {
        engine: Arc<dyn Engine>,
        shares: Shares,
        world: World,
    }

    fn scene() -> Scene {
        let world = World(watch::channel(0).0, Arc::default());
        let schema = Schema::build(Nothing, EmptyMutation, Feed).data(world.clone()).finish();
        Scene { engine: Arc::new(schema), shares: Shares::default(), world }
    }

    impl Scene {
        fn subscribe(&self, after: Option<u64>) -> Answers {
            let query = "subscription($after:Int){events(after:$after){cursor}}";
            let request = Request::new(query).variables(Variables::from_json(serde_json::json!({ "after": after })));
            let prepared = engine::prepare(request, &DocumentLimits::default(), &Memory::default())
                .unwrap_or_else(|_| panic!("the query is refused"));
            let principal = Arc::new(Principal::service("test", [Grant::everywhere(Role::Admin)]));
            let deadline = Deadline::after(std::time::Duration::from_secs(60));
            self.shares.stream(
                &self.engine,
                prepared,
                Caller { principal, project: None, trace: TraceId::new(), deadline },
                Position::default(),
            )
        }

        fn happen(&self, events: u64) {
            self.world.0.send_modify(|last| *last += events);
        }
    }

    async fn take(answers: &mut Answers) -> u64 {
        let (answer, position) = answers.next().await.unwrap();
        let json: serde_json::Value = serde_json::from_slice(&answer.json).unwrap();
        let cursor = json["data"]["events"]["cursor"].as_u64().unwrap_or_else(|| panic!("{json}"));
        assert_eq!(position.unwrap().parse::<Cursor>().unwrap(), Cursor(cursor));
        cursor
    }

    #[tokio::test]
    async fn subscribers_of_one_query_share_its_execution_and_each_gets_every_event_once() {
        let scene = scene();
        let mut members: Vec<_> = (0..50).map(|_| scene.subscribe(Some(0))).collect();
        for member in &mut members {
            assert!(member.next().now_or_never().is_none(), "nothing has happened yet");
        }
        for event in 1..=200 {
            scene.happen(1);
            for member in &mut members {
                assert_eq!(take(member).await, event);
            }
        }
        let executed = scene.world.1.load(Ordering::Relaxed);
        assert!(executed <= 250, "{executed} executions for 200 events and 50 members");
    }

    #[tokio::test]
    async fn one_that_falls_behind_or_comes_back_misses_nothing_and_gets_nothing_twice() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut dice = fastrand::Rng::with_seed(seed);
        let scene = scene();
        let mut members: Vec<_> = (0..20).map(|_| (scene.subscribe(Some(0)), 0)).collect();
        for _ in 0..2_000 {
            // Sometimes more at once than the ring holds.
            scene.happen(if dice.u8(..) == 0 { RING as u64 + 10 } else { dice.u64(0..3) });
            let last = *scene.world.0.borrow();
            for (member, seen) in &mut members {
                match dice.u8(0..10) {
                    0 => *member = scene.subscribe(Some(*seen)),
                    1..5 => {}
                    _ => {
                        while *seen < last {
                            *seen += 1;
                            assert_eq!(take(member).await, *seen);
                        }
                        assert!(member.next().now_or_never().is_none(), "an event that did not happen");
                    }
                }
            }
        }
        for (member, seen) in &mut members {
            while *seen < *scene.world.0.borrow() {
                *seen += 1;
                assert_eq!(take(member).await, *seen);
            }
        }
        let events = *scene.world.0.borrow() as usize;
        let executed = scene.world.1.load(Ordering::Relaxed);
        assert!(executed < events * 20, "{executed} executions for {events} events: nothing was shared");
    }

    #[tokio::test]
    async fn a_group_without_members_ends() {
        let scene = scene();
        let mut member = scene.subscribe(Some(0));
        assert!(member.next().now_or_never().is_none());
        assert_eq!(scene.shares.groups.open.lock().len(), 1);
        drop(member);
        scene.happen(1);
        while !scene.shares.groups.open.lock().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
