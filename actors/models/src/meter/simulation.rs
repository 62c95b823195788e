//! Plays seeded histories of many agents that ask, wait, use and go away, against budgets and rates. Prints the seed that fails.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use hiveward_kernel::id::{AgentId, SwarmId};

use super::{
    rate::RateLimit,
    state::{Ask, Meter, Verdict},
};

const SEEDS: u64 = 100;
const STEPS: u32 = 400;
const AGENTS: u128 = 12;
const LIMIT: u64 = 20_000;

struct World {
    meter: Meter,
    now: Instant,
    waits: Vec<u64>,
    granted: HashMap<u64, (Vec<Scope>, Amount)>,
    refused: u64,
    /// The amounts spent, counted apart from the meter.
    spent: HashMap<Scope, u64>,
}

fn scopes(agent: u128) -> Vec<Scope> {
    let swarm = Scope::Swarm(SwarmId::from_u128(agent % 2));
    vec![Scope::Agent(AgentId::from_u128(agent)), swarm, Scope::Label("all=1".to_owned())]
}

impl World {
    fn look(&mut self, asked: &HashMap<u64, (Vec<Scope>, Amount)>) {
        for (number, verdict) in self.meter.look(self.now).verdicts {
            self.waits.retain(|waits| *waits != number);
            match verdict {
                Verdict::Granted => drop(self.granted.insert(number, asked[&number].clone())),
                Verdict::Refused(why) => {
                    assert!(why.contains("budget of"), "{why}");
                    self.refused += 1;
                }
            }
        }
    }

    /// Checks what the meter says against what was counted apart.
    fn check(&self, over: u64, seed: u64) {
        for agent in 0..AGENTS {
            for scope in scopes(agent) {
                let Some(account) = self.meter.account(&scope) else { continue };
                let reserved: u64 =
                    self.granted.values().filter(|(scopes, _)| scopes.contains(&scope)).map(|(_, amount)| amount.tokens).sum();
                let spent = self.spent.get(&scope).copied().unwrap_or(0);
                assert_eq!((account.reserved_tokens, account.spent_tokens), (reserved, spent), "seed {seed}: {scope}");
                if let Budget { tokens: Some(limit), .. } = account.budget {
                    assert!(spent + reserved <= limit + over, "seed {seed}: {scope} has {spent} + {reserved} of {limit}");
                }
            }
        }
    }
}

fn run(seed: u64, low_estimates: bool) -> (u64, u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut world = World {
        meter: Meter::default(),
        now: Instant::now(),
        waits: Vec::new(),
        granted: HashMap::new(),
        refused: 0,
        spent: HashMap::new(),
    };
    let budget = |tokens| Some(Budget { tokens: Some(tokens), ..Budget::default() });
    world.meter.set_budget(Scope::Label("all=1".to_owned()), budget(LIMIT));
    world.meter.set_budget(Scope::Swarm(SwarmId::from_u128(1)), budget(LIMIT / 3));
    let (mut asked, mut over) = (HashMap::new(), 0);
    for step in 0..STEPS {
        if step == STEPS / 4 {
            // Set while calls are under way: what they have reserved counts from the first moment.
            let scope = Scope::Agent(AgentId::from_u128(3));
            world.meter.set_budget(scope.clone(), budget(LIMIT));
            world.spent.remove(&scope);
        }
        world.now += Duration::from_millis(dice.u64(0..3_000));
        match dice.u8(0..10) {
            0..=4 => {
                let agent = dice.u128(0..AGENTS);
                let estimate = Amount { tokens: dice.u64(1..800), nanos: None };
                let rate = Some(RateLimit { requests: Some(30), tokens: None });
                let ask =
                    Ask { agent: AgentId::from_u128(agent), scopes: scopes(agent), estimate, provider: "p".to_owned(), rate };
                if let Some(number) = world.meter.ask(ask) {
                    asked.insert(number, (scopes(agent), estimate));
                    world.waits.push(number);
                }
            }
            5..=8 => {
                let Some(number) = dice.choice(world.granted.keys().copied().collect::<Vec<_>>()) else { continue };
                let Some((scopes, amount)) = world.granted.remove(&number) else { continue };
                let extra = if low_estimates && dice.bool() { dice.u64(0..500) } else { 0 };
                // Each that was granted by an estimate that was too low may be over by what it used beyond it.
                over += extra;
                let used = if extra > 0 { amount.tokens + extra } else { dice.u64(0..=amount.tokens) };
                for _ in 0..dice.u8(1..3) {
                    world.meter.settle(number, Amount { tokens: used, nanos: None });
                }
                for scope in scopes {
                    *world.spent.entry(scope).or_default() += used;
                }
            }
            _ => {
                let both: Vec<u64> = world.waits.iter().chain(world.granted.keys()).copied().collect();
                let Some(number) = dice.choice(both) else { continue };
                world.waits.retain(|waits| *waits != number);
                world.granted.remove(&number);
                world.meter.withdraw(number);
            }
        }
        world.look(&asked);
        world.check(over, seed);
    }
    // Whoever still waits is answered once the others have settled: nobody waits for ever.
    for _ in 0..10_000 {
        if world.waits.is_empty() {
            break;
        }
        world.now += Duration::from_secs(30);
        for number in std::mem::take(&mut world.granted).into_keys() {
            world.meter.withdraw(number);
        }
        world.look(&asked);
    }
    assert!(world.waits.is_empty(), "seed {seed}: {} wait for ever", world.waits.len());
    (asked.len() as u64, world.refused)
}

#[test]
fn no_budget_is_passed_by_what_is_spent_and_reserved_and_nobody_waits_for_ever() {
    let (mut asked, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let (asks, refusals) = run(seed, false);
        (asked, refused) = (asked + asks, refused + refusals);
    }
    assert!(refused > 0 && refused < asked, "{refused} of {asked} were refused: the budgets are not tried");
}

#[test]
fn an_estimate_that_was_too_low_passes_a_budget_by_its_own_excess_and_no_more() {
    for seed in 0..SEEDS {
        run(seed, true);
    }
}

#[test]
fn agents_take_turns_however_many_calls_one_of_them_makes() {
    let mut meter = Meter::default();
    let all = Scope::Label("all=1".to_owned());
    meter.set_budget(all.clone(), Some(Budget { tokens: Some(100), ..Budget::default() }));
    let ask = |agent: u128| Ask {
        agent: AgentId::from_u128(agent),
        scopes: vec![Scope::Label("all=1".to_owned())],
        estimate: Amount { tokens: 60, nanos: None },
        provider: "p".to_owned(),
        rate: None,
    };
    let now = Instant::now();
    let many: Vec<u64> = (0..5).map(|_| meter.ask(ask(1)).unwrap()).collect();
    assert_eq!(meter.look(now).verdicts, [(many[0], Verdict::Granted)]);
    let other = meter.ask(ask(2)).unwrap();
    meter.settle(many[0], Amount { tokens: 1, nanos: None });
    let next = meter.look(now).verdicts;
    assert_eq!(next.len(), 1);
    meter.settle(next[0].0, Amount { tokens: 1, nanos: None });
    let after = meter.look(now).verdicts;
    assert!([next[0].0, after[0].0].contains(&other), "the other agent had its turn among the first two");
}

#[test]
fn a_refusal_names_the_budget_what_is_spent_and_what_to_do() {
    let mut meter = Meter::default();
    let scope = Scope::Label("team=a".to_owned());
    meter.set_budget(scope.clone(), Some(Budget { nanos: Some(2_500_000_000), ..Budget::default() }));
    let mut ask = Ask {
        agent: AgentId::from_u128(1),
        scopes: vec![scope],
        estimate: Amount { tokens: 1, nanos: Some(3_000_000_000) },
        provider: "p".to_owned(),
        rate: None,
    };
    meter.ask(ask.clone()).unwrap();
    let Verdict::Refused(why) = meter.look(Instant::now()).verdicts.remove(0).1 else { panic!("granted") };
    assert!(why.contains("label team=a is 2.5") && why.contains("up to 3") && why.contains("raise the budget"), "{why}");
    ask.estimate.nanos = None;
    meter.ask(ask).unwrap();
    let Verdict::Refused(why) = meter.look(Instant::now()).verdicts.remove(0).1 else { panic!("granted") };
    assert!(why.contains("no price"), "{why}");
}
