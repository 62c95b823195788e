//! Blobs on several nodes: a blob that the ledger will name is on a majority of its voters first, and one that is missing here is
//! fetched from whoever has it.
//!
//! Blobs go in pieces over the bulk lane, and are checked by hash before they get a name. Every use of a blob blocks the caller.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio::runtime::Handle;

use super::blob::{BlobHash, Blobs, Elsewhere, Incoming};
use crate::{
    clock::Deadline,
    ledger::Ledger,
    net::{
        desk::{Desk, number},
        rpc::LaneRpc,
    },
    op::NodeId,
};

const PIECE_BYTES: u64 = 1 << 20;
/// The time that one blob may take to reach a majority, or to be fetched.
const WITHIN: Duration = Duration::from_secs(30);
const PIECE_WITHIN: Duration = Duration::from_secs(10);
/// The largest number of blobs that come in at the same time; one more is refused.
const INCOMING_MAX: usize = 64;

#[derive(Serialize, Deserialize)]
enum Question {
    /// A request for a piece; the answer has nothing if there is no such blob.
    Read { hash: String, from: u64 },
    /// The question whether the blob is there whole.
    Has { hash: String },
    /// The piece at `from`; the last one names the blob.
    Write { transfer: u64, hash: String, from: u64, last: bool, bytes: ByteBuf },
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Piece { total: u64, bytes: ByteBuf },
    Missing,
    Yes,
    No,
}

struct Inner {
    blobs: Blobs,
    desk: Desk<Question, Answer>,
    ledger: Ledger,
    me: NodeId,
    incoming: Mutex<HashMap<(NodeId, u64), Incoming>>,
    runtime: Handle,
}

/// The blobs of the cluster, as seen from this node. Cheap to clone.
#[derive(Clone)]
pub struct Replicas(Arc<Inner>);

impl Replicas {
    /// Serves this node's blobs to others, and lets `blobs` use theirs. Close it with [`Replicas::close`].
    pub fn open(blobs: &Blobs, lane: LaneRpc, ledger: Ledger, me: NodeId) -> Self {
        let desk = Desk::new(lane, number::BLOBS);
        let inner = Inner { blobs: blobs.clone(), desk, ledger, me, incoming: Mutex::default(), runtime: Handle::current() };
        let replicas = Self(Arc::new(inner));
        let answering = replicas.clone();
        replicas.0.desk.open(move |peer, question| {
            let replicas = answering.clone();
            let answered = tokio::task::spawn_blocking(move || replicas.answer(peer, question));
            async move { answered.await.map_err(|error| error.to_string())? }
        });
        blobs.elsewhere(Some(Arc::new(replicas.clone())));
        replicas
    }

    /// Stops serving blobs to others, and lets the store here use only its own.
    pub fn close(&self) {
        self.0.desk.close();
        self.0.blobs.elsewhere(None);
    }

    async fn ask(&self, node: NodeId, question: &Question) -> io::Result<Answer> {
        self.0.desk.ask(node, question, Deadline::after(PIECE_WITHIN)).await.map_err(io::Error::other)
    }

    /// Lists the other members: voters, then the others, and whether this node votes.
    fn others(&self) -> (Vec<NodeId>, Vec<NodeId>, bool) {
        let members = self.0.ledger.status().members;
        let me_votes = members.iter().any(|member| member.voter && member.node == Some(self.0.me));
        let of = |voter: bool| {
            let of = members.iter().filter(|member| member.voter == voter).filter_map(|member| member.node);
            of.filter(|node| *node != self.0.me).collect()
        };
        (of(true), of(false), me_votes)
    }

    async fn push(&self, node: NodeId, hash: BlobHash) -> io::Result<()> {
        if matches!(self.ask(node, &Question::Has { hash: hash.to_string() }).await?, Answer::Yes) {
            return Ok(());
        }
        let (transfer, mut from) = (fastrand::u64(..), 0);
        loop {
            let (total, bytes) =
                self.0.blobs.piece_here(&hash, from, PIECE_BYTES)?.ok_or_else(|| io::Error::other("it vanished"))?;
            let last = from + bytes.len() as u64 >= total;
            let length = bytes.len() as u64;
            let write = Question::Write { transfer, hash: hash.to_string(), from, last, bytes: ByteBuf::from(bytes) };
            match self.ask(node, &write).await? {
                Answer::Yes if last => return Ok(()),
                Answer::Yes => from += length,
                _ => return Err(io::Error::other(format!("{node} did not take it"))),
            }
        }
    }

    /// Waits until a majority of the voters has it.
    async fn keep_on_majority(&self, hash: BlobHash) -> io::Result<()> {
        let (voters, _, me_votes) = self.others();
        let needed = (voters.len() + usize::from(me_votes)) / 2 + 1;
        let mut have = usize::from(me_votes);
        let mut pushes: futures_util::stream::FuturesUnordered<_> = voters.iter().map(|node| self.push(*node, hash)).collect();
        let mut why = None;
        while have < needed {
            match futures_util::StreamExt::next(&mut pushes).await {
                Some(Ok(())) => have += 1,
                Some(Err(error)) => why = Some(error),
                None => {
                    let why = why.map_or_else(String::new, |error| format!(": {error}"));
                    return Err(io::Error::other(format!("blob {hash} is on {have} of the {needed} voters it must be on{why}")));
                }
            }
        }
        Ok(())
    }

    async fn fetch_from_any(&self, hash: BlobHash) -> io::Result<bool> {
        let (voters, learners, _) = self.others();
        let mut why = None;
        for node in voters.into_iter().chain(learners) {
            match self.fetch_from(node, hash).await {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) => why = Some(error),
            }
        }
        // Missing only if everybody said so.
        why.map_or(Ok(false), Err)
    }

    async fn fetch_from(&self, node: NodeId, hash: BlobHash) -> io::Result<bool> {
        let mut incoming = self.0.blobs.incoming()?;
        let mut from = 0;
        loop {
            match self.ask(node, &Question::Read { hash: hash.to_string(), from }).await? {
                Answer::Piece { total, bytes } => {
                    incoming.write(&bytes)?;
                    from += bytes.len() as u64;
                    if from >= total {
                        incoming.finish(&hash)?;
                        return Ok(true);
                    }
                    if bytes.is_empty() {
                        return Err(io::Error::other(format!("{node} sent nothing of blob {hash}")));
                    }
                }
                Answer::Missing => return Ok(false),
                _ => return Err(io::Error::other(format!("{node} answered something else"))),
            }
        }
    }

    fn block<T>(&self, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let within = async {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the other nodes took too long");
            tokio::time::timeout(WITHIN, future).await.map_err(late)?
        };
        // The caller blocks on the disk as well: it is on a thread that may, or lets others go on meanwhile.
        if Handle::try_current().is_ok() {
            tokio::task::block_in_place(|| self.0.runtime.block_on(within))
        } else {
            self.0.runtime.block_on(within)
        }
    }

    fn answer(&self, peer: NodeId, question: Question) -> Result<Answer, String> {
        let parse = |hash: &str| hash.parse::<BlobHash>().map_err(|_| "that is no hash".to_owned());
        match question {
            Question::Read { hash, from } => match self.0.blobs.piece_here(&parse(&hash)?, from, PIECE_BYTES) {
                Ok(Some((total, bytes))) => Ok(Answer::Piece { total, bytes: ByteBuf::from(bytes) }),
                Ok(None) => Ok(Answer::Missing),
                Err(error) => Err(error.to_string()),
            },
            Question::Has { hash } => {
                let hash = parse(&hash)?;
                // Who asks counts on it. What is not whole was set aside, and the whole one is welcome.
                match self.0.blobs.whole(&hash).and_then(|whole| Ok(whole && self.0.blobs.renew(&hash)?)) {
                    Ok(true) => Ok(Answer::Yes),
                    Ok(false) => Ok(Answer::No),
                    Err(error) => Err(error.to_string()),
                }
            }
            Question::Write { transfer, hash, from, last, bytes } => {
                let (hash, key) = (parse(&hash)?, (peer, transfer));
                let mut incoming = self.0.incoming.lock();
                if from == 0 {
                    if incoming.len() >= INCOMING_MAX {
                        // Those that were left half way make room.
                        incoming.clear();
                    }
                    incoming.insert(key, self.0.blobs.incoming().map_err(|error| error.to_string())?);
                }
                let mut part = incoming.remove(&key).filter(|part| part.bytes() == from).ok_or("that piece is not due")?;
                part.write(&bytes).map_err(|error| error.to_string())?;
                if last {
                    drop(incoming);
                    part.finish(&hash).map_err(|error| error.to_string())?;
                } else {
                    incoming.insert(key, part);
                }
                Ok(Answer::Yes)
            }
        }
    }
}

impl Elsewhere for Replicas {
    fn keep(&self, hash: &BlobHash) -> io::Result<()> {
        if self.others().0.is_empty() {
            return Ok(());
        }
        self.block(self.keep_on_majority(*hash))
    }

    fn fetch(&self, hash: &BlobHash) -> io::Result<bool> {
        self.block(self.fetch_from_any(*hash))
    }
}
