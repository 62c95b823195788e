//! Certificates between nodes: renewal by any holder of the authority, the authority's key to those that vote, and join
//! requests brought to a holder.
//!
//! The link has proven who asks: a certificate is only ever signed for the node that asks for it, and the key is given to
//! voters alone. Answers on the Raft lane.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::net::{
    desk::{Desk, number},
    identity::{Identity, KeyPin, NODE_LIFE, NodeCertificate},
    link::{JoinDoor, JoinGrant, JoinRefused, JoinRequest, Member, sign_join},
    rpc::LaneRpc,
};
use crate::{
    clock::{Deadline, WallMs},
    ledger::Ledger,
    op::NodeId,
};

const ASK_WITHIN: Duration = Duration::from_secs(10);
/// The pause between looks whether the certificate is due, and whether this node should hold the authority.
const LOOK_EVERY: Duration = Duration::from_secs(5);

#[derive(Serialize, Deserialize)]
enum Question {
    /// A request to sign this certificate request.
    Sign {
        #[serde(with = "serde_bytes")]
        request: Vec<u8>,
    },
    /// A request for the authority's key.
    Authority,
    /// A request to take this host in, from a node that cannot sign.
    Join { request: JoinRequest },
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Signed {
        #[serde(with = "serde_bytes")]
        certificate: Vec<u8>,
    },
    Authority {
        key_pem: String,
    },
    Join(Result<JoinGrant, JoinRefused>),
}

/// The side that decides who may join: it uses the token up and enters the node, in one commit.
pub trait Admission: Send + Sync + 'static {
    /// Decides on `request` and answers the members to tell the joiner of. `key` is the one it is granted a certificate for.
    fn admit(&self, request: &JoinRequest, key: KeyPin) -> BoxFuture<'_, Result<Vec<Member>, JoinRefused>>;
}

/// This node's desk for certificates. Cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    desk: Desk<Question, Answer>,
    /// The ledger, set once there is one.
    ledger: Arc<std::sync::OnceLock<Ledger>>,
    admission: Arc<std::sync::OnceLock<Arc<dyn Admission>>>,
    life: Duration,
}

impl Credentials {
    /// Opens the desk. Until [`Self::open`] is called there is no ledger to ask, and what needs one is refused.
    pub fn new(identity: Identity, lane: LaneRpc) -> Self {
        let desk = Desk::new(lane, number::CREDENTIALS);
        let credentials = Self { identity, desk, ledger: Arc::default(), admission: Arc::default(), life: NODE_LIFE };
        let answering = credentials.clone();
        credentials.desk.open(move |peer, question| {
            let credentials = answering.clone();
            async move { credentials.answer(peer, question).await }
        });
        credentials
    }

    /// Lets the desk decide by this ledger and admission from now on. A second call changes nothing.
    pub fn open(&self, ledger: Ledger, admission: Arc<dyn Admission>) {
        let _ = self.ledger.set(ledger);
        let _ = self.admission.set(admission);
    }

    /// Keeps this node's certificate fresh, and takes the authority's key over once it votes. Abort it to end it.
    pub fn tend(&self) -> JoinHandle<()> {
        let credentials = self.clone();
        tokio::spawn(async move {
            loop {
                credentials.renew_if_due().await;
                credentials.take_authority_if_voting().await;
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
    }

    fn voters(&self) -> Vec<NodeId> {
        let Some(ledger) = self.ledger.get() else { return Vec::new() };
        ledger.status().members.iter().filter(|member| member.voter).filter_map(|member| member.node).collect()
    }

    fn others(&self) -> Vec<NodeId> {
        self.voters().into_iter().filter(|node| *node != self.identity.node()).collect()
    }

    async fn ask(&self, question: &Question) -> Result<Answer, String> {
        let mut why = "there is no other voter".to_owned();
        for node in self.others() {
            match self.ask_node(node, question).await {
                Ok(answer) => return Ok(answer),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn ask_node(&self, node: NodeId, question: &Question) -> Result<Answer, String> {
        self.desk.ask(node, question, Deadline::after(ASK_WITHIN)).await.map_err(|error| error.to_string())
    }

    async fn renew_if_due(&self) {
        if WallMs::now() < self.identity.certificate().renew_at() {
            return;
        }
        match self.renew().await {
            Ok(()) => tracing::info!(until = %self.identity.certificate().not_after, "this node's certificate was renewed"),
            Err(why) => tracing::warn!(why, "this node's certificate is due and could not be renewed yet"),
        }
    }

    /// Replaces this node's certificate now. Open links stay.
    pub async fn renew(&self) -> Result<(), String> {
        if self.identity.authority().is_ok() {
            return self.identity.renew(WallMs::now(), self.life).map_err(|error| error.to_string());
        }
        let key = self.identity.key().map_err(|error| error.to_string())?;
        let request = key.request().map_err(|error| error.to_string())?;
        match self.ask(&Question::Sign { request }).await? {
            Answer::Signed { certificate } => {
                self.identity.install(key, &CertificateDer::from(certificate)).map_err(|error| error.to_string())
            }
            _ => Err("the answer is not a certificate".into()),
        }
    }

    async fn take_authority_if_voting(&self) {
        if self.identity.authority().is_ok() || !self.voters().contains(&self.identity.node()) {
            return;
        }
        match self.ask(&Question::Authority).await {
            Ok(Answer::Authority { key_pem }) => match self.identity.take_authority(&key_pem) {
                Ok(()) => tracing::info!("this voter holds the cluster's authority too"),
                Err(error) => tracing::error!(%error, "the authority's key cannot be kept"),
            },
            Ok(_) => tracing::warn!("the answer is not the authority"),
            Err(why) => tracing::debug!(why, "no holder of the authority could be asked yet"),
        }
    }

    async fn join_here(&self, request: &JoinRequest) -> Result<JoinGrant, JoinRefused> {
        let unavailable = |why: String| JoinRefused::Unavailable { why };
        request.check_version()?;
        let admission = self.admission.get().ok_or_else(|| unavailable("this node is starting".into()))?;
        let authority = self.identity.authority().map_err(|error| unavailable(error.to_string()))?;
        let mut grant = sign_join(authority, request, WallMs::now(), self.life)?;
        let key = grant.key().map_err(|error| JoinRefused::Invalid { why: error.to_string() })?;
        let members = admission.admit(request, key).await?;
        grant.tell(&members);
        Ok(grant)
    }

    async fn answer(&self, peer: NodeId, question: Question) -> Result<Answer, String> {
        match question {
            Question::Sign { request } => {
                let authority = self.identity.authority().map_err(|error| error.to_string())?;
                let signed = authority.sign(&request, peer, WallMs::now(), self.life).map_err(|error| error.to_string())?;
                // The link has proven who asks. What it asks for must be for the key that it is known by.
                let key = NodeCertificate::read(&signed).map_err(|error| error.to_string())?.key;
                self.identity.allowed().check_key(peer, &key).map_err(|why| format!("{peer} may not have it: {why:?}"))?;
                Ok(Answer::Signed { certificate: signed.to_vec() })
            }
            Question::Authority => {
                if !self.voters().contains(&peer) {
                    return Err(format!("{peer} does not vote, and only voters hold the authority"));
                }
                let authority = self.identity.authority().map_err(|error| error.to_string())?;
                Ok(Answer::Authority { key_pem: authority.key_pem() })
            }
            Question::Join { request } => Ok(Answer::Join(self.join_here(&request).await)),
        }
    }
}

impl JoinDoor for Credentials {
    /// Lets the leader decide, because it writes who comes in. Errors: `Unavailable` if no leader is known or reached.
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinGrant, JoinRefused>> {
        Box::pin(async move {
            let unavailable = |why: String| JoinRefused::Unavailable { why };
            let ledger = self.ledger.get().ok_or_else(|| unavailable("this node is starting".into()))?;
            let leader = ledger.leadership().borrow().leader;
            let leader = leader.ok_or_else(|| unavailable("no leader is elected".into()))?;
            if leader == self.identity.node() {
                return self.join_here(&request).await;
            }
            match self.ask_node(leader, &Question::Join { request }).await.map_err(unavailable)? {
                Answer::Join(answer) => answer,
                _ => Err(unavailable("the answer is of another kind".into())),
            }
        })
    }
}
