//! Questions and answers with types, over a lane: one desk on each node, under a number that names it.

use std::{marker::PhantomData, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};

use super::rpc::{LaneRpc, RpcError, Service};
use crate::{clock::Deadline, op::NodeId};

/// The numbers that say who answers on a lane; a number is the first byte of a question. It is never used again for something
/// else. Those from [`number::FREE`] on are for programs that build on the runtime.
pub mod number {
    pub const LEDGER: u8 = 1;
    pub const LEASES: u8 = 2;
    pub const CREDENTIALS: u8 = 3;
    pub const BLOBS: u8 = 4;
    pub const VIEWS: u8 = 5;
    pub const BOOKS: u8 = 6;
    pub const FREE: u8 = 16;
}

/// Both ends of typed questions and answers: this node answers while the desk is open, and asks others at any time. Fields travel
/// by name, so that one can be added. Cheap to clone.
pub struct Desk<Q, A> {
    lane: LaneRpc,
    number: u8,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Clone for Desk<Q, A> {
    fn clone(&self) -> Self {
        Self { lane: self.lane.clone(), number: self.number, types: PhantomData }
    }
}

struct Answering<Q, A, F>(F, PhantomData<fn(Q) -> A>);

impl<Q, A, F, R> Service for Answering<Q, A, F>
where
    Q: DeserializeOwned + 'static,
    A: Serialize + 'static,
    F: Fn(NodeId, Q) -> R + Send + Sync + 'static,
    R: Future<Output = Result<A, String>> + Send + 'static,
{
    fn serve(&self, peer: NodeId, body: Bytes) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        match rmp_serde::from_slice(&body) {
            Ok(question) => {
                let answer = (self.0)(peer, question);
                Box::pin(async move { rmp_serde::to_vec_named(&answer.await?).map_err(|error| error.to_string()) })
            }
            Err(error) => Box::pin(std::future::ready(Err(format!("the question is not understood: {error}")))),
        }
    }
}

impl<Q, A> Desk<Q, A>
where
    Q: Serialize + DeserializeOwned + 'static,
    A: Serialize + DeserializeOwned + 'static,
{
    /// Makes a desk on `lane` under `number`, which the other nodes use too. It answers nothing before [`Self::open`].
    pub fn new(lane: LaneRpc, number: u8) -> Self {
        Self { lane, number, types: PhantomData }
    }

    /// Answers questions with `answer` from now on, until [`Desk::close`]. Its error reaches the asker as [`RpcError::Refused`].
    /// The future is dropped when the asker's time is over.
    pub fn open<F, R>(&self, answer: F)
    where
        F: Fn(NodeId, Q) -> R + Send + Sync + 'static,
        R: Future<Output = Result<A, String>> + Send + 'static,
    {
        self.lane.serve(self.number, Arc::new(Answering(answer, PhantomData)));
    }

    /// Stops answering questions; this node can still ask.
    pub fn close(&self) {
        self.lane.close(self.number);
    }

    /// Asks `node` and waits until `deadline`. Errors: `NotSent` if nothing happened there, `Unclear` if it may have; otherwise
    /// those of [`LaneRpc::ask`].
    pub async fn ask(&self, node: NodeId, question: &Q, deadline: Deadline) -> Result<A, RpcError> {
        let unsent = |error: rmp_serde::encode::Error| RpcError::NotSent { node, why: error.to_string() };
        let body = rmp_serde::to_vec_named(question).map_err(unsent)?;
        let answer = self.lane.ask(node, self.number, &body, deadline).await?;
        let unclear = |error| RpcError::Unclear { node, why: format!("{error}") };
        rmp_serde::from_slice(&answer).map_err(unclear)
    }
}
