//! The join lane: one small request from a host that has a token and no certificate, one answer.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::{
    Down, Lane,
    conn::{Conn, Stream, tune},
    down::millis,
    frame::Kind,
    hello::{WIRE_NEWEST, WIRE_OLDEST},
};
use crate::{
    clock::WallMs,
    net::{
        ClusterId,
        identity::{
            Authority, Identity, IdentityError, JoinPin, JoinToken, KeyPin, NodeCertificate, NodeKey, RedeemRefused, TokenBook,
            join_client_config,
        },
    },
    op::NodeId,
};

/// The largest frame that is read on this lane: a request, or a grant with its list of members.
const JOIN_BYTES_MAX: usize = 64 * 1024;
/// The largest number of members told to a joiner; the ledger tells it of the others.
const MEMBERS_TOLD_MAX: usize = 256;
/// The time from the end of the handshake to the answer: the cluster commits the use of the token in between.
const JOIN_WITHIN: Duration = Duration::from_secs(15);

/// The request that a joining host sends. It holds the token's secret and is never logged.
#[derive(Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    pub node: NodeId,
    pub(crate) secret: [u8; 16],
    #[serde(with = "serde_bytes")]
    pub(crate) key_request: Vec<u8>,
    wire_oldest: u16,
    wire_newest: u16,
    /// `host:port` where the new node will listen for its peers.
    pub address: String,
}

impl JoinRequest {
    /// Makes the request of a host. `ours` is `host:port` where the new node will listen for its peers.
    pub fn new(token: &JoinToken, node: NodeId, key: &NodeKey, ours: &str) -> Result<Self, IdentityError> {
        Ok(Self {
            node,
            secret: token.secret(),
            key_request: key.request()?,
            wire_oldest: WIRE_OLDEST,
            wire_newest: WIRE_NEWEST,
            address: ours.to_owned(),
        })
    }

    /// Returns the secret that proves the token, for whoever redeems it. It is never logged.
    pub fn secret(&self) -> &[u8; 16] {
        &self.secret
    }

    /// Checks that the host and this program have a wire version in common.
    pub fn check_version(&self) -> Result<(), JoinRefused> {
        if self.wire_newest < WIRE_OLDEST || self.wire_oldest > WIRE_NEWEST {
            return Err(JoinRefused::Version { oldest: WIRE_OLDEST, newest: WIRE_NEWEST });
        }
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub node: NodeId,
    pub address: String,
    /// The key that its certificates are for; older versions do not tell it.
    #[serde(default)]
    pub key: Option<KeyPin>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGrant {
    pub cluster: ClusterId,
    #[serde(with = "serde_bytes")]
    certificate: Vec<u8>,
    #[serde(with = "serde_bytes")]
    authority: Vec<u8>,
    pub members: Vec<Member>,
}

impl JoinGrant {
    /// Returns the key that the joiner is known by from now on.
    pub fn key(&self) -> Result<KeyPin, IdentityError> {
        NodeCertificate::read(&CertificateDer::from(&*self.certificate)).map(|certificate| certificate.key)
    }

    /// Tells the joiner of members, as many as fit.
    pub fn tell(&mut self, members: &[Member]) {
        self.members = members.iter().take(MEMBERS_TOLD_MAX).cloned().collect();
    }

    /// Keeps the grant: from then on `dir` is this node's identity.
    pub fn keep(&self, dir: &std::path::Path, node: NodeId, key: NodeKey) -> Result<Identity, IdentityError> {
        let (certificate, ca) = (CertificateDer::from(&*self.certificate), CertificateDer::from(&*self.authority));
        Identity::joined(dir, node, key, &certificate, &ca)
    }
}

/// The reason why a host may not join. It is part of the wire: add, never rename.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum JoinRefused {
    #[error("{why}")]
    Token { why: String },
    #[error("{node} is a member already: a host that lost its data joins with an empty data directory, and so a new id")]
    NodeIdTaken { node: NodeId },
    #[error(
        "this host speaks wire versions that the cluster does not ({oldest} to {newest}): install a version closer to its own"
    )]
    Version { oldest: u16, newest: u16 },
    #[error("the request cannot be granted ({why})")]
    Invalid { why: String },
    #[error("the cluster cannot take members now ({why}): try again")]
    Unavailable { why: String },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("no connection to {address}: {why}")]
    Link { address: String, why: Down },
    #[error("refused: {0}")]
    Refused(JoinRefused),
    #[error("{address} did not answer within {within_ms} ms; the token may be used up: try the same command again")]
    Expired { address: String, within_ms: u64 },
    #[error("this host cannot ask ({why})")]
    Here { why: String },
}

impl JoinError {
    /// Tells whether the same request may be answered otherwise a moment later.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Refused(JoinRefused::Unavailable { .. })
                | Self::Expired { .. }
                | Self::Link { why: Down::Unreachable { .. }, .. }
        )
    }
}

/// The door that decides about joiners: usually by the ledger, so that a token is good once in the whole cluster.
pub trait JoinDoor: Send + Sync + 'static {
    fn join(&self, request: JoinRequest) -> BoxFuture<'_, Result<JoinGrant, JoinRefused>>;
}

/// Decides on a request, for a holder of the authority. The caller makes the book durable before it answers.
pub fn decide_join(
    identity: &Identity,
    book: &mut TokenBook,
    request: &JoinRequest,
    is_member: bool,
    members: &[Member],
    now: WallMs,
    life: Duration,
) -> Result<JoinGrant, JoinRefused> {
    request.check_version()?;
    let authority = identity.authority().map_err(|error| JoinRefused::Unavailable { why: error.to_string() })?;
    if is_member || request.node == identity.node() {
        return Err(JoinRefused::NodeIdTaken { node: request.node });
    }
    let token = |error: RedeemRefused| JoinRefused::Token { why: error.to_string() };
    let mut grant = sign_join(authority, request, now, life)?;
    book.redeem(&request.secret, request.node, now).map_err(token)?;
    grant.tell(members);
    Ok(grant)
}

/// Signs the grant. This comes before the token is used up, so that a request that cannot be granted does not use it up.
pub fn sign_join(authority: &Authority, request: &JoinRequest, now: WallMs, life: Duration) -> Result<JoinGrant, JoinRefused> {
    let certificate = authority.sign(&request.key_request, request.node, now, life);
    let certificate = certificate.map_err(|error| JoinRefused::Invalid { why: error.to_string() })?;
    Ok(JoinGrant {
        cluster: authority.cluster(),
        certificate: certificate.to_vec(),
        authority: authority.certificate().to_vec(),
        members: Vec::new(),
    })
}

pub(super) async fn serve_join<S: Stream>(door: Option<&Arc<dyn JoinDoor>>, mut conn: Conn<S>) -> Result<(), String> {
    let serve = async {
        let request: JoinRequest = conn.expect(Kind::JoinRequest, JOIN_BYTES_MAX).await.map_err(|down| down.to_string())?;
        let answer = match door {
            Some(door) => door.join(request).await,
            None => Err(JoinRefused::Unavailable { why: "this node takes no joiners: ask another member".into() }),
        };
        conn.send(Kind::JoinAnswer, &answer).await.map_err(|down| down.to_string())?;
        let _ = conn.stream.shutdown().await;
        answer.map(|_| ()).map_err(|refused| refused.to_string())
    };
    let within_ms = millis(JOIN_WITHIN);
    timeout(JOIN_WITHIN, serve).await.unwrap_or_else(|_| Err(format!("it was not done within {within_ms} ms")))
}

/// Asks the cluster at `address` to take this host in. Repeat it with the same `node` if the answer was lost.
///
/// `ours` is `host:port` where this node will listen for its peers.
pub async fn join(
    address: &str,
    token: &JoinToken,
    node: NodeId,
    key: &NodeKey,
    ours: &str,
    within: Duration,
) -> Result<JoinGrant, JoinError> {
    let here = |error: IdentityError| JoinError::Here { why: error.to_string() };
    let request = JoinRequest::new(token, node, key, ours).map_err(here)?;
    let pin = JoinPin { cluster: token.cluster, authority: token.authority };
    let config = join_client_config(pin, Lane::Join.protocol().to_vec()).map_err(here)?;
    let link = |why| JoinError::Link { address: address.to_owned(), why };
    let ask = async {
        let unreachable = |error: std::io::Error| Down::Unreachable { address: address.to_owned(), why: error.to_string() };
        let tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        tune(&tcp, within).map_err(unreachable)?;
        // The pin decides, not the name: which member answers is unknown.
        let name = ServerName::try_from("join.hive").map_err(|error| Down::Failed { why: error.to_string() })?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| Down::of(&error))?;
        let mut conn = Conn::new(stream);
        conn.send(Kind::JoinRequest, &request).await?;
        conn.expect::<Result<JoinGrant, JoinRefused>>(Kind::JoinAnswer, JOIN_BYTES_MAX).await
    };
    match timeout(within, ask).await {
        Ok(Ok(Ok(grant))) if grant.cluster == token.cluster => Ok(grant),
        Ok(Ok(Ok(_))) => Err(link(Down::WrongAuthority)),
        Ok(Ok(Err(refused))) => Err(JoinError::Refused(refused)),
        Ok(Err(down)) => Err(link(down)),
        Err(_) => Err(JoinError::Expired { address: address.to_owned(), within_ms: millis(within) }),
    }
}
