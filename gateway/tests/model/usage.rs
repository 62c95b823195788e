//! What models used is in the ledger: added up to the token, whatever happens to the node in between.

use std::time::Duration;

use hiveward_catalogue::budget::{Budget, CallRules, Scope};
use hiveward_kernel::{body::Label, id::SwarmId};
use hiveward_models::{
    Usage,
    access::ModelAccess,
    table::{Total, UsageBy},
};
use hiveward_runtime::{error::Code, op::Op};
use serde_json::json;

use crate::support::{House, ask, completions_of, holder, messages_of, model, post, prompt, soon};

/// Different from call to call, and one that does not end by itself.
const VARIED: &str = "conversations:
- when: slow
  steps: [{say: a long story of many words, usage: {input: 70, output: 20}, fault: {slow: {firstMs: 0, everyMs: 100000}}}]
- when: cached
  steps: [{say: hello, usage: {input: 3, output: 4, cacheRead: 500, cacheWrite: 6}}]
- steps: [{say: hello, usage: {input: 30, output: 12}}]
";

fn sum(lines: &[(String, Total)]) -> (u64, Usage) {
    lines.iter().fold((0, Usage::default()), |(calls, mut sum), (_, total)| {
        sum.add(total.usage);
        (calls + total.calls, sum)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_is_what_the_provider_sent_to_the_token_across_restarts_between_calls_and_within_one() {
    let server = model(VARIED).await;
    let mut house = House::start(&server, "{m-1: {input: '10', output: '100', cache_read: '1', cache_write: '20'}}").await;
    let mut holder = holder(CallRules::default());
    holder.swarm = SwarmId::new_head();
    holder.labels = vec![Label { key: "team".into(), value: "blue".into() }, Label { key: "team".into(), value: "red".into() }];
    let mut other = crate::support::holder(CallRules::default());
    other.swarm = holder.swarm;
    for round in 0..3 {
        let (one, two) = (house.models().open(holder.clone()).unwrap(), house.models().open(other.clone()).unwrap());
        let (first, second) = (messages_of(&one), completions_of(&two));
        let (go, cached) = (prompt("go"), prompt("cached"));
        let (first, second, third) =
            tokio::join!(ask(&first, &one.token, &go), ask(&second, &two.token, &go), ask(&first, &one.token, &cached),);
        assert_eq!((first.status, second.status, third.status), (200, 200, 200), "round {round}: {}", first.text());
        // The node stops in the middle of this one.
        let slow = post(&messages_of(&one), &one.token, &prompt("slow")).send().await.unwrap();
        assert_eq!(slow.status(), 200);
        house = house.restart().await;
        drop(slow);
    }
    let sent = server.total();
    let sent_usage = Usage {
        input: sent.usage.input,
        output: sent.usage.output,
        cache_read: sent.usage.cache_read,
        cache_write: sent.usage.cache_write,
    };
    let by_model = house.used(UsageBy::Model, 12).await;
    assert_eq!(sum(&by_model), (sent.calls, sent_usage));
    assert_eq!(by_model.len(), 1, "{by_model:?}");
    let total = &by_model[0].1;
    assert_eq!(total.incomplete, 3, "the node stopped within three");
    let (nanos, currency) = total.money().unwrap();
    let cost = sent_usage.input * 10 + sent_usage.output * 100 + sent_usage.cache_read + sent_usage.cache_write * 20;
    assert_eq!((nanos, currency), (cost * 1_000, "USD"));
    assert_eq!(sum(&house.used(UsageBy::Agent, 12).await), (12, sent_usage));
    let swarms = house.used(UsageBy::Swarm, 12).await;
    assert_eq!((swarms[0].0.clone(), sum(&swarms)), (holder.swarm.to_string(), (12, sent_usage)));
    let labels = house.used(UsageBy::Label, 18).await;
    assert_eq!(labels.iter().map(|(label, _)| label.as_str()).collect::<Vec<_>>(), ["team=blue", "team=red"]);
    assert_eq!(labels[0].1, labels[1].1);
    let control = house.node.control();
    let attempts = [holder.lease, other.lease].map(|lease| control.usage_of_attempt(lease).unwrap());
    assert_eq!(sum(&attempts.concat()), (12, sent_usage));
    let agent = control.usage_of(&[Scope::Agent(holder.lease.agent)]).unwrap().remove(0).unwrap();
    assert_eq!(agent, attempts[0][0].1);
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_used_up_its_tokens_has_not_more_after_a_restart() {
    let server = model(VARIED).await;
    let mut house = House::start(&server, "{}").await;
    let holder = holder(CallRules { tokens_max: Some(220), ..CallRules::default() });
    let mut answered = 0;
    for _ in 0..6 {
        let pass = house.models().open(holder.clone()).unwrap();
        answered += u64::from(ask(&messages_of(&pass), &pass.token, &prompt("go")).await.status == 200);
        house = house.restart().await;
    }
    assert!((1..=3).contains(&answered), "{answered}");
    let pass = house.models().open(holder.clone()).unwrap();
    assert_eq!(ask(&messages_of(&pass), &pass.token, &prompt("go")).await.status, 402);
    let refusal = house.models().refusal(holder.lease).unwrap();
    assert!(refusal.contains(&format!("{} are spent", answered * 42)), "{refusal}");
    house.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_without_a_price_has_no_cost_and_names_without_end_are_one_line() {
    let server = model(VARIED).await;
    let house = House::start(&server, "{priced: {input: '1', output: '1'}}").await;
    let holder = holder(CallRules::default());
    let pass = house.models().open(holder.clone()).unwrap();
    for n in 0..70 {
        let mut prompt = prompt("go");
        prompt["model"] = json!(format!("made-up-{n}"));
        assert_eq!(ask(&messages_of(&pass), &pass.token, &prompt).await.status, 200);
    }
    house.used(UsageBy::Model, 70).await;
    let attempt = house.node.control().usage_of_attempt(holder.lease).unwrap();
    assert!(attempt.len() == 65 && attempt.iter().any(|(model, total)| model == "other models" && total.calls == 6));
    assert!(attempt.iter().all(|(_, total)| total.money().is_none()));
    let page = house.node.control().usage(UsageBy::Model, None, 30).unwrap();
    assert!(page.items.len() == 30 && page.has_next);
    let rest = house.node.control().usage(UsageBy::Model, page.last_seen.as_deref(), 100).unwrap();
    assert!(rest.items.len() == 40 && !rest.has_next);
    soon("the node stops", house.stop()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_holds_across_restarts_goes_on_from_what_was_spent_and_warns_once() {
    let server = model(VARIED).await;
    let mut house = House::start(&server, "{}").await;
    let mut holder = holder(CallRules::default());
    holder.labels = vec![Label { key: "team".into(), value: "blue".into() }];
    let scope = Scope::Label("team=blue".into());
    let before = house.models().open(holder.clone()).unwrap();
    assert_eq!(ask(&messages_of(&before), &before.token, &prompt("cached")).await.status, 200);
    house.used(UsageBy::Label, 1).await;
    // What was used before it was set does not count.
    let budget = Budget { tokens: Some(400), nanos: None, warn_percent: Some(50) };
    let set = house.node.control().set_budget(op("first"), scope.clone(), budget).await.unwrap();
    assert_eq!((set.value.spent.tokens, set.value.warned), (0, false));
    let again = house.node.control().set_budget(op("first"), scope.clone(), budget).await.unwrap();
    assert_eq!(again.value.budget, set.value.budget);
    let other = Budget { tokens: Some(999), ..budget };
    let refused = house.node.control().set_budget(op("first"), scope.clone(), other).await.unwrap_err();
    assert_eq!(refused.code, Code::Conflict);

    let mut answered = 0;
    for _ in 0..12 {
        let pass = house.models().open(holder.clone()).unwrap();
        let got = ask(&messages_of(&pass), &pass.token, &prompt("go")).await;
        answered += u64::from(got.status == 200);
        if got.status == 402 {
            let said = got.text();
            assert!(said.contains(&format!("label team=blue is 400 tokens, {} are spent", answered * 42)), "{said}");
        }
        house.used(UsageBy::Label, answered + 1).await;
        house = house.restart().await;
    }
    assert!(answered * 42 > 200 && answered * 42 <= 400, "{answered}");
    let listed = house.node.control().budgets(None, 10).unwrap().items.remove(0).1;
    assert_eq!((listed.spent.tokens, listed.scope.clone()), (answered * 42, scope.clone()));
    let warned = soon("the warning", async {
        loop {
            let seen = house.warnings();
            if !seen.is_empty() {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert_eq!(warned.await.len(), 1);

    house.node.control().set_budget(op("more"), scope.clone(), Budget { tokens: Some(2_000), ..budget }).await.unwrap();
    let pass = house.models().open(holder.clone()).unwrap();
    assert_eq!(ask(&messages_of(&pass), &pass.token, &prompt("go")).await.status, 200);
    house.used(UsageBy::Label, answered + 2).await;
    house.node.control().remove_budget(op("away"), scope.clone()).await.unwrap();
    assert!(house.models().counter().account(&scope).is_none());
    let anew = house.node.control().set_budget(op("anew"), scope, budget).await.unwrap();
    assert_eq!((anew.value.spent.tokens, anew.value.warned), (0, false), "what is set anew counts from there");
    assert_eq!(house.warnings().len(), 1, "one crossing, one warning");
    house.stop().await;
}

fn op(name: &str) -> Op {
    Op { operation: Some(name.into()), ..Op::internal(Duration::from_secs(20)) }
}
