//! Clients that submit, run and cancel while the node is being killed, and the oracle of what they were promised.
//!
//! The oracle knows only what clients saw. An unknown outcome stays unknown until the same operation is sent again.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hiveward_tests::{
    CallFailed, Client,
    client::CANCEL,
    events::Histories,
    oracle::{
        Carried, LookedAt, look_at_all,
        ops::{Maker, Sent, ids},
    },
    until, until_within,
};
use serde_json::{Value, json};
use tokio::{sync::Mutex, task::JoinSet};

pub const CLIENTS: usize = 4;
/// Operations that carried something and are looked at after each kill.
const LOOKED_AT_EACH_TIME: usize = 8;
pub const SWARM: &str = "rate";

#[derive(Default)]
struct Known {
    /// Sent, and no answer came.
    unknown: HashMap<String, Sent>,
    /// Answered: the operation's tasks.
    acked: HashMap<String, (Sent, Vec<String>)>,
    tasks: HashSet<String>,
    /// Tasks whose cancellation was answered.
    cancelled: HashSet<String>,
    /// Tasks that run a program which leaves a mark.
    marking: HashSet<String>,
}

pub struct Load {
    known: Arc<Mutex<Known>>,
    histories: Histories,
    marks: Option<PathBuf>,
    dice: fastrand::Rng,
    sent: Arc<std::sync::atomic::AtomicU64>,
    looked_at: LookedAt,
}

/// Clients at work; they go on until they are stopped, through every error.
pub struct Working(JoinSet<()>);

impl Working {
    pub async fn stop(mut self) {
        self.0.abort_all();
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

impl Load {
    /// With `marks`, some tasks run programs that append to that file.
    pub fn new(dice: &mut fastrand::Rng, marks: Option<PathBuf>) -> Self {
        Self {
            known: Arc::default(),
            histories: Histories::default(),
            marks,
            dice: dice.fork(),
            sent: Arc::default(),
            looked_at: LookedAt::default(),
        }
    }

    pub async fn acknowledged(&self) -> usize {
        self.known.lock().await.tasks.len()
    }

    pub fn work(&mut self, client: &Client) -> Working {
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let one = OneClient {
                client: client.clone(),
                known: self.known.clone(),
                maker: Maker { dice: self.dice.fork(), swarm: SWARM, marks: self.marks.clone().map(Into::into), own: Vec::new() },
                sent: self.sent.clone(),
            };
            clients.spawn(one.run());
        }
        Working(clients)
    }

    /// After a restart: finds out what became of each unknown outcome, and asks some known ones again.
    pub async fn resolve(&mut self, client: &Client) {
        let unknown: Vec<_> = self.known.lock().await.unknown.drain().collect();
        for (operation, sent) in unknown {
            let data = surely(client, &sent).await;
            self.known.lock().await.note(&operation, sent, data);
        }
        let again: Vec<_> = {
            let known = self.known.lock().await;
            let mut all: Vec<_> =
                known.acked.iter().map(|(operation, (sent, tasks))| (operation.clone(), sent.clone(), tasks.clone())).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            self.dice.shuffle(&mut all);
            all.truncate(10);
            all
        };
        for (operation, sent, tasks) in again {
            let Answer::Is(data) = surely(client, &sent).await else { panic!("{operation} was acknowledged and is now refused") };
            assert_eq!(ids(&data), tasks, "operation {operation} has another answer than before");
        }
    }

    /// What must hold whenever the node is up and no outcome is open.
    pub async fn check(&mut self, client: &Client) {
        self.histories.read_on(client).await;
        let known = self.known.lock().await;
        for task in &known.tasks {
            assert!(self.histories.tasks.contains_key(task), "{task} was acknowledged and is lost");
        }
        for (task, history) in &self.histories.tasks {
            assert!(
                known.tasks.contains(task) || history.of.as_ref().is_some_and(|of| known.tasks.contains(of)),
                "{task} was made by no operation, or by one that made another already"
            );
        }
        for task in &known.cancelled {
            assert_eq!(self.histories.tasks[task].status, "CANCELLED", "{task}'s cancellation was acknowledged");
        }
    }

    /// Some of what was sent with something in it is looked at, as far as its tasks have come.
    pub async fn look_at_some(&mut self, client: &Client) {
        let mut carried = self.carried().await;
        self.dice.shuffle(&mut carried);
        carried.truncate(LOOKED_AT_EACH_TIME);
        self.look_at(client, carried).await;
    }

    async fn carried(&self) -> Vec<Carried> {
        let known = self.known.lock().await;
        let carried = known.acked.iter().filter(|(_, (sent, _))| sent.carries());
        let mut carried: Vec<Carried> =
            carried.map(|(operation, (sent, tasks))| (operation.clone(), sent.clone(), tasks.clone())).collect();
        carried.sort_by(|a, b| a.0.cmp(&b.0));
        carried
    }

    async fn look_at(&mut self, client: &Client, carried: Vec<Carried>) {
        let (broken, looked_at) = look_at_all(client, 0, carried, true).await;
        let said: Vec<String> = broken.iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "what tasks carry is not what it was:\n{}", said.join("\n"));
        self.looked_at.add(looked_at);
    }

    /// After the last restart: everything ends, the views say the same as the events, and every body is whole.
    pub async fn finish(&mut self, client: &Client) {
        self.check(client).await;
        until_within(Duration::from_secs(120), "no task is stuck", async || {
            self.histories.read_on(client).await;
            let open = self.histories.open();
            if open.len() < 5 && !open.is_empty() && fastrand::u8(..) < 3 {
                eprintln!("still open: {open:?}");
            }
            open.is_empty().then_some(())
        })
        .await;
        self.check(client).await;
        let head = client.head().await;
        let query = "query($after:String,$l:Cursor){tasks(first:500,after:$after,atLeast:$l){nodes{id status} pageInfo{endCursor hasNextPage}}}";
        let rows = client.all("tasks", query, json!({ "l": head })).await;
        assert_eq!(rows.len(), self.histories.tasks.len(), "the view has other tasks than the events");
        let known = self.known.lock().await;
        for row in rows {
            let history = &self.histories.tasks[row["id"].as_str().unwrap()];
            assert_eq!(row["status"], history.status, "{row}: the view and the events differ");
            if !known.cancelled.contains(row["id"].as_str().unwrap()) {
                assert_eq!((history.succeeded, history.status.as_str()), (1, "SUCCEEDED"), "{row} {history:?}");
            }
        }
        if let Some(marks) = &self.marks {
            check_marks(marks, &known, &self.histories);
        }
        let unassigned = self.histories.tasks.values().filter(|task| task.assigned > 1).count();
        eprintln!(
            "{} tasks acknowledged, {} cancelled, {} ran programs, {unassigned} had more than one attempt; {} events",
            known.tasks.len(),
            known.cancelled.len(),
            known.marking.len(),
            self.histories.events
        );
        drop(known);
        let carried = self.carried().await;
        eprintln!("{} operations carried something", carried.len());
        self.look_at(client, carried).await;
        eprintln!("{:?}", self.looked_at);
    }
}

/// Each line is one run of a program: no attempt ran twice, and what succeeded did run.
fn check_marks(marks: &Path, known: &Known, histories: &Histories) {
    let text = std::fs::read_to_string(marks).unwrap_or_default();
    let mut seen = HashSet::new();
    let mut ran = HashSet::new();
    for line in text.lines() {
        assert!(seen.insert(line), "an attempt ran twice: {line}");
        let (task, attempt) = line.split_once(' ').unwrap();
        assert!(attempt.parse::<u32>().unwrap() <= histories.tasks[task].assigned, "an attempt that nobody granted ran: {line}");
        ran.insert(task);
    }
    for task in &known.marking {
        if histories.tasks[task].succeeded == 1 {
            assert!(ran.contains(task.as_str()), "{task} succeeded and never ran");
        }
    }
}

enum Answer {
    Is(Value),
    /// It was refused and did not happen, such as a cancellation that came too late.
    No,
}

async fn surely(client: &Client, sent: &Sent) -> Answer {
    until("an operation is answered", async || match client.call(sent.query, sent.variables()).await {
        Ok(data) => Some(Answer::Is(data)),
        Err(CallFailed::Refused { retryable: false, code, message, .. }) => {
            assert!(matches!(code.as_str(), "CONFLICT" | "REFUSED") && sent.query == CANCEL, "{sent:?}: {code} {message}");
            Some(Answer::No)
        }
        Err(_) => None,
    })
    .await
}

impl Known {
    fn note(&mut self, operation: &str, sent: Sent, answer: Answer) {
        self.unknown.remove(operation);
        let Answer::Is(data) = answer else { return };
        let tasks = ids(&data);
        if sent.query == CANCEL {
            self.cancelled.extend(tasks.iter().cloned());
        } else {
            self.tasks.extend(tasks.iter().cloned());
            if sent.leaves_marks() {
                self.marking.extend(tasks.iter().cloned());
            }
        }
        self.acked.insert(operation.to_owned(), (sent, tasks));
    }
}

struct OneClient {
    client: Client,
    known: Arc<Mutex<Known>>,
    maker: Maker,
    sent: Arc<std::sync::atomic::AtomicU64>,
}

impl OneClient {
    async fn run(mut self) {
        loop {
            let operation = format!("op-{}", self.sent.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            let sent = self.maker.next(&operation);
            // Noted before it is sent: this task may be dropped at any await.
            self.known.lock().await.unknown.insert(operation.clone(), sent.clone());
            match self.client.call(sent.query, sent.variables()).await {
                Ok(data) => {
                    if sent.is_alone() {
                        self.maker.own.extend(ids(&data));
                    }
                    self.known.lock().await.note(&operation, sent, Answer::Is(data));
                }
                Err(CallFailed::Unknown(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
                Err(CallFailed::Refused { code, retryable, message, .. }) => {
                    let late = sent.query == CANCEL && matches!(code.as_str(), "CONFLICT" | "REFUSED");
                    assert!(retryable || late, "{sent:?}: {code} {message}");
                    // It did not happen, and this client does not insist.
                    self.known.lock().await.unknown.remove(&operation);
                }
            }
        }
    }
}
