//! What stops calls of models: budgets, in tokens and money, and the rates of a provider's key.

use std::time::Duration;

use hiveward_catalogue::budget::{Budget, CallRules, Scope};
use hiveward_kernel::id::SwarmId;
use hiveward_models::access::ModelAccess;
use serde_json::json;

use crate::support::{Front, ask, completions_of, holder, messages_of, model, prompt};

const FIFTY_TOKENS: &str =
    "conversations:\n- steps: [{say: hello, usage: {input: 30, output: 12, cacheRead: 5, cacheWrite: 3}}]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_agents_under_one_budget_stay_within_it_and_every_token_is_accounted_for() {
    const LIMIT: u64 = 2_000;
    let server = model(FIFTY_TOKENS).await;
    let front = Front::before(&server).await;
    let swarm = SwarmId::new_head();
    let scope = Scope::Swarm(swarm);
    front.models.counter().set_budget(scope.clone(), Some(Budget { tokens: Some(LIMIT), ..Budget::default() }));
    let mut agents = tokio::task::JoinSet::new();
    let mut leases = Vec::new();
    for _ in 0..50 {
        let mut holder = holder(CallRules::default());
        holder.swarm = swarm;
        leases.push(holder.lease);
        let pass = front.models.open(holder).unwrap();
        agents.spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..2 {
                let got = ask(&messages_of(&pass), &pass.token, &prompt("go")).await;
                if got.status == 402 {
                    let said = got.text();
                    assert!(said.contains("billing_error") && said.contains("the budget of swarm_"), "{said}");
                    assert!(said.contains("2000 tokens") && said.contains("raise the budget"), "{said}");
                }
                statuses.push(got.status);
            }
            statuses
        });
    }
    let statuses: Vec<u16> = agents.join_all().await.into_iter().flatten().collect();
    let answered = statuses.iter().filter(|status| **status == 200).count() as u64;
    assert!(statuses.iter().all(|status| matches!(status, 200 | 402)), "{statuses:?}");
    // A call is let in as long as the most it may use fits, and that is well under 200 tokens.
    assert!(answered * 50 <= LIMIT && answered * 50 > LIMIT - 250, "{answered} were answered");
    let mut metered = 0;
    for lease in leases {
        let calls = front.models.usage(lease).iter().map(|(_, used)| used.calls).sum();
        metered += front.usage(lease, calls).await.iter().map(|(_, used)| used.usage.tokens()).sum::<u64>();
    }
    let total = server.total();
    let sent = total.usage;
    assert_eq!(metered, sent.input + sent.output + sent.cache_read + sent.cache_write);
    let account = front.models.counter().account(&scope).unwrap();
    assert_eq!((account.spent_tokens, account.reserved_tokens, total.calls), (metered, 0, answered));
}

#[tokio::test]
async fn an_attempt_that_used_up_its_tokens_is_told_so_and_another_goes_on() {
    let server = model(FIFTY_TOKENS).await;
    let front = Front::before(&server).await;
    let rules = CallRules { tokens_max: Some(220), ..CallRules::default() };
    let (lease, pass) = front.pass(rules.clone());
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(ask(&messages_of(&pass), &pass.token, &prompt("go")).await.status);
        front.usage(lease, statuses.iter().filter(|status| **status == 200).count() as u64).await;
    }
    assert!(statuses.starts_with(&[200]) && statuses.ends_with(&[402]), "{statuses:?}");
    let refusal = front.models.refusal(lease).unwrap();
    assert!(refusal.contains("the budget of attempt 1 of task_") && refusal.contains("profile"), "{refusal}");
    let calls = server.total().calls;
    let refused = ask(&completions_of(&pass), &pass.token, &prompt("go")).await;
    assert_eq!((refused.status, &refused.json()["error"]["type"]), (402, &json!("insufficient_quota")));
    assert_eq!(server.total().calls, calls, "what is refused reaches no provider");
    let mut again = holder(rules.clone());
    again.lease = lease;
    front.models.close(lease);
    let reopened = front.models.open(again).unwrap();
    assert_eq!(
        ask(&messages_of(&reopened), &reopened.token, &prompt("go")).await.status,
        402,
        "opening it again gives nothing new"
    );
    let (other, pass) = front.pass(rules);
    assert_eq!(ask(&messages_of(&pass), &pass.token, &prompt("go")).await.status, 200);
    assert_eq!(front.models.refusal(other), None);
}

#[tokio::test]
async fn money_is_known_only_where_there_is_a_price_and_limits_only_what_has_one() {
    let server = model(FIFTY_TOKENS).await;
    let prices = "{m: {input: '10', output: '100', cache_read: '1', cache_write: '20'}}";
    let front = Front::priced(&server, prices).await;
    let rules = CallRules { nanos_max: Some(20_000_000), ..CallRules::default() };
    let (lease, pass) = front.pass(rules.clone());
    assert_eq!(ask(&messages_of(&pass), &pass.token, &prompt("go")).await.status, 200);
    // 30 × 10, 12 × 100, 5 × 1 and 3 × 20 millionths.
    assert_eq!(front.usage(lease, 1).await[0].1.nanos, Some(1_565_000));
    let mut unpriced = prompt("go");
    unpriced["model"] = json!("x");
    let refused = ask(&messages_of(&pass), &pass.token, &unpriced).await;
    assert!(refused.status == 402 && refused.text().contains("models.prices"), "{}", refused.text());
    let (lease, pass) = front.pass(CallRules::default());
    assert_eq!(ask(&messages_of(&pass), &pass.token, &unpriced).await.status, 200);
    assert_eq!(front.usage(lease, 1).await[0].1.nanos, None);
}

#[tokio::test]
async fn a_keys_requests_per_minute_are_held() {
    let server = model(FIFTY_TOKENS).await;
    let at = server.address();
    let front = Front::start(&format!("{{a: {{api: anthropic, url: 'http://{at}', requests_per_minute: 2}}}}")).await;
    let (_, pass) = front.pass(CallRules::default());
    for _ in 0..2 {
        assert_eq!(ask(&messages_of(&pass), &pass.token, &prompt("go")).await.status, 200);
    }
    let third = tokio::time::timeout(Duration::from_millis(300), ask(&messages_of(&pass), &pass.token, &prompt("go"))).await;
    assert!(third.is_err() && server.total().calls == 2, "the third waits for its minute");
}
