//! Transcripts of attempts that ran on other nodes: this node's are read out to others, theirs are found and read.
//!
//! A transcript stays where its attempt ran. Who looks for one asks every node that keeps the ledger; nothing is copied.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use hiveward_agents::{
    connector::{activity_dir, session_dir},
    session::{Stream, transcript::Reader},
};
use hiveward_kernel::{desks, lease::Lease};
use hiveward_runtime::{
    clock::Deadline,
    ledger::Ledger,
    net::{
        desk::Desk,
        rpc::{LaneRpc, RpcError},
    },
    op::NodeId,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

const FIND_WITHIN: Duration = Duration::from_secs(2);
/// How long a read may take beyond what the other node waits for more output.
const READ_WITHIN: Duration = Duration::from_secs(5);
const CHUNK_BYTES_MAX: usize = 256 << 10;
const WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
struct Question {
    lease: Lease,
    after_byte: u64,
    bytes_max: u32,
    wait_ms: u32,
    /// Whether a coding agent's activity is meant, not its output.
    #[serde(default)]
    activity: bool,
}

#[derive(Serialize, Deserialize)]
enum TranscriptAnswer {
    /// It did not run here, or its transcript is gone.
    Missing,
    Chunk {
        next_byte: u64,
        stderr: bool,
        bytes: ByteBuf,
        at_end: bool,
    },
}

/// A stretch of a transcript on another node.
pub struct DistantChunk {
    pub next_byte: u64,
    pub stream: Stream,
    pub bytes: Bytes,
    pub at_end: bool,
}

struct Inner {
    data_dir: PathBuf,
    desk: Desk<Question, TranscriptAnswer>,
    ledger: Ledger,
    me: NodeId,
}

/// The transcripts that nodes read out to each other. It is cheap to clone.
#[derive(Clone)]
pub struct Transcripts(Arc<Inner>);

impl Transcripts {
    /// Serves this node's transcripts, and finds those of others. Close it with [`Transcripts::close`].
    pub fn open(data_dir: PathBuf, lane: LaneRpc, ledger: Ledger, me: NodeId) -> Self {
        let desk = Desk::new(lane, desks::TRANSCRIPTS);
        let transcripts = Self(Arc::new(Inner { data_dir, desk, ledger, me }));
        let answering = transcripts.clone();
        transcripts.0.desk.open(move |_, question| {
            let transcripts = answering.clone();
            async move { transcripts.answer(question).await }
        });
        transcripts
    }

    /// Stops reading transcripts out to other nodes.
    pub fn close(&self) {
        self.0.desk.close();
    }

    /// Asks all other nodes which one has the attempt's transcript; an error if none has it and some could not be asked.
    pub async fn find(&self, lease: Lease, activity: bool) -> Result<Option<NodeId>, String> {
        let members = self.0.ledger.status().members;
        let others = members.into_iter().filter_map(|member| member.node).filter(|node| *node != self.0.me);
        let question = Question { lease, after_byte: 0, bytes_max: 0, wait_ms: 0, activity };
        let mut asked: FuturesUnordered<_> = others
            .map(|node| {
                let question = &question;
                async move { (node, self.ask(node, question, FIND_WITHIN).await) }
            })
            .collect();
        let mut unsure = None;
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Ok(TranscriptAnswer::Chunk { .. }) => return Ok(Some(node)),
                Ok(TranscriptAnswer::Missing) => {}
                Err(error) => unsure = Some(error),
            }
        }
        unsure.map_or(Ok(None), |error| Err(error.to_string()))
    }

    /// Reads what follows `after_byte` on `node`; waits there for up to `wait` while there is nothing. Returns `None` if the
    /// transcript is gone.
    pub async fn read(
        &self,
        node: NodeId,
        lease: Lease,
        activity: bool,
        after_byte: u64,
        bytes_max: usize,
        wait: Duration,
    ) -> Result<Option<DistantChunk>, RpcError> {
        let question = Question {
            lease,
            after_byte,
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(wait.min(WAIT_MAX).as_millis()).unwrap_or(u32::MAX),
            activity,
        };
        Ok(match self.ask(node, &question, wait + READ_WITHIN).await? {
            TranscriptAnswer::Missing => None,
            TranscriptAnswer::Chunk { next_byte, stderr, bytes, at_end } => Some(DistantChunk {
                next_byte,
                stream: if stderr { Stream::Stderr } else { Stream::Stdout },
                bytes: Bytes::from(bytes.into_vec()),
                at_end,
            }),
        })
    }

    async fn ask(&self, node: NodeId, question: &Question, within: Duration) -> Result<TranscriptAnswer, RpcError> {
        self.0.desk.ask(node, question, Deadline::after(within)).await
    }

    async fn answer(&self, question: Question) -> Result<TranscriptAnswer, String> {
        let dir = if question.activity { activity_dir } else { session_dir }(&self.0.data_dir, question.lease);
        let mut reader = match Reader::open(&dir) {
            Ok(reader) => reader,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(TranscriptAnswer::Missing),
            Err(error) => return Err(error.to_string()),
        };
        let bytes_max = (question.bytes_max as usize).min(CHUNK_BYTES_MAX);
        let deadline = Deadline::after(Duration::from_millis(question.wait_ms.into()).min(WAIT_MAX));
        let chunk = reader.next(question.after_byte, bytes_max, deadline).await.map_err(|error| error.to_string())?;
        Ok(TranscriptAnswer::Chunk {
            next_byte: chunk.next_byte,
            stderr: chunk.stream == Stream::Stderr,
            bytes: ByteBuf::from(chunk.bytes.to_vec()),
            at_end: chunk.at_end,
        })
    }
}
