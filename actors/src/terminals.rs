//! Terminals of agents on other nodes: this node's are lent out, theirs are typed at from here.
//!
//! The node that has the session attaches as it would for its own clients, and is asked for output again and again. Who stops
//! asking is let go after a while.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hiveward_kernel::{desks, lease::Lease};
use hiveward_runtime::{
    clock::Deadline,
    error::{Code, Refused},
    net::{desk::Desk, rpc::LaneRpc},
    op::NodeId,
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::time::{Instant, timeout};

use crate::client::{Said, Terminal};

/// How long one question for output waits on the other node.
const WAIT: Duration = Duration::from_secs(5);
const ASK_WITHIN: Duration = Duration::from_secs(15);
/// The time after which a terminal that nobody asks for is let go.
const IDLE: Duration = Duration::from_secs(30);
/// The most terminals that are lent to other nodes at a time; one more is refused.
const LENT_MAX: usize = 256;

#[derive(Serialize, Deserialize)]
enum Question {
    Open { lease: Lease, read_only: bool },
    Next { terminal: u64 },
    Write { terminal: u64, bytes: ByteBuf },
    Resize { terminal: u64, cols: u16, rows: u16 },
    Close { terminal: u64 },
}

#[derive(Serialize, Deserialize)]
enum TerminalAnswer {
    Opened {
        terminal: u64,
    },
    Output {
        bytes: ByteBuf,
    },
    Ended {
        how: String,
    },
    /// Nothing was said for a while, so the question is to be asked again.
    Quiet,
    Done,
    Refused {
        refused: Refused,
    },
}

struct Lent {
    terminal: Arc<tokio::sync::Mutex<Terminal>>,
    keys: Arc<crate::client::Keys>,
    used: Instant,
}

struct Inner {
    data_dir: PathBuf,
    desk: Desk<Question, TerminalAnswer>,
    lent: Mutex<HashMap<u64, Lent>>,
    next: AtomicU64,
}

/// The terminals that nodes lend each other. It is cheap to clone.
#[derive(Clone)]
pub struct Terminals(Arc<Inner>);

impl Terminals {
    /// Lends this node's terminals to others, and opens theirs. Close it with [`Terminals::close`].
    pub fn open(data_dir: PathBuf, lane: LaneRpc) -> Self {
        let desk = Desk::new(lane, desks::TERMINALS);
        let inner = Inner { data_dir, desk, lent: Mutex::default(), next: AtomicU64::new(fastrand::u64(..) >> 1) };
        let terminals = Self(Arc::new(inner));
        let answering = terminals.clone();
        terminals.0.desk.open(move |_, question| {
            let terminals = answering.clone();
            async move { Ok(terminals.answer(question).await.unwrap_or_else(|refused| TerminalAnswer::Refused { refused })) }
        });
        terminals
    }

    /// Stops lending, and lets go of every terminal that is lent.
    pub fn close(&self) {
        self.0.desk.close();
        self.0.lent.lock().clear();
    }

    async fn ask(&self, node: NodeId, question: &Question) -> Result<TerminalAnswer, Refused> {
        let unavailable = |why: String| Refused::new(Code::Unavailable, why);
        let answer = self.0.desk.ask(node, question, Deadline::after(ASK_WITHIN)).await;
        match answer.map_err(|error| unavailable(format!("the terminal is on {node}: {error}")))? {
            TerminalAnswer::Refused { refused } => Err(refused),
            answer => Ok(answer),
        }
    }

    /// Attaches on the node that has the session. Errors: `Unavailable` if that node cannot be asked, or what it refuses.
    pub async fn attach(&self, node: NodeId, lease: Lease, read_only: bool) -> Result<Distant, Refused> {
        match self.ask(node, &Question::Open { lease, read_only }).await? {
            TerminalAnswer::Opened { terminal } => {
                Ok(Distant { terminals: self.clone(), node, terminal, asking: Mutex::default() })
            }
            _ => Err(other()),
        }
    }

    async fn answer(&self, question: Question) -> Result<TerminalAnswer, Refused> {
        match question {
            Question::Open { lease, read_only } => {
                {
                    let mut lent = self.0.lent.lock();
                    lent.retain(|_, one| one.used.elapsed() < IDLE);
                    if lent.len() >= LENT_MAX {
                        return Err(Refused::new(Code::Limit, format!("{LENT_MAX} terminals are lent to other nodes already")));
                    }
                }
                let opened = Terminal::open(&self.0.data_dir, lease, read_only).await?;
                let keys = Arc::new(opened.keys()?);
                let terminal = self.0.next.fetch_add(1, Ordering::Relaxed);
                let one = Lent { terminal: Arc::new(tokio::sync::Mutex::new(opened)), keys, used: Instant::now() };
                self.0.lent.lock().insert(terminal, one);
                Ok(TerminalAnswer::Opened { terminal })
            }
            Question::Next { terminal } => {
                let one = self.used(terminal)?.0;
                let mut one = one.lock().await;
                match timeout(WAIT, one.next()).await {
                    Err(_) => Ok(TerminalAnswer::Quiet),
                    Ok(said) => Ok(match said? {
                        Said::Output(bytes) => TerminalAnswer::Output { bytes: ByteBuf::from(bytes.to_vec()) },
                        Said::Ended(how) => TerminalAnswer::Ended { how },
                    }),
                }
            }
            Question::Write { terminal, bytes } => {
                self.used(terminal)?.1.write(&bytes).await?;
                Ok(TerminalAnswer::Done)
            }
            Question::Resize { terminal, cols, rows } => {
                self.used(terminal)?.1.resize(cols, rows).await?;
                Ok(TerminalAnswer::Done)
            }
            Question::Close { terminal } => {
                self.0.lent.lock().remove(&terminal);
                Ok(TerminalAnswer::Done)
            }
        }
    }

    #[allow(clippy::type_complexity)] // The two halves of one terminal.
    fn used(&self, terminal: u64) -> Result<(Arc<tokio::sync::Mutex<Terminal>>, Arc<crate::client::Keys>), Refused> {
        let mut lent = self.0.lent.lock();
        let one = lent.get_mut(&terminal).ok_or_else(|| {
            Refused::new(Code::Unavailable, "the terminal was let go, because nobody asked for its output; attach again")
        })?;
        one.used = Instant::now();
        Ok((one.terminal.clone(), one.keys.clone()))
    }
}

fn other() -> Refused {
    Refused::new(Code::Internal, "the node that has the terminal answered something else: are both of adjacent versions?")
}

/// A terminal on another node. Dropping it lets go of it.
pub struct Distant {
    terminals: Terminals,
    node: NodeId,
    terminal: u64,
    /// The question that is on its way: it is kept, so that dropping [`Distant::next`] loses nothing. Nobody locks it: the mutex
    /// only lets this be shared between threads.
    asking: Mutex<Option<BoxFuture<'static, Result<TerminalAnswer, Refused>>>>,
}

impl Distant {
    /// Waits for the next output, or for the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Said, Refused> {
        loop {
            let asking = self.asking.get_mut().get_or_insert_with(|| {
                let (terminals, node, terminal) = (self.terminals.clone(), self.node, self.terminal);
                Box::pin(async move { terminals.ask(node, &Question::Next { terminal }).await })
            });
            let answer = asking.await;
            *self.asking.get_mut() = None;
            match answer? {
                TerminalAnswer::Output { bytes } => return Ok(Said::Output(Bytes::from(bytes.into_vec()))),
                TerminalAnswer::Ended { how } => return Ok(Said::Ended(how)),
                TerminalAnswer::Quiet => {}
                _ => return Err(other()),
            }
        }
    }

    /// Types the bytes. Errors: `Unavailable` if the node cannot be asked; they may have been typed all the same.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Refused> {
        let write = Question::Write { terminal: self.terminal, bytes: ByteBuf::from(bytes.to_vec()) };
        self.terminals.ask(self.node, &write).await.map(|_| ())
    }

    /// Tells the terminal its new size in columns and rows.
    pub async fn resize(&self, cols: u16, rows: u16) -> Result<(), Refused> {
        self.terminals.ask(self.node, &Question::Resize { terminal: self.terminal, cols, rows }).await.map(|_| ())
    }
}

impl Drop for Distant {
    fn drop(&mut self) {
        let (terminals, node, terminal) = (self.terminals.clone(), self.node, self.terminal);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            // The task ends with its question; if it is not heard, the other node lets go by itself.
            runtime.spawn(async move {
                let _ = terminals.ask(node, &Question::Close { terminal }).await;
            });
        }
    }
}
