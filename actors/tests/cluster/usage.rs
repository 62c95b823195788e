//! What models used on one node counts on all.

use std::{sync::Arc, time::Duration};

use hiveward_actors::client::EventFilter;
use hiveward_catalogue::budget::{Budget, CallRules, Scope};
use hiveward_kernel::{
    body::Label,
    id::{AgentId, SwarmId, TaskId},
    lease::Lease,
};
use hiveward_models::{Call, Estimate, Models, Reservation, Usage, access::Holder, meter::NotGranted, table::UsageBy};
use hiveward_runtime::{cluster::lease::Phase, ledger::Cursor};

use crate::rig::{Rig, op, op_named, until};

fn holder() -> Arc<Holder> {
    let lease = Lease { task: TaskId::new(), attempt: 1, agent: AgentId::new() };
    let labels = vec![Label { key: "team".into(), value: "blue".into() }];
    Arc::new(Holder { lease, swarm: SwarmId::new_head(), incarnation: 1, labels, rules: CallRules::default() })
}

/// A call that may use and does use so many tokens.
async fn call(models: &Models, holder: &Arc<Holder>, tokens: u64) -> Result<(), NotGranted> {
    let reserved = models.reserve(holder, "p", "m", Estimate { input: tokens, output: 0 }).await?;
    let call = Call { holder: holder.clone(), provider: "p".into(), model: "m".into(), fallback_from: None };
    models.used(&call, Some(reserved), Usage { input: tokens, ..Usage::default() }, false);
    Ok(())
}

async fn end(models: &Models, holder: &Arc<Holder>, reserved: Reservation, tokens: u64) {
    let call = Call { holder: holder.clone(), provider: "p".into(), model: "m".into(), fallback_from: None };
    models.used(&call, Some(reserved), Usage { input: tokens, ..Usage::default() }, false);
}

async fn reserve(models: &Models, holder: &Arc<Holder>, tokens: u64) -> Result<Reservation, NotGranted> {
    models.reserve(holder, "p", "m", Estimate { input: tokens, output: 0 }).await
}

/// Still not answered when everything that was on its way has arrived: other calls that came after it were.
async fn waits(call: &mut (impl Future<Output = Result<Reservation, NotGranted>> + Unpin)) {
    let early = tokio::time::timeout(Duration::from_millis(300), call).await;
    assert!(early.is_err(), "{early:?}");
}

/// Sets it, and waits until every node has heard of it.
async fn set_budget(rig: &Rig, scope: &Scope, limit: u64) {
    let budget = Budget { tokens: Some(limit), ..Budget::default() };
    rig.control(rig.hosts.len() - 1).set_budget(op(), scope.clone(), budget).await.unwrap();
    for host in &rig.hosts {
        until("the budget on each node", || host.models.counter().asks_for(scope).then_some(())).await;
    }
}

fn warnings(rig: &Rig) -> usize {
    let filter = EventFilter { kind: vec!["BudgetWarned".into()], ..EventFilter::default() };
    rig.control(0).events(Cursor(0), &filter, 10).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_of_the_whole_cluster_and_each_node_hears_what_the_others_spent() {
    let mut rig = Rig::start(2).await;
    let scope = Scope::Label("team=blue".into());
    let budget = Budget { tokens: Some(1_000), nanos: None, warn_percent: Some(90) };
    // By a node that does not lead.
    rig.control(1).set_budget(op_named("b"), scope.clone(), budget).await.unwrap();
    let (first, second, holder) = (rig.hosts[0].models.clone(), rig.hosts[1].models.clone(), holder());
    // By the owner's word, which is the node that leads.
    let spent = |models: &Models, tokens| {
        let (models, scope) = (models.clone(), scope.clone());
        move || models.counter().account(&scope).filter(|account| account.spent_tokens == tokens)
    };
    until("the budget, where it is kept", spent(&first, 0)).await;
    assert_eq!(second.counter().account(&scope), None, "there is one owner");
    call(&first, &holder, 600).await.unwrap();
    let refused = call(&second, &holder, 500).await.unwrap_err();
    assert!(matches!(&refused, NotGranted::Refused(why) if why.contains("600 are spent")), "{refused:?}");
    assert_eq!(warnings(&rig), 0);
    call(&second, &holder, 350).await.unwrap();
    until("the sum, whoever spent it", spent(&first, 950)).await;
    until("the warning", || (warnings(&rig) > 0).then_some(())).await;
    rig.lead(1);
    call(&first, &holder, 50).await.unwrap();
    until("the rest, with the next owner", spent(&second, 1_000)).await;
    rig.control(0).set_budget(op(), Scope::Label("other=1".into()), budget).await.unwrap();
    assert_eq!(warnings(&rig), 1, "one crossing, one warning, whoever leads");
    let page = rig.control(0).usage(UsageBy::Label, None, 10).unwrap();
    assert_eq!((page.items[0].1.usage.input, page.items[0].1.calls), (1_000, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_all_nodes_together_never_pass_a_budget_however_many_call_at_once() {
    const LIMIT: u64 = 2_000;
    let rig = Rig::start(3).await;
    let scope = Scope::Label("team=blue".into());
    set_budget(&rig, &scope, LIMIT).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..90 {
        let (models, holder) = (rig.hosts[n % 3].models.clone(), holder());
        calls.spawn(async move {
            let reserved = reserve(&models, &holder, 70).await?;
            // Others ask meanwhile, and calls end in another order than they began.
            for _ in 0..n % 7 {
                tokio::task::yield_now().await;
            }
            end(&models, &holder, reserved, 50).await;
            Ok::<_, NotGranted>(())
        });
    }
    let ended = calls.join_all().await;
    let answered = ended.iter().filter(|ended| ended.is_ok()).count() as u64;
    for refused in ended.iter().filter_map(|ended| ended.as_ref().err()) {
        assert!(matches!(refused, NotGranted::Refused(why) if why.contains("label team=blue is 2000 tokens")), "{refused:?}");
    }
    // The last that fits is the one that may use 70 and finds as much.
    assert_eq!(answered * 50, 1_950, "no budget is passed, and none is left lying");
    let models = &rig.hosts[0].models;
    let settled = || models.counter().account(&scope).filter(|account| account.reserved_tokens == 0);
    assert_eq!(until("everything to be counted", settled).await.spent_tokens, 1_950);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_owner_of_budgets_counts_what_is_under_way_on_every_node() {
    let mut rig = Rig::start(3).await;
    let scope = Scope::Label("team=blue".into());
    set_budget(&rig, &scope, 1_000).await;
    let models: Vec<Models> = rig.hosts.iter().map(|host| host.models.clone()).collect();
    let holder = holder();
    let (first, second) = (reserve(&models[0], &holder, 300).await.unwrap(), reserve(&models[1], &holder, 400).await.unwrap());
    rig.lead(2);
    until("one owner", || models[0].counter().account(&scope).is_none().then_some(())).await;
    let mut third = Box::pin(reserve(&models[2], &holder, 400));
    waits(&mut third).await;
    end(&models[1], &holder, second, 50).await;
    let third = third.await.unwrap();
    end(&models[0], &holder, first, 300).await;
    end(&models[2], &holder, third, 400).await;
    let refused = reserve(&models[1], &holder, 300).await.unwrap_err();
    assert!(matches!(&refused, NotGranted::Refused(why) if why.contains("750 are spent")), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_ask_lets_no_call_in_that_a_budget_concerns_and_every_other() {
    let rig = Rig::start(2).await;
    let scope = Scope::Label("team=blue".into());
    set_budget(&rig, &scope, 1_000).await;
    let (models, holder) = (rig.hosts[1].models.clone(), holder());
    drop(reserve(&models, &holder, 10).await.unwrap());
    rig.unlink(1);
    let mut asks = Box::pin(reserve(&models, &holder, 10));
    waits(&mut asks).await;
    let free = Arc::new(Holder { labels: Vec::new(), ..(*holder).clone() });
    drop(reserve(&models, &free, 10).await.unwrap());
    rig.link_all().await;
    drop(asks.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_owner_waits_for_whoever_may_still_call_by_the_word_of_the_one_before() {
    let mut rig = Rig::start(3).await;
    let scope = Scope::Label("team=blue".into());
    set_budget(&rig, &scope, 1_000).await;
    let (first, second, holder) = (rig.hosts[0].models.clone(), rig.hosts[1].models.clone(), holder());
    let held = reserve(&first, &holder, 900).await.unwrap();
    rig.unlink(0);
    rig.lead(1);
    let mut asks = Box::pin(reserve(&second, &holder, 500));
    waits(&mut asks).await;
    // Its lease is over before it is called lost: then it has ended what it ran.
    rig.lease(0, Phase::Over);
    drop(held);
    rig.declare_lost(0).await;
    drop(asks.await.unwrap());
    let mut late = Box::pin(reserve(&first, &holder, 10));
    waits(&mut late).await;
}
