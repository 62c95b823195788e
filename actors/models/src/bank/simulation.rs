//! Plays seeded histories of a cluster whose nodes make calls under one budget while owners change, posts are lost, late and
//! doubled, and nodes are killed or cut off. Prints the seed that fails.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Instant,
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use hiveward_kernel::id::AgentId;
use hiveward_runtime::op::NodeId;

use super::{
    state::{Bank, Known},
    teller::Teller,
    wire::{BankAnswer, Post, Word},
};
use crate::meter::Ask;

const SEEDS: u64 = 60;
const STEPS: u32 = 2_000;
const NODES: usize = 4;
const LIMIT: u64 = 2_500;
const CALL_MAX: u64 = 600;

#[derive(Clone, Copy, PartialEq)]
enum Call {
    Waits,
    Goes,
    /// The call has used so much, which is not in the ledger yet.
    Used(u64),
}

struct Node {
    teller: Teller,
    generation: u64,
    /// The calls by the teller's number: what each may use, and what it did.
    calls: BTreeMap<u64, (u64, Call)>,
    /// The calls that have ended, in this order, to be written.
    books: Vec<(u64, u64)>,
    /// The calls that were written, of which the node has not heard: numbers and cursors.
    written: Vec<(u64, u64)>,
    /// The owner's side, present where this node takes itself for the leader.
    bank: Option<Bank>,
    /// The entry of the ledger up to which its view is.
    view: usize,
    /// Whether it may act: not when it has been cut off for longer than its lease.
    acts: bool,
    /// Whether nobody hears it, and it hears nobody.
    cut: bool,
}

enum Mail {
    Post(usize, usize, Post),
    /// The answer to a node; what it posted, or nothing if it only listens.
    BankAnswer(usize, Option<Post>, BankAnswer),
}

struct World {
    nodes: Vec<Node>,
    mail: Vec<Mail>,
    /// The amount that each entry used.
    ledger: Vec<u64>,
    term: u64,
    leader: usize,
    /// The amount that was used or could be used by those who were lost before they told it.
    slack: u64,
    granted: u64,
    refused: u64,
    now: Instant,
}

fn id(node: usize) -> NodeId {
    NodeId::from_u128(node as u128 + 1)
}

fn scope() -> Scope {
    Scope::Label("all=1".to_owned())
}

impl World {
    fn new() -> Self {
        let node = |_| Node {
            teller: Teller::new(1),
            generation: 1,
            calls: BTreeMap::new(),
            books: Vec::new(),
            written: Vec::new(),
            bank: None,
            view: 0,
            acts: true,
            cut: false,
        };
        let nodes = (0..NODES).map(node).collect();
        let mut world = Self {
            nodes,
            mail: Vec::new(),
            ledger: Vec::new(),
            term: 0,
            leader: 0,
            slack: 0,
            granted: 0,
            refused: 0,
            now: Instant::now(),
        };
        for node in &mut world.nodes {
            node.teller.know(HashSet::from([scope()]), 1);
        }
        world.elect(0);
        world
    }

    fn acting(&self) -> BTreeSet<NodeId> {
        (0..NODES).filter(|node| self.nodes[*node].acts).map(id).collect()
    }

    fn known(&self, up_to: usize) -> Known {
        let spent: u64 = self.ledger[..up_to].iter().sum();
        let budget = Budget { tokens: Some(LIMIT), ..Budget::default() };
        let amount = Amount { tokens: spent, nanos: Some(0) };
        Known {
            cursor: up_to as u64,
            budgets_changed: 0,
            budgets: vec![(scope(), budget, amount)],
            acting: self.acting(),
            removed: BTreeSet::new(),
        }
    }

    /// Makes a node lead from now on; the others, and who led before, may hear of it late.
    fn elect(&mut self, leader: usize) {
        self.term += 1;
        self.leader = leader;
        let bank = Bank::new(self.term, self.ledger.len() as u64, self.acting());
        let node = &mut self.nodes[leader];
        node.bank = Some(bank);
        node.teller.turn_to(self.term);
    }

    fn hears_of_the_leader(&mut self, node: usize) {
        if self.nodes[node].cut {
            return;
        }
        self.nodes[node].teller.turn_to(self.term);
        if node != self.leader {
            self.nodes[node].bank = None;
        }
    }

    fn posts(&mut self, from: usize) {
        // To whom it takes for the leader, by its term.
        let term = self.nodes[from].teller.term();
        let to = (0..NODES).find(|node| self.nodes[*node].bank.as_ref().is_some_and(|bank| bank.term() == term));
        if !self.nodes[from].acts {
            return;
        }
        let Some(post) = self.nodes[from].teller.post() else { return };
        match to {
            Some(to) => self.mail.push(Mail::Post(from, to, post)),
            None => self.mail.push(Mail::BankAnswer(from, Some(post), BankAnswer::NotLeading)),
        }
    }

    fn words(&mut self, node: usize, words: Vec<(u64, Word)>) {
        for (number, word) in words {
            let Some(call) = self.nodes[node].calls.get_mut(&number) else { panic!("a word on a call that is over") };
            match word {
                Word::Granted => {
                    assert!(call.1 == Call::Waits, "granted twice");
                    call.1 = Call::Goes;
                    self.granted += 1;
                }
                Word::Refused(_) | Word::Busy(_) => {
                    self.nodes[node].calls.remove(&number);
                    self.refused += 1;
                }
            }
        }
    }

    fn deliver(&mut self, mail: Mail) {
        match mail {
            Mail::Post(from, to, post) => {
                let head = self.ledger.len() as u64;
                let acts = self.nodes[to].acts;
                let reached = !self.nodes[to].cut || from == to;
                let answer = match self.nodes[to].bank.as_mut() {
                    Some(bank) if reached => {
                        bank.post(id(from), post.clone(), head);
                        if acts {
                            bank.look(self.now);
                        }
                        bank.hear(id(from))
                    }
                    _ => BankAnswer::NotLeading,
                };
                self.mail.push(Mail::BankAnswer(from, Some(post), answer));
            }
            Mail::BankAnswer(to, post, answer) => {
                // Whose lease is over believes nobody.
                let answer = Some(answer).filter(|_| self.nodes[to].acts);
                let words = match post {
                    Some(post) => self.nodes[to].teller.answered(&post, answer),
                    None => self.nodes[to].teller.hears(answer),
                };
                self.words(to, words);
            }
        }
    }

    /// Loses the answer to whatever a node posted last.
    fn lose(&mut self, mail: Mail) {
        let (node, post) = match mail {
            Mail::Post(from, _, post) | Mail::BankAnswer(from, Some(post), _) => (from, post),
            Mail::BankAnswer(_, None, _) => return,
        };
        let words = self.nodes[node].teller.answered(&post, None);
        assert!(words.is_empty());
    }

    fn ends(&mut self, node: usize, number: u64, used: u64) {
        let node = &mut self.nodes[node];
        if let Some(call) = node.calls.get_mut(&number) {
            call.1 = Call::Used(used);
        }
        node.books.push((number, used));
        node.teller.used(number, Amount { tokens: used, nanos: Some(0) }, true);
    }

    /// Ends a node's lease: it ends what it runs, and then it is called lost.
    fn lost(&mut self, node: usize, dice: &mut fastrand::Rng) {
        let going: Vec<_> =
            self.nodes[node].calls.iter().filter(|(_, call)| call.1 == Call::Goes).map(|(n, c)| (*n, c.0)).collect();
        self.nodes[node].acts = false;
        for (number, estimate) in going {
            self.ends(node, number, dice.u64(0..=estimate));
        }
        let waits: Vec<u64> = self.nodes[node].calls.iter().filter(|(_, call)| call.1 == Call::Waits).map(|(n, _)| *n).collect();
        for number in waits {
            self.nodes[node].calls.remove(&number);
            self.nodes[node].teller.gone(number);
        }
        self.slack += self.nodes[node].books.iter().map(|(_, used)| *used).sum::<u64>();
    }

    fn check(&self, seed: u64) {
        let spent: u64 = self.ledger.iter().sum();
        let calls = self.nodes.iter().flat_map(|node| node.calls.values());
        let held: u64 = calls
            .map(|(estimate, call)| match call {
                Call::Waits => 0,
                Call::Goes => *estimate,
                Call::Used(used) => *used,
            })
            .sum();
        assert!(spent + held <= LIMIT + self.slack, "seed {seed}: {spent} spent and {held} held of {LIMIT} + {}", self.slack);
    }

    fn step(&mut self, dice: &mut fastrand::Rng, rough: bool) {
        let node = dice.usize(0..NODES);
        let rough = rough && dice.u8(0..6) == 0;
        match dice.u8(0..100) {
            0..=19 if self.nodes[node].acts => {
                let estimate = dice.u64(1..=CALL_MAX);
                let ask = Ask {
                    agent: AgentId::from_u128(dice.u128(0..6)),
                    scopes: vec![scope()],
                    estimate: Amount { tokens: estimate, nanos: Some(0) },
                    provider: "p".to_owned(),
                    rate: None,
                };
                let (number, goes_on) = self.nodes[node].teller.begin(ask);
                assert!(!goes_on);
                self.nodes[node].calls.insert(number, (estimate, Call::Waits));
            }
            20..=34 => {
                let going = self.nodes[node].calls.iter().filter(|(_, call)| call.1 == Call::Goes);
                let Some((number, estimate)) = dice.choice(going.map(|(n, c)| (*n, c.0)).collect::<Vec<_>>()) else { return };
                match dice.u8(0..5) {
                    0 => {
                        self.nodes[node].calls.remove(&number);
                        self.nodes[node].teller.gone(number);
                    }
                    // Little is used, as a rule, so that a history has many calls.
                    _ => self.ends(node, number, dice.u64(0..=estimate / 2)),
                }
            }
            35..=44 if !self.nodes[node].cut && !self.nodes[node].books.is_empty() => {
                let (number, used) = self.nodes[node].books.remove(0);
                self.ledger.push(used);
                self.nodes[node].calls.remove(&number);
                self.nodes[node].written.push((number, self.ledger.len() as u64));
            }
            45..=52 if !self.nodes[node].written.is_empty() => {
                let (number, cursor) = self.nodes[node].written.remove(0);
                self.nodes[node].teller.landed(number, cursor);
            }
            53..=60 => {
                let one = &mut self.nodes[node];
                one.view = dice.usize(one.view..=self.ledger.len());
                let known = self.known(self.nodes[node].view);
                let acts = self.nodes[node].acts;
                let cut = self.nodes[node].cut;
                if let Some(bank) = self.nodes[node].bank.as_mut() {
                    // One that is cut off hears nothing new.
                    if !cut {
                        bank.know(known);
                    }
                    if acts {
                        bank.look(self.now);
                    }
                }
            }
            61..=70 => self.posts(node),
            71..=84 if !self.mail.is_empty() => {
                let mail = self.mail.remove(dice.usize(0..self.mail.len().min(3)));
                self.deliver(mail);
            }
            85..=87 => {
                let leads = self.nodes[self.leader].bank.as_ref();
                let Some(answer) = leads.map(|bank| bank.hear(id(node))) else { return };
                if !self.nodes[node].cut {
                    self.mail.push(Mail::BankAnswer(node, None, answer));
                }
            }
            88..=90 => self.hears_of_the_leader(node),
            91..=92 if rough && !self.mail.is_empty() => {
                let mail = self.mail.remove(dice.usize(0..self.mail.len()));
                self.lose(mail);
            }
            93 if rough && !self.mail.is_empty() => {
                let twice = match &self.mail[dice.usize(0..self.mail.len())] {
                    Mail::Post(from, to, post) => Mail::Post(*from, *to, post.clone()),
                    Mail::BankAnswer(to, post, answer) => Mail::BankAnswer(*to, post.clone(), answer.clone()),
                };
                self.mail.push(twice);
            }
            94..=95 if rough && self.nodes[node].acts && !self.nodes[node].cut => self.elect(node),
            96 if rough && self.nodes[node].acts && node != self.leader => self.nodes[node].cut = true,
            97 if rough && self.nodes[node].cut && self.nodes[node].acts => self.lost(node, dice),
            98 if rough && self.nodes[node].cut => {
                let node = &mut self.nodes[node];
                (node.cut, node.acts, node.bank) = (false, true, None);
                self.hears_of_the_leader(dice.usize(0..NODES));
            }
            // Killed: what it had not written is nobody's any more.
            99 if rough && !self.nodes[node].cut => {
                let one = &mut self.nodes[node];
                one.generation += 1;
                one.teller = Teller::new(one.generation);
                one.teller.know(HashSet::from([scope()]), 1);
                (one.calls, one.books, one.written, one.bank) = (BTreeMap::new(), Vec::new(), Vec::new(), None);
                self.mail.retain(|mail| !matches!(mail, Mail::BankAnswer(to, ..) if *to == node));
                if node == self.leader {
                    let next = (0..NODES).find(|node| self.nodes[*node].acts && !self.nodes[*node].cut).unwrap_or(node);
                    self.elect(next);
                }
                self.hears_of_the_leader(node);
            }
            _ => {}
        }
    }

    /// Lets everything be well again, and nothing new come: everyone is answered.
    fn settle(&mut self, seed: u64, dice: &mut fastrand::Rng) {
        for node in 0..NODES {
            (self.nodes[node].cut, self.nodes[node].acts) = (false, true);
        }
        for node in 0..NODES {
            self.hears_of_the_leader(node);
        }
        if self.nodes[self.leader].bank.is_none() {
            self.elect(self.leader);
            (0..NODES).for_each(|node| self.hears_of_the_leader(node));
        }
        let mut quiet = 0;
        for _ in 0..1_000 {
            while let Some(mail) = self.mail.pop() {
                self.deliver(mail);
            }
            for node in 0..NODES {
                let going: Vec<u64> =
                    self.nodes[node].calls.iter().filter(|(_, call)| call.1 == Call::Goes).map(|(n, _)| *n).collect();
                for number in going {
                    self.ends(node, number, dice.u64(0..3));
                }
                for (number, used) in std::mem::take(&mut self.nodes[node].books) {
                    self.ledger.push(used);
                    self.nodes[node].calls.remove(&number);
                    self.nodes[node].written.push((number, self.ledger.len() as u64));
                }
                for (number, cursor) in std::mem::take(&mut self.nodes[node].written) {
                    self.nodes[node].teller.landed(number, cursor);
                }
                let known = self.known(self.ledger.len());
                let now = self.now;
                let answers: Vec<_> = match self.nodes[self.leader].bank.as_mut() {
                    Some(bank) => {
                        bank.know(known);
                        bank.look(now);
                        (0..NODES).map(|node| bank.hear(id(node))).collect()
                    }
                    None => Vec::new(),
                };
                for (node, answer) in answers.into_iter().enumerate() {
                    self.deliver(Mail::BankAnswer(node, None, answer));
                }
                self.posts(node);
            }
            self.check(seed);
            if self.mail.is_empty() && self.nodes.iter().all(|node| node.calls.is_empty() && node.written.is_empty()) {
                quiet += 1;
            }
            // What was told last is taken in by the next look.
            if quiet > 3 {
                break;
            }
        }
        let left: usize = self.nodes.iter().map(|node| node.calls.len()).sum();
        let why = self.nodes[self.leader].bank.as_ref().map(|bank| (bank.term(), bank.waits_for()));
        let tellers: Vec<_> = self.nodes.iter().map(|node| (node.teller.term(), node.teller.to_hear())).collect();
        assert_eq!(left, 0, "seed {seed}: calls wait for ever: {why:?} {tellers:?}");
        let bank = self.nodes[self.leader].bank.as_ref();
        let account = bank.and_then(|bank| bank.account(&scope())).unwrap_or_default();
        let spent: u64 = self.ledger.iter().sum();
        assert_eq!((account.spent_tokens, account.reserved_tokens), (spent, 0), "seed {seed}: something is set aside for nobody");
    }
}

fn run(seed: u64, rough: bool) -> (u64, u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut world = World::new();
    for _ in 0..STEPS {
        world.step(&mut dice, rough);
        world.check(seed);
    }
    if !rough {
        assert_eq!(world.slack, 0);
    }
    world.settle(seed, &mut dice);
    (world.granted, world.refused)
}

fn histories(rough: bool) {
    let (mut granted, mut refused) = (0, 0);
    for seed in 0..SEEDS {
        let (one, other) = run(seed, rough);
        (granted, refused) = (granted + one, refused + other);
    }
    assert!(granted > 10 * SEEDS && refused > SEEDS, "{granted} granted, {refused} refused: the budget is not tried");
}

#[test]
fn no_budget_is_passed_by_all_nodes_together_and_nobody_waits_for_ever() {
    histories(false);
}

#[test]
fn owners_that_change_posts_that_are_lost_and_nodes_that_die_pass_no_budget_and_leave_nothing_set_aside() {
    histories(true);
}
