//! Keeps a node's counter going: who leads, which budgets there are, what is spent, and the way to the owner.

use std::{collections::BTreeSet, time::Duration};

use hiveward_catalogue::{budget::Scope, directory::NodeStatus};
use hiveward_kernel::desks;
use hiveward_runtime::{
    clock::Deadline,
    net::{desk::Desk, rpc::LaneRpc},
    op::NodeId,
};
use tokio::task::JoinHandle;

use super::{
    counter::{self, Counter, Freshness},
    state::Known,
    wire::{BankAnswer, Question},
};
use crate::services::ModelServices;

/// The time for an owner to take in a post.
const POST_WITHIN: Duration = Duration::from_secs(2);
/// The pause before everything is told again to an owner that was not reached.
const RETRY: Duration = Duration::from_millis(100);
/// The time after which an owner that has nothing to say answers all the same.
const HEAR_FOR: Duration = Duration::from_secs(10);
/// The time beyond that for the answer to come.
const HEAR_MARGIN: Duration = Duration::from_secs(2);
const FAR: Duration = Duration::from_secs(3600);

/// The tasks that a node's counter stands on. Dropping it stops them.
pub struct Following(Vec<JoinHandle<()>>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

/// Makes the counter go by what this node says from here on, until the value that it returns is dropped.
pub fn follow(services: &ModelServices, counter: &Counter) -> Following {
    let (knows, head, peers) = (services.clone(), services.ledger.clone(), services.peers.clone());
    counter.open(
        counter::House {
            me: services.me.node,
            may_act: Box::new(move || peers.may_act()),
            head: Box::new(move || head.head().0),
            known: Box::new(move |directory, freshness| known(&knows, directory, freshness)),
        },
        services.generation,
    );
    let (leading, looking) = (counter.clone(), counter.clone());
    let services = services.clone();
    Following(vec![
        tokio::spawn(lead(services, leading)),
        tokio::spawn(async move {
            loop {
                let again = looking.look().unwrap_or(FAR);
                // Either way there may be something to do.
                let _ = tokio::time::timeout(again, looking.looked_for().notified()).await;
            }
        }),
    ])
}

async fn lead(services: ModelServices, counter: Counter) {
    let mut leadership = services.peers.leader();
    loop {
        let now = leadership.borrow_and_update().clone();
        let owner = now.is_me.then(|| {
            if let Err(error) = services.directory.catch_up() {
                tracing::warn!(%error, "who is to tell what it holds is not known yet");
            }
            let mut expects = acting(&services);
            expects.insert(services.me.node);
            (services.ledger.head().0, expects)
        });
        counter.lead(now.term, owner);
        counter.news().notify_one();
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// Returns the nodes that may hold something by another owner's word.
fn acting(services: &ModelServices) -> BTreeSet<NodeId> {
    services.directory.read(|known| {
        let acting = known.nodes.values().filter(|entry| {
            let there = matches!(entry.status, NodeStatus::Up | NodeStatus::Draining | NodeStatus::Drained);
            there && entry.record.asks_before_calls
        });
        acting.map(|entry| entry.record.node).collect()
    })
}

fn known(services: &ModelServices, directory: u64, freshness: Freshness) -> Option<Known> {
    if services.directory.cursor().0 < directory
        && let Err(error) = services.directory.catch_up()
    {
        tracing::warn!(%error, "budgets are not known yet");
        return None;
    }
    let changed = services.directory.read(|known| known.parts.budgets.changed.0);
    if matches!(freshness, Freshness::SinceBudgets(since) if changed <= since) {
        return None;
    }
    // Looked at first: what is spent is at least as new.
    let cursor = services.views.cursor().0;
    let (budgets, removed) = services.directory.read(|known| {
        let budgets: Vec<_> = known.parts.budgets.all.iter().map(|(scope, entry)| (scope.clone(), entry.budget)).collect();
        let removed = known.nodes.values().filter(|entry| entry.status == NodeStatus::Removed).map(|entry| entry.record.node);
        (budgets, removed.collect())
    });
    let scopes: Vec<Scope> = budgets.iter().map(|(scope, _)| scope.clone()).collect();
    let spent = match services.usage.spent(&scopes) {
        Ok(spent) => spent,
        Err(refused) => {
            tracing::warn!(why = refused.message, "what the cluster spent cannot be read; nothing new is known of budgets");
            return None;
        }
    };
    let mut acting = acting(services);
    acting.insert(services.me.node);
    let budgets = budgets.into_iter().zip(spent).map(|((scope, budget), spent)| (scope, budget, spent)).collect();
    Some(Known { cursor, budgets_changed: changed, budgets, acting, removed })
}

/// The desk between this node's counter and those of others.
pub struct BankDesk {
    desk: Desk<Question, BankAnswer>,
    carrying: Vec<JoinHandle<()>>,
}

impl BankDesk {
    /// Opens the desk on this lane: it answers other nodes, and carries this node's posts to the owner.
    pub fn open(services: &ModelServices, counter: &Counter, lane: LaneRpc) -> Self {
        let desk = Desk::new(lane, desks::BUDGETS);
        let answering = counter.clone();
        desk.open(move |node, question| {
            let counter = answering.clone();
            async move { Ok(answer(&counter, node, question).await) }
        });
        let carrying = vec![
            tokio::spawn(post(services.clone(), counter.clone(), desk.clone())),
            tokio::spawn(hear(services.clone(), counter.clone(), desk.clone())),
        ];
        Self { desk, carrying }
    }

    /// Closes the desk, as dropping it does. Repeating it changes nothing.
    pub fn close(&self) {
        self.desk.close();
        self.carrying.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for BankDesk {
    fn drop(&mut self) {
        self.close();
    }
}

async fn answer(counter: &Counter, node: NodeId, question: Question) -> BankAnswer {
    match question {
        Question::Post(post) => {
            let answer = counter.take_in(node, post);
            counter.look();
            match answer {
                // With what the look has just said.
                BankAnswer::Heard { term, session, .. } => counter.say_to(node, term, session, 0),
                other => other,
            }
        }
        Question::Hear { term, session, heard } => {
            let mut said = counter.said();
            let until = tokio::time::Instant::now() + HEAR_FOR;
            loop {
                said.mark_unchanged();
                let answer = counter.say_to(node, term, session, heard);
                let nothing = matches!(&answer, BankAnswer::Heard { said, .. } if said.is_empty());
                if !nothing || !matches!(tokio::time::timeout_at(until, said.changed()).await, Ok(Ok(()))) {
                    return answer;
                }
            }
        }
    }
}

fn other_leader(services: &ModelServices) -> Option<NodeId> {
    services.peers.leader().borrow().leader.filter(|leader| *leader != services.me.node)
}

async fn post(services: ModelServices, counter: Counter, desk: Desk<Question, BankAnswer>) {
    loop {
        let Some(leader) = other_leader(&services) else {
            counter.news().notified().await;
            continue;
        };
        let Some(post) = counter.post() else {
            counter.news().notified().await;
            continue;
        };
        let asked = desk.ask(leader, &Question::Post(post.clone()), Deadline::after(POST_WITHIN)).await;
        let reached = matches!(&asked, Ok(BankAnswer::Heard { .. } | BankAnswer::TellAll { .. }));
        if let Err(error) = &asked {
            tracing::debug!(%error, "the owner of budgets was not told; it is told everything again");
        }
        counter.answered(&post, asked.ok());
        if !reached {
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn hear(services: ModelServices, counter: Counter, desk: Desk<Question, BankAnswer>) {
    loop {
        let asked = other_leader(&services).zip(counter.to_hear());
        let Some((leader, (term, session, heard))) = asked else {
            counter.waits().notified().await;
            continue;
        };
        let question = Question::Hear { term, session, heard };
        match desk.ask(leader, &question, Deadline::after(HEAR_FOR + HEAR_MARGIN)).await {
            Ok(answer) => {
                let tell_all = matches!(answer, BankAnswer::TellAll { .. });
                counter.hears(Some(answer));
                if tell_all {
                    counter.news().notify_one();
                    tokio::time::sleep(RETRY).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "the owner of budgets is not heard");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
