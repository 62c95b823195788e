//! What models used on one node counts on all.

use std::sync::Arc;

use hiveward_actors::{
    agent::connector::Lease,
    client::EventFilter,
    id::{AgentId, SwarmId, TaskId},
    model::{
        Call, CallRules, Estimate, Holder, Models, Usage,
        meter::{Budget, NotGranted, Scope},
        table::UsageBy,
    },
    task::spec::Label,
};
use hiveward_runtime::ledger::Cursor;

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
    let spent = |models: &Models, tokens| {
        let (models, scope) = (models.clone(), scope.clone());
        move || models.gate().account(&scope).filter(|account| account.spent_tokens == tokens)
    };
    for models in [&first, &second] {
        until("the budget on each node", spent(models, 0)).await;
    }
    call(&first, &holder, 600).await.unwrap();
    until("what the first node spent, on the second", spent(&second, 600)).await;
    let refused = call(&second, &holder, 500).await.unwrap_err();
    assert!(matches!(&refused, NotGranted::Refused(why) if why.contains("600 are spent")), "{refused:?}");
    assert_eq!(warnings(&rig), 0);
    call(&second, &holder, 350).await.unwrap();
    for models in [&first, &second] {
        until("the sum, on both", spent(models, 950)).await;
    }
    until("the warning", || (warnings(&rig) > 0).then_some(())).await;
    rig.lead(1);
    call(&first, &holder, 50).await.unwrap();
    until("the rest, on the second", spent(&second, 1_000)).await;
    rig.control(0).set_budget(op(), Scope::Label("other=1".into()), budget).await.unwrap();
    assert_eq!(warnings(&rig), 1, "one crossing, one warning, whoever leads");
    let page = rig.control(0).usage(UsageBy::Label, None, 10).unwrap();
    assert_eq!((page.items[0].1.usage.input, page.items[0].1.calls), (1_000, 3));
}
