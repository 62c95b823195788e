//! Holds the passes of a node that are open, and what was used under each.
//!
//! Shared by the connectors, which open and close passes, and the model gateway, which lets calls in under them. Holds no key of
//! a provider. After a restart no pass is open until the agents' next lives open theirs again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use hiveward_catalogue::budget::{Amount, Budget, Scope};
use hiveward_kernel::lease::Lease;
use hiveward_runtime::error::Refused;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    access::{Holder, ModelAccess, Pass},
    bank::{Counter, Hold},
    books::Books,
    event::ModelUsed,
    meter::{self, Ask, Gate, NotGranted, RateLimit},
    pass::PassKey,
    price::Prices,
    usage::Usage,
};

/// The most passes open at once; one more is not opened, and its attempt fails saying so.
const PASSES_MAX: usize = 20_000;
/// The most closed passes that are still known as such, and whose usage can be asked; the oldest is forgotten first.
const CLOSED_MAX: usize = 2_000;
/// The time after a start in which a pass that nobody opened yet may belong to an agent that is still being adopted.
const STARTING: Duration = Duration::from_secs(60);
/// The most changes of the model that are kept for an attempt's result; more are not told one by one.
const FALLBACKS_MAX: usize = 32;
const ENDED_LOOKED_FOR_EVERY: Duration = Duration::from_millis(5);

/// The passes of a node. They are cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Models(Arc<Inner>);

struct Inner {
    key: PassKey,
    /// The address of the listener.
    url: String,
    /// The names of the configured providers; without any, no pass is opened.
    providers: Vec<String>,
    prices: Prices,
    /// The limits of providers' keys.
    rates: Mutex<HashMap<String, RateLimit>>,
    /// The gate that holds attempts to their limits: each attempt is of one node.
    gate: Gate,
    /// The counter for budgets of agents, swarms and labels, and for providers' keys: those are of the whole cluster.
    counter: Counter,
    books: Books,
    stopping: AtomicBool,
    began: Instant,
    passes: Mutex<Passes>,
}

#[derive(Default)]
struct Passes {
    open: HashMap<Lease, Open>,
    closed: HashMap<Lease, Record>,
    /// The leases of `closed`, oldest first.
    order: VecDeque<Lease>,
}

struct Open {
    holder: Arc<Holder>,
    cut: CancellationToken,
    record: Record,
}

#[derive(Clone, Debug, Default)]
struct Record {
    used: BTreeMap<String, Used>,
    refusal: Option<String>,
    fallbacks: Vec<String>,
}

/// The usage of one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub usage: Usage,
    /// The cost in billionths of the currency; absent as soon as one of the calls has no price.
    pub nanos: Option<u64>,
    pub calls: u64,
    /// The calls among them that were cut before they had said all they used.
    pub incomplete: u64,
}

/// The most that a call may use, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub input: u64,
    pub output: u64,
}

/// The amount that was set aside for a call. Dropping it says that nothing was used.
#[derive(Debug)]
pub struct Reservation {
    /// The reservation against the limit of its attempt, if that has one.
    attempt: Option<meter::Reservation>,
    hold: Hold,
}

impl Reservation {
    /// Returns the most that the call may use.
    pub fn estimate(&self) -> Amount {
        self.hold.estimate()
    }
}

/// A call that was let in.
#[derive(Clone, Debug)]
pub struct Entered {
    pub holder: Arc<Holder>,
    /// The token that is cancelled when the pass is closed: what goes on under it ends at once.
    pub cut: CancellationToken,
}

/// A call that was answered: whose, and by what.
#[derive(Clone, Debug)]
pub struct Call {
    pub holder: Arc<Holder>,
    pub provider: String,
    pub model: String,
    /// The model that was asked for, if this is another one.
    pub fallback_from: Option<String>,
}

/// The reason why a call was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEntered {
    /// No node with this key made the token.
    Unknown,
    /// The pass is genuine and not open yet; it may be in a moment.
    Starting,
    /// The pass is over.
    Closed,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").field("url", &self.0.url).field("providers", &self.0.providers).finish_non_exhaustive()
    }
}

impl Models {
    /// Makes the passes of a node whose model gateway listens at `url`, which has no path.
    pub fn new(key: PassKey, url: String, providers: Vec<String>, prices: Prices) -> Self {
        Self(Arc::new(Inner {
            key,
            url,
            providers,
            prices,
            rates: Mutex::default(),
            gate: Gate::default(),
            counter: Counter::new(),
            books: Books::default(),
            stopping: AtomicBool::new(false),
            began: Instant::now(),
            passes: Mutex::default(),
        }))
    }

    /// Returns the counter for budgets and rates.
    pub fn counter(&self) -> &Counter {
        &self.0.counter
    }

    /// Sets what a provider allows a key in any minute. One name is one key: nodes with another key give it another name.
    pub fn set_rate(&self, provider: &str, limit: RateLimit) {
        if limit != RateLimit::default() {
            self.0.rates.lock().insert(provider.to_owned(), limit);
        }
    }

    pub(super) fn books(&self) -> &Books {
        &self.0.books
    }

    /// Returns the currency of the prices.
    pub fn currency(&self) -> &str {
        self.0.prices.currency()
    }

    /// Lets no call in any more, lets those under way end within `ending` and cuts them then.
    pub(super) async fn close_all(&self, ending: Duration, cut: Duration) {
        self.0.stopping.store(true, Ordering::Relaxed);
        let ended = |within| {
            tokio::time::timeout(within, async {
                while self.0.counter.under_way() > 0 {
                    tokio::time::sleep(ENDED_LOOKED_FOR_EVERY).await;
                }
            })
        };
        if ended(ending).await.is_ok() {
            return;
        }
        for open in self.0.passes.lock().open.values() {
            open.cut.cancel();
        }
        if ended(cut).await.is_err() {
            tracing::warn!(
                calls = self.0.counter.under_way(),
                "calls of models did not end when they were cut; what they used is not known"
            );
        }
    }

    /// Waits until a call may be made, and sets aside what it may use. Dropping the future leaves the queue.
    pub async fn reserve(
        &self,
        holder: &Holder,
        provider: &str,
        model: &str,
        estimate: Estimate,
    ) -> Result<Reservation, NotGranted> {
        let Estimate { input, output } = estimate;
        let nanos = self.0.prices.of(model).and_then(|price| price.bound(input, output));
        if let Some(why) = self.0.books.closed() {
            return Err(NotGranted::Busy(why.to_owned()));
        }
        let (of_attempt, scopes): (Vec<_>, Vec<_>) = Scope::of(holder.lease, holder.swarm, &holder.labels)
            .into_iter()
            .partition(|scope| matches!(scope, Scope::Attempt(_)));
        let (agent, estimate) = (holder.lease.agent, Amount { tokens: input.saturating_add(output), nanos });
        let limited = holder.rules.tokens_max.is_some() || holder.rules.nanos_max.is_some();
        let rate = self.0.rates.lock().get(provider).copied();
        let ask = |scopes, rate| Ask { agent, scopes, estimate, provider: provider.to_owned(), rate };
        let reserved = async {
            // Its own first: what it may not use is not set aside for it in the cluster.
            let attempt = match limited {
                true => Some(self.0.gate.reserve(ask(of_attempt, None)).await?),
                false => None,
            };
            let hold = self.0.counter.hold(ask(scopes, rate)).await?;
            Ok(Reservation { attempt, hold })
        };
        let reserved = reserved.await;
        if let Err(NotGranted::Refused(why)) = &reserved {
            self.note(holder.lease, |record| record.refusal = Some(why.clone()));
        }
        reserved
    }

    /// Lets a call in under the token it presents.
    pub fn enter(&self, token: &str) -> Result<Entered, NotEntered> {
        let presented = self.0.key.read(token).ok_or(NotEntered::Unknown)?;
        let passes = self.0.passes.lock();
        match passes.open.get(&presented.lease) {
            Some(open) if open.holder.incarnation == presented.incarnation => {
                if self.0.stopping.load(Ordering::Relaxed) {
                    return Err(NotEntered::Starting);
                }
                Ok(Entered { holder: open.holder.clone(), cut: open.cut.clone() })
            }
            Some(_) => Err(NotEntered::Closed),
            None if passes.closed.contains_key(&presented.lease) => Err(NotEntered::Closed),
            None if self.0.began.elapsed() < STARTING => Err(NotEntered::Starting),
            None => Err(NotEntered::Closed),
        }
    }

    /// Settles what an ended call had reserved, and lets what it used, as far as that was said, wait to be recorded.
    pub fn used(&self, call: &Call, reserved: Option<Reservation>, usage: Usage, incomplete: bool) {
        let Call { holder, provider, model, fallback_from } = call;
        let nanos = self.0.prices.of(model).and_then(|price| price.nanos(&usage));
        // Where it is not known what it cost, it counts as what it may have cost.
        let counted_nanos = nanos.or_else(|| reserved.as_ref()?.estimate().nanos).unwrap_or(0);
        let used = ModelUsed {
            lease: holder.lease,
            swarm: holder.swarm.head(),
            labels: holder.labels.clone(),
            provider: provider.clone(),
            model: model.clone(),
            usage,
            nanos,
            counted_nanos,
            currency: self.currency().to_owned(),
            incomplete,
            fallback_from: fallback_from.clone(),
        };
        let (attempt, hold) = reserved.map(|reserved| (reserved.attempt, reserved.hold)).unzip();
        let spent = Amount { tokens: usage.tokens(), nanos };
        self.0.books.used(used, |recorded| {
            if let Some(attempt) = attempt.flatten() {
                attempt.settle(spent);
            }
            hold.as_ref().map(|hold| hold.ended(spent, recorded))
        });
        // Tells the owner, now that nobody waits for the books.
        drop(hold);
        self.note(holder.lease, |record| {
            // A model's name comes from the agent: names without an end must not fill the node.
            let known = record.used.len() < MODELS_MAX || record.used.contains_key(model.as_str());
            let used = record.used.entry(if known { model } else { OTHER_MODELS }.to_owned()).or_default();
            used.usage.add(usage);
            let before = if used.calls == 0 { Some(0) } else { used.nanos };
            used.nanos = before.zip(nanos).map(|(before, nanos)| before.saturating_add(nanos));
            used.calls += 1;
            used.incomplete += u64::from(incomplete);
        });
    }

    /// Returns the usage by model; it is empty for a lease that has made no call, or was closed long ago.
    pub fn usage(&self, lease: Lease) -> Vec<(String, Used)> {
        self.read(lease, |record| record.used.iter().map(|(model, used)| (model.clone(), *used)).collect())
    }

    /// Notes that another model than the asked one goes on.
    pub fn fell_back(&self, lease: Lease, from: &str, to: &str, why: &str) {
        let said = format!("{from} → {to}: {why}");
        self.note(lease, |record| {
            if record.fallbacks.len() < FALLBACKS_MAX && !record.fallbacks.contains(&said) {
                record.fallbacks.push(said);
            }
        });
    }

    /// Sets an attempt's limit, and looks up what was spent of it.
    fn limit_attempt(&self, lease: Lease, budget: Budget) -> Result<(), Refused> {
        let scope = Scope::Attempt(lease);
        self.0.gate.set_budget(scope.clone(), Some(budget));
        self.0.books.spent(std::slice::from_ref(&scope), |spent| {
            self.0.gate.know(spent.into_iter().map(|spent| (scope.clone(), budget, spent)));
        })
    }

    fn note(&self, lease: Lease, change: impl FnOnce(&mut Record)) {
        let mut passes = self.0.passes.lock();
        let Passes { open, closed, .. } = &mut *passes;
        let record = open.get_mut(&lease).map(|open| &mut open.record).or_else(|| closed.get_mut(&lease));
        if let Some(record) = record {
            change(record);
        }
    }

    fn read<T: Default>(&self, lease: Lease, look: impl FnOnce(&Record) -> T) -> T {
        let passes = self.0.passes.lock();
        let record = passes.open.get(&lease).map(|open| &open.record).or_else(|| passes.closed.get(&lease));
        record.map(look).unwrap_or_default()
    }
}

/// The most models of one attempt that are added up by name.
const MODELS_MAX: usize = 64;
const OTHER_MODELS: &str = "other models";

impl ModelAccess for Models {
    fn open(&self, holder: Holder) -> Result<Pass, String> {
        if self.0.providers.is_empty() {
            return Err("this node has no provider of models; configure `models.providers`".to_owned());
        }
        if let Some(wanted) = &holder.rules.provider
            && !self.0.providers.contains(wanted)
        {
            let known = self.0.providers.join(", ");
            return Err(format!("this node has no provider of models named {wanted:?}; `models.providers` has {known}"));
        }
        let lease = holder.lease;
        let pass = Pass { url: self.0.url.clone(), token: self.0.key.token(lease, holder.incarnation) };
        let mut passes = self.0.passes.lock();
        let mut record = passes.closed.remove(&lease).unwrap_or_default();
        passes.order.retain(|closed| *closed != lease);
        match passes.open.remove(&lease) {
            Some(open) if *open.holder == holder => {
                passes.open.insert(lease, open);
                return Ok(pass);
            }
            Some(open) => {
                // Another life of the agent has it now.
                open.cut.cancel();
                record = open.record;
            }
            None if passes.open.len() >= PASSES_MAX => {
                return Err(format!("{PASSES_MAX} passes to models are open on this node; wait until attempts have ended"));
            }
            None => {}
        }
        let budget = Budget { tokens: holder.rules.tokens_max, nanos: holder.rules.nanos_max, warn_percent: None };
        if budget != Budget::default() {
            // In lives of this node before this one, too.
            self.limit_attempt(lease, budget).map_err(|refused| refused.message)?;
        }
        passes.open.insert(lease, Open { holder: Arc::new(holder), cut: CancellationToken::new(), record });
        Ok(pass)
    }

    fn close(&self, lease: Lease) {
        let mut passes = self.0.passes.lock();
        let Some(open) = passes.open.remove(&lease) else { return };
        open.cut.cancel();
        passes.closed.insert(lease, open.record);
        passes.order.push_back(lease);
        if passes.order.len() > CLOSED_MAX
            && let Some(oldest) = passes.order.pop_front()
        {
            passes.closed.remove(&oldest);
            self.0.gate.set_budget(Scope::Attempt(oldest), None);
        }
    }

    fn refusal(&self, lease: Lease) -> Option<String> {
        self.read(lease, |record| record.refusal.clone())
    }

    fn fallbacks(&self, lease: Lease) -> Vec<String> {
        self.read(lease, |record| record.fallbacks.clone())
    }

    fn meter(&self) -> Option<Models> {
        Some(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use hiveward_catalogue::budget::CallRules;
    use hiveward_kernel::id::{AgentId, SwarmId, TaskId};

    use super::*;

    fn models() -> Models {
        Models::new(PassKey::random().unwrap(), "http://127.0.0.1:1".into(), vec!["p".into()], Prices::default())
    }

    fn holder(incarnation: u64) -> Holder {
        let lease = Lease { task: TaskId::new(), attempt: 1, agent: AgentId::new() };
        Holder { lease, swarm: SwarmId::new(), incarnation, labels: Vec::new(), rules: CallRules::default() }
    }

    #[test]
    fn a_pass_lets_in_until_it_is_closed_and_opening_it_again_gives_the_same() {
        let models = models();
        let holder = holder(1);
        let pass = models.open(holder.clone()).unwrap();
        assert_eq!(models.open(holder.clone()).unwrap().token, pass.token);
        let entered = models.enter(&pass.token).unwrap();
        assert_eq!(*entered.holder, holder);
        assert!(!entered.cut.is_cancelled());
        models.close(holder.lease);
        assert!(entered.cut.is_cancelled());
        assert_eq!(models.enter(&pass.token).unwrap_err(), NotEntered::Closed);
        models.close(holder.lease);
    }

    #[test]
    fn the_next_life_of_an_agent_takes_its_pass_from_the_one_before() {
        let models = models();
        let mut holder = holder(1);
        let old = models.open(holder.clone()).unwrap();
        let entered = models.enter(&old.token).unwrap();
        holder.incarnation = 2;
        let new = models.open(holder).unwrap();
        assert!(entered.cut.is_cancelled());
        assert_eq!(models.enter(&old.token).unwrap_err(), NotEntered::Closed);
        assert!(models.enter(&new.token).is_ok());
    }

    #[test]
    fn a_genuine_pass_that_is_not_open_yet_is_told_to_wait() {
        let models = models();
        let holder = holder(1);
        let token = models.0.key.token(holder.lease, 1);
        assert_eq!(models.enter(&token).unwrap_err(), NotEntered::Starting);
        assert_eq!(models.enter("hwm_else").unwrap_err(), NotEntered::Unknown);
    }

    #[test]
    fn usage_is_added_up_by_model_and_outlives_the_pass_for_a_while() {
        let models = models();
        let holder = holder(1);
        models.open(holder.clone()).unwrap();
        let usage = Usage { input: 5, output: 2, ..Usage::default() };
        let call = |model: &str| Call {
            holder: Arc::new(holder.clone()),
            provider: "p".to_owned(),
            model: model.to_owned(),
            fallback_from: None,
        };
        models.used(&call("m"), None, usage, false);
        models.close(holder.lease);
        models.used(&call("m"), None, usage, true);
        models.fell_back(holder.lease, "m", "n", "overloaded");
        models.fell_back(holder.lease, "m", "n", "overloaded");
        let used = Used { usage: Usage { input: 10, output: 4, ..Usage::default() }, nanos: None, calls: 2, incomplete: 1 };
        assert_eq!(models.usage(holder.lease), [("m".to_owned(), used)]);
        assert_eq!(models.fallbacks(holder.lease), ["m → n: overloaded"]);
        for n in 0..2 * MODELS_MAX {
            models.used(&call(&format!("made up {n}")), None, usage, false);
        }
        assert!(models.usage(holder.lease).len() <= MODELS_MAX + 1);
    }

    #[test]
    fn without_a_provider_no_pass_is_opened_and_what_to_do_is_said() {
        let models = Models::new(PassKey::random().unwrap(), "http://127.0.0.1:1".into(), Vec::new(), Prices::default());
        assert!(models.open(holder(1)).err().unwrap().contains("models.providers"));
        let mut wants_another = holder(1);
        wants_another.rules.provider = Some("q".into());
        assert!(self::models().open(wants_another).err().unwrap().contains("\"q\""));
    }
}
