//! Questions and answers of any size over one lane of links: cut into frames, put together again, bounded.
//!
//! For Raft and for bulk data, whose messages may be larger than a frame. Knows nothing of what it carries: the first byte
//! of a question names the service that answers it. Memory that a peer can make us hold is bounded per link in bytes being
//! put together and in questions being answered; a peer beyond either bound is refused or cut off.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::{sync::oneshot, time::timeout_at};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::link::{Down, Lane, LaneHandler, Link, LinkRefused, Links, SendError, Taken};
use crate::{clock::Deadline, op::NodeId};

/// The largest question or answer; also the most that is being put together for one link.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// The largest part of a message in one frame: small enough that others are not kept waiting.
const CHUNK_BYTES: usize = 128 << 10;
/// The number of questions of one link that are being answered at a time; one more is refused.
const ANSWERING_MAX: usize = 128;
/// The number of our own questions that wait for answers, over all links; one more is refused here.
const WAITING_MAX: usize = 16_384;
/// The longest time that a question may take to be answered, whatever its asker says.
const WITHIN_MAX: Duration = Duration::from_secs(120);

const ASK: u8 = 1;
const ANSWER: u8 = 2;
const REFUSED: u8 = 3;
/// The head of a frame: kind, whether it is the last chunk, correlation.
const HEAD_BYTES: usize = 10;
/// The head of a question: service, milliseconds left.
const ASK_HEAD_BYTES: usize = 5;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    #[error("{node} was not reached ({why}); nothing happened")]
    NotSent { node: NodeId, why: String },
    #[error("the link to {node} was lost before it answered; it may have happened")]
    Lost { node: NodeId },
    #[error("{node} did not answer within {waited_ms} ms; it may have happened")]
    NoAnswer { node: NodeId, waited_ms: u64 },
    #[error("{node} answered, and it is not understood ({why}); it may have happened")]
    Unclear { node: NodeId, why: String },
    /// The service refused, and says what that means.
    #[error("{node} refused: {why}")]
    Refused { node: NodeId, why: String },
}

/// A service that answers the questions of one kind. The future is dropped when the asker's time is over.
pub trait Service: Send + Sync + 'static {
    fn serve(&self, peer: NodeId, body: Bytes) -> BoxFuture<'static, Result<Vec<u8>, String>>;
}

struct Waiting {
    link: u64,
    answer: oneshot::Sender<Result<Bytes, String>>,
}

#[derive(Default)]
struct Partial {
    messages: HashMap<(u8, u64), Vec<u8>>,
    bytes: usize,
    answering: usize,
}

struct Inner {
    lane: Lane,
    links: OnceLock<Links>,
    services: RwLock<HashMap<u8, Arc<dyn Service>>>,
    waiting: Mutex<HashMap<u64, Waiting>>,
    partial: Mutex<HashMap<u64, Partial>>,
    next: AtomicU64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Questions and answers over one lane. Cheap to clone. Give it to the links as the handler of a lane, then [`LaneRpc::attach`]
/// them.
#[derive(Clone)]
pub struct LaneRpc(Arc<Inner>);

impl LaneRpc {
    /// Makes one for this lane, without links: until [`LaneRpc::attach`] it reaches nobody.
    pub fn new(lane: Lane) -> Self {
        Self(Arc::new(Inner {
            lane,
            links: OnceLock::new(),
            services: RwLock::default(),
            waiting: Mutex::default(),
            partial: Mutex::default(),
            next: AtomicU64::new(1),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }))
    }

    /// Gives it the links it asks over. A second call changes nothing.
    pub fn attach(&self, links: Links) {
        let _ = self.0.links.set(links);
    }

    /// Sends questions that begin with `service` to `by` from now on, in place of whoever was there.
    pub fn serve(&self, service: u8, by: Arc<dyn Service>) {
        self.0.services.write().insert(service, by);
    }

    /// Sends no more questions to `service`; they are refused.
    pub fn close(&self, service: u8) {
        self.0.services.write().remove(&service);
    }

    /// Ends what is being answered, and takes no questions after that.
    pub async fn stop(&self) {
        self.0.services.write().clear();
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Tells whether there is a live link of this lane with `node`.
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.0.links.get().is_some_and(|links| links.link(node, self.0.lane).is_some_and(|link| link.is_up()))
    }

    /// Asks, and waits until `deadline`. Dropping the future leaves the question on its way.
    pub async fn ask(&self, node: NodeId, service: u8, body: &[u8], deadline: Deadline) -> Result<Bytes, RpcError> {
        let not_sent = |why: &str| RpcError::NotSent { node, why: why.into() };
        let link = self.0.links.get().and_then(|links| links.link(node, self.0.lane));
        let link = link.filter(Link::is_up).ok_or_else(|| not_sent("there is no link"))?;
        if body.len() + ASK_HEAD_BYTES > MESSAGE_BYTES_MAX {
            return Err(not_sent("the question is too large"));
        }
        let left = deadline.remaining().min(WITHIN_MAX);
        let waited_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let correlation = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (answer, wait) = oneshot::channel();
        {
            let mut waiting = self.0.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return Err(not_sent("too many questions wait for answers"));
            }
            waiting.insert(correlation, Waiting { link: link.id(), answer });
        }
        let _forget = Forget(&self.0, correlation);
        let mut whole = Vec::with_capacity(ASK_HEAD_BYTES + body.len());
        whole.push(service);
        whole.extend_from_slice(&u32::try_from(waited_ms).unwrap_or(u32::MAX).to_be_bytes());
        whole.extend_from_slice(body);
        match timeout_at(deadline.instant(), send(&link, ASK, correlation, &whole)).await {
            Ok(Ok(())) => {}
            // Cut off in the middle: without its last chunk it is never looked at.
            Ok(Err(error)) => return Err(not_sent(&error.to_string())),
            Err(_) => return Err(not_sent("the way there was full")),
        }
        // It may have gone down between the look and the entry among those who wait.
        if !link.is_up() {
            return Err(RpcError::Lost { node });
        }
        match timeout_at(deadline.instant(), wait).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(why))) => Err(RpcError::Refused { node, why }),
            Ok(Err(_)) => Err(RpcError::Lost { node }),
            Err(_) => Err(RpcError::NoAnswer { node, waited_ms }),
        }
    }

    fn asked(&self, link: &Link, correlation: u64, body: Vec<u8>) {
        let Some((head, _)) = body.split_first_chunk::<ASK_HEAD_BYTES>() else {
            return link.close(protocol("a question without a head"));
        };
        let [service, ms @ ..] = *head;
        let within = Duration::from_millis(u32::from_be_bytes(ms).into()).min(WITHIN_MAX);
        let deadline = Deadline::after(within);
        let service = self.0.services.read().get(&service).cloned();
        let full = {
            let mut partial = self.0.partial.lock();
            let here = partial.entry(link.id()).or_default();
            here.answering += 1;
            here.answering > ANSWERING_MAX
        };
        let (rpc, link) = (Arc::downgrade(&self.0), link.clone());
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            let answer = async {
                if full {
                    return Err(format!("{ANSWERING_MAX} questions of this link are being answered"));
                }
                let service = service.ok_or_else(|| "nobody here answers that".to_owned())?;
                service.serve(link.peer(), Bytes::from(body).slice(ASK_HEAD_BYTES..)).await
            };
            let answered = tokio::select! {
                () = stop.cancelled() => Err("this node is stopping".to_owned()),
                // Nobody waits for it any more.
                () = link.ended() => Err(String::new()),
                answered = timeout_at(deadline.instant(), answer) => answered.unwrap_or_else(|_| Err("it took too long".into())),
            };
            let sent = match &answered {
                Ok(body) if body.len() <= MESSAGE_BYTES_MAX => send(&link, ANSWER, correlation, body).await,
                Ok(_) => send(&link, REFUSED, correlation, b"the answer is too large").await,
                Err(why) => send(&link, REFUSED, correlation, why.as_bytes()).await,
            };
            // A link that is down loses it: the asker hears of the loss.
            let _ = sent;
            if let Some(rpc) = rpc.upgrade()
                && let Some(here) = rpc.partial.lock().get_mut(&link.id())
            {
                here.answering = here.answering.saturating_sub(1);
            }
        });
    }
}

/// A guard that takes a question that nobody waits for any more out of the list.
struct Forget<'a>(&'a Inner, u64);

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.0.waiting.lock().remove(&self.1);
    }
}

async fn send(link: &Link, kind: u8, correlation: u64, body: &[u8]) -> Result<(), SendError> {
    let mut rest = body;
    loop {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK_BYTES));
        let mut frame = Vec::with_capacity(HEAD_BYTES + chunk.len());
        frame.extend_from_slice(&[kind, u8::from(after.is_empty())]);
        frame.extend_from_slice(&correlation.to_be_bytes());
        frame.extend_from_slice(chunk);
        link.send_wait(&frame).await?;
        if after.is_empty() {
            return Ok(());
        }
        rest = after;
    }
}

fn protocol(what: &str) -> Down {
    Down::WeRefused(LinkRefused::Protocol { what: what.into() })
}

impl LaneHandler for LaneRpc {
    fn up(&self, _: &Link) {}

    fn frame(&self, link: &Link, payload: &[u8], _: usize) -> Taken {
        let Some((head, chunk)) = payload.split_first_chunk::<HEAD_BYTES>() else {
            link.close(protocol("a frame without a head"));
            return Taken::Now;
        };
        let [kind @ (ASK | ANSWER | REFUSED), last @ (0 | 1), number @ ..] = *head else {
            link.close(protocol("a frame of a kind or version that is unknown here"));
            return Taken::Now;
        };
        let correlation = u64::from_be_bytes(number);
        let whole = {
            let mut partial = self.0.partial.lock();
            let here = partial.entry(link.id()).or_default();
            here.bytes += chunk.len();
            // An empty message costs something too.
            if here.bytes > MESSAGE_BYTES_MAX + ASK_HEAD_BYTES || here.messages.len() > ANSWERING_MAX + WAITING_MAX {
                link.close(protocol("more than may be put together at a time"));
                return Taken::Now;
            }
            let message = here.messages.entry((kind, correlation)).or_default();
            message.extend_from_slice(chunk);
            if last == 0 {
                return Taken::Now;
            }
            let whole = here.messages.remove(&(kind, correlation)).unwrap_or_default();
            here.bytes -= whole.len();
            whole
        };
        match kind {
            ASK => self.asked(link, correlation, whole),
            kind => {
                // Who asked may have given up.
                let waiting = self.0.waiting.lock().remove(&correlation);
                if let Some(waiting) = waiting.filter(|waiting| waiting.link == link.id()) {
                    let answer =
                        if kind == ANSWER { Ok(Bytes::from(whole)) } else { Err(String::from_utf8_lossy(&whole).into_owned()) };
                    let _ = waiting.answer.send(answer);
                }
            }
        }
        Taken::Now
    }

    fn down(&self, link: &Link, _: &Down) {
        self.0.partial.lock().remove(&link.id());
        // Dropping the sender tells who waits.
        self.0.waiting.lock().retain(|_, waiting| waiting.link != link.id());
    }
}
