//! This node's own identity: its files, its present certificate, and its renewal.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{
    Allowed, Authority, Fingerprint, IdentityError, JoinToken, NodeCertificate,
    certificate::cluster_of,
    files::{private_dir, read, replace},
    tls::provider,
};
use crate::{clock::WallMs, net::ClusterId, op::NodeId};

/// The life of a node's certificate; it is renewed at two thirds.
pub const NODE_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

const AUTHORITY_FILE: &str = "ca.pem";
const AUTHORITY_KEY_FILE: &str = "ca.key";
/// Key and certificate in one file, so that one rename changes both.
const NODE_FILE: &str = "node.pem";

/// A fresh private key, before it has a certificate. Never leaves this process but into its own file.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Makes a new private key. Errors: `Crypto` if the machine gives no randomness.
    pub fn create() -> Result<Self, IdentityError> {
        KeyPair::generate().map(Self).map_err(IdentityError::crypto)
    }

    /// Returns the request to be signed, in DER. It names nobody: the authority decides the names.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let request = CertificateParams::default().serialize_request(&self.0).map_err(IdentityError::crypto)?;
        Ok(request.der().to_vec())
    }
}

struct Present {
    facts: NodeCertificate,
    certified: Arc<CertifiedKey>,
}

struct Inner {
    dir: PathBuf,
    node: NodeId,
    cluster: ClusterId,
    ca: CertificateDer<'static>,
    authority: OnceLock<Authority>,
    present: ArcSwap<Present>,
    allowed: Allowed,
}

/// The identity of this node. Cheap to clone. Only connections made after [`Identity::install`] use the new certificate.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({} of {})", self.0.node, self.0.cluster)
    }
}

impl Identity {
    /// Opens what is in `dir`; if nothing is, founds a new cluster there, with `node` as its first node.
    pub fn open_or_found(dir: &Path, node: NodeId, now: WallMs) -> Result<Self, IdentityError> {
        if let Some(identity) = Self::open(dir, node)? {
            return Ok(identity);
        }
        private_dir(dir)?;
        // An authority that is there is never replaced: a crash may have come before the node's own certificate.
        let authority = match (read(&dir.join(AUTHORITY_FILE))?, read(&dir.join(AUTHORITY_KEY_FILE))?) {
            (Some(ca_pem), Some(key_pem)) => {
                let path = dir.join(AUTHORITY_FILE);
                let ca = one_certificate(&ca_pem, &path)?;
                Authority::open(cluster_of(&ca)?, ca, ca_pem, &key_pem, &path)?
            }
            _ => Authority::create(ClusterId::new(), now)?,
        };
        let key = NodeKey::create()?;
        let certificate = authority.sign_key(&key, node, now, NODE_LIFE)?;
        replace(&dir.join(AUTHORITY_KEY_FILE), authority.key_pem().as_bytes())?;
        Self::keep(dir, node, key, &certificate, authority.certificate_pem())
    }

    /// Opens what was founded or joined; `None` if nothing was. The node's certificate is written last: without it, nothing
    /// was finished, and what is there may be replaced.
    pub fn open(dir: &Path, node: NodeId) -> Result<Option<Self>, IdentityError> {
        let Some(node_pem) = read(&dir.join(NODE_FILE))? else { return Ok(None) };
        let ca_path = dir.join(AUTHORITY_FILE);
        let gone = || IdentityError::Damaged { path: ca_path.clone(), why: "it is missing".into() };
        let ca_pem = read(&ca_path)?.ok_or_else(gone)?;
        let ca = one_certificate(&ca_pem, &ca_path)?;
        let node_path = dir.join(NODE_FILE);
        let certificate = one_certificate(&node_pem, &node_path)?;
        let key = PrivateKeyDer::from_pem_slice(node_pem.as_bytes())
            .map_err(|e| IdentityError::Damaged { path: node_path, why: e.to_string() })?;
        let present = present(&certificate, &ca, key)?;
        let cluster = present.facts.cluster;
        if present.facts.node != node {
            return Err(IdentityError::OtherNode { wanted: node, found: present.facts.node });
        }
        let key_path = dir.join(AUTHORITY_KEY_FILE);
        let authority = OnceLock::new();
        if let Some(key_pem) = read(&key_path)? {
            let opened = Authority::open(cluster, ca.clone(), ca_pem, &key_pem, &key_path)?;
            // It is fresh: nobody else set it.
            let _ = authority.set(opened);
        }
        let present = ArcSwap::from_pointee(present);
        let inner = Inner { dir: dir.to_owned(), node, cluster, ca, authority, present, allowed: Allowed::default() };
        Ok(Some(Self(Arc::new(inner))))
    }

    /// Keeps what a cluster granted to this node when it joined.
    pub fn joined(
        dir: &Path,
        node: NodeId,
        key: NodeKey,
        certificate: &CertificateDer<'_>,
        ca: &CertificateDer<'_>,
    ) -> Result<Self, IdentityError> {
        private_dir(dir)?;
        Self::keep(dir, node, key, certificate, &pem("CERTIFICATE", ca))
    }

    fn keep(
        dir: &Path,
        node: NodeId,
        key: NodeKey,
        certificate: &CertificateDer<'_>,
        ca_pem: &str,
    ) -> Result<Self, IdentityError> {
        replace(&dir.join(AUTHORITY_FILE), ca_pem.as_bytes())?;
        replace(&dir.join(NODE_FILE), node_pem(&key, certificate).as_bytes())?;
        let gone = IdentityError::Damaged { path: dir.join(NODE_FILE), why: "it vanished".into() };
        Self::open(dir, node)?.ok_or(gone)
    }

    /// Replaces this node's certificate, on disk first. Open links stay.
    pub fn install(&self, key: NodeKey, certificate: &CertificateDer<'_>) -> Result<(), IdentityError> {
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.0.serialize_der()));
        let present = present(certificate, &self.0.ca, der)?;
        if present.facts.cluster != self.0.cluster {
            return Err(IdentityError::WrongAuthority { cluster: self.0.cluster });
        }
        if present.facts.node != self.0.node {
            return Err(IdentityError::OtherNode { wanted: self.0.node, found: present.facts.node });
        }
        replace(&self.0.dir.join(NODE_FILE), node_pem(&key, certificate).as_bytes())?;
        self.0.present.store(Arc::new(present));
        Ok(())
    }

    /// Reads this node's own key again, for its next certificate. The others know the node by its key, so the key stays as long
    /// as the node does.
    pub fn key(&self) -> Result<NodeKey, IdentityError> {
        let path = self.0.dir.join(NODE_FILE);
        let damaged = |why: String| IdentityError::Damaged { path: path.clone(), why };
        let pem = read(&path)?.ok_or_else(|| damaged("it is missing".into()))?;
        KeyPair::from_pem(&pem).map(NodeKey).map_err(|error| damaged(error.to_string()))
    }

    /// Signs itself a new certificate; only a holder of the authority can.
    pub fn renew(&self, now: WallMs, life: Duration) -> Result<(), IdentityError> {
        let key = self.key()?;
        let certificate = self.authority()?.sign_key(&key, self.0.node, now, life)?;
        self.install(key, &certificate)
    }

    /// Returns the authority. Errors: `NotAuthority` if this node does not hold its key.
    pub fn authority(&self) -> Result<&Authority, IdentityError> {
        self.0.authority.get().ok_or(IdentityError::NotAuthority)
    }

    /// Takes over the authority's key from another holder: from then on this node signs too. A second call changes nothing.
    pub fn take_authority(&self, key_pem: &str) -> Result<(), IdentityError> {
        let path = self.0.dir.join(AUTHORITY_KEY_FILE);
        let authority = Authority::open(self.0.cluster, self.0.ca.clone(), pem("CERTIFICATE", &self.0.ca), key_pem, &path)?;
        // What it signs must be what everyone knows as signed by the authority.
        let key = NodeKey::create()?;
        let probe = authority.sign_key(&key, self.0.node, WallMs::now(), NODE_LIFE)?;
        present(&probe, &self.0.ca, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.0.serialize_der())))?;
        replace(&path, key_pem.as_bytes())?;
        let _ = self.0.authority.set(authority);
        Ok(())
    }

    /// Makes a token for one new node. The caller keeps its hash in a [`super::TokenBook`].
    pub fn token(&self) -> Result<JoinToken, IdentityError> {
        JoinToken::create(self.0.cluster, self.fingerprint())
    }

    /// Returns the id of this node.
    pub fn node(&self) -> NodeId {
        self.0.node
    }

    /// Returns the cluster that this node belongs to.
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// Returns the fingerprint of the cluster's authority.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.ca)
    }

    /// Returns the facts of the certificate that is in use now.
    pub fn certificate(&self) -> NodeCertificate {
        self.0.present.load().facts.clone()
    }

    /// Returns the list of nodes that may be linked with this one.
    pub fn allowed(&self) -> &Allowed {
        &self.0.allowed
    }

    pub(crate) fn ca(&self) -> &CertificateDer<'static> {
        &self.0.ca
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.0.present.load().certified.clone()
    }
}

fn present(
    certificate: &CertificateDer<'_>,
    ca: &CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<Present, IdentityError> {
    let facts = NodeCertificate::read(certificate)?;
    // The authority goes along, so that a joiner who knows only its fingerprint can check the chain.
    let chain = vec![certificate.clone().into_owned(), ca.clone()];
    // Also refuses a key that is not the certificate's.
    let certified = CertifiedKey::from_der(chain, key, provider()).map_err(IdentityError::crypto)?;
    Ok(Present { facts, certified: Arc::new(certified) })
}

fn one_certificate(text: &str, path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|e| IdentityError::Damaged { path: path.to_owned(), why: e.to_string() })
}

fn node_pem(key: &NodeKey, certificate: &CertificateDer<'_>) -> String {
    format!("{}{}", key.0.serialize_pem(), pem("CERTIFICATE", certificate))
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_founded_cluster_is_the_same_after_a_restart_and_its_keys_are_private() {
        let home = tempfile::tempdir().unwrap();
        let (dir, node, now) = (home.path().join("cluster"), NodeId::new(), WallMs::now());
        let founded = Identity::open_or_found(&dir, node, now).unwrap();
        let again = Identity::open_or_found(&dir, node, now).unwrap();
        assert_eq!((again.cluster(), again.fingerprint()), (founded.cluster(), founded.fingerprint()));
        assert_eq!(again.certificate(), founded.certificate());
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        for file in std::fs::read_dir(&dir).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        let other = Identity::open_or_found(&dir, NodeId::new(), now).unwrap_err();
        assert!(matches!(other, IdentityError::OtherNode { .. }), "{other}");
    }

    #[test]
    fn a_lost_node_certificate_never_costs_the_cluster_its_authority() {
        let home = tempfile::tempdir().unwrap();
        let (node, now) = (NodeId::new(), WallMs::now());
        let founded = Identity::open_or_found(home.path(), node, now).unwrap();
        std::fs::remove_file(home.path().join(NODE_FILE)).unwrap();
        let again = Identity::open_or_found(home.path(), node, now).unwrap();
        assert_eq!((again.cluster(), again.fingerprint()), (founded.cluster(), founded.fingerprint()));
    }

    #[test]
    fn a_renewed_certificate_is_used_at_once_and_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let (node, now) = (NodeId::new(), WallMs::now());
        let identity = Identity::open_or_found(home.path(), node, now).unwrap();
        let before = identity.certificate();
        identity.renew(now.plus(Duration::from_secs(60)), NODE_LIFE).unwrap();
        let after = identity.certificate();
        assert!(after.serial != before.serial && after.not_after > before.not_after);
        assert_eq!(after.key, before.key, "the others know it by its key");
        assert!(before.renew_at() > now && before.renew_at() < before.not_after);
        assert_eq!(Identity::open(home.path(), node).unwrap().unwrap().certificate(), after);
    }

    #[test]
    fn a_certificate_of_another_node_or_cluster_is_not_installed() {
        let (home, foreign) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = WallMs::now();
        let ours = Identity::open_or_found(home.path(), NodeId::new(), now).unwrap();
        let theirs = Identity::open_or_found(foreign.path(), NodeId::new(), now).unwrap();
        let key = NodeKey::create().unwrap();
        let stranger = ours.authority().unwrap().sign_key(&key, NodeId::new(), now, NODE_LIFE).unwrap();
        assert!(matches!(ours.install(key, &stranger), Err(IdentityError::OtherNode { .. })));
        let key = NodeKey::create().unwrap();
        let foreign = theirs.authority().unwrap().sign_key(&key, ours.node(), now, NODE_LIFE).unwrap();
        assert!(matches!(ours.install(key, &foreign), Err(IdentityError::WrongAuthority { .. })));
        assert!(ours.authority().unwrap().sign(b"no request", ours.node(), now, NODE_LIFE).is_err());
    }
}
