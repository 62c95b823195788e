//! TLS of the gateway's listener: a certificate of one's own, which is read anew when its file changes.
//!
//! Only TLS 1.3. Client certificates are asked for where the configuration has an authority for them, and one that is shown must
//! be of that authority; who shows none gives a token, as without TLS.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::task::AbortOnDropHandle;

/// How often it is looked whether the files have changed.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(2);
/// The most bytes of a file with certificates or a key.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The certificate with which the gateway answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificate and those above it, in PEM, the gateway's own first. A file that changes is read anew.
    pub cert_file: Option<PathBuf>,
    /// The certificate's key, in PEM.
    pub key_file: Option<PathBuf>,
    /// The authority of clients' certificates, in PEM: one that a client shows must be of it.
    pub client_ca_file: Option<PathBuf>,
}

/// What is wrong with the certificate, its key, or the authority.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls: give both `cert_file` and `key_file`, or neither")]
    Half,
    #[error("tls.{field}: {} cannot be read: {problem}", path.display())]
    File { field: &'static str, path: PathBuf, problem: String },
    #[error("tls: the certificate in {} and the key in {} do not belong together: {problem}", cert.display(), key.display())]
    Pair { cert: PathBuf, key: PathBuf, problem: String },
}

impl TlsConfig {
    /// Tells whether the gateway speaks TLS.
    pub const fn is_on(&self) -> bool {
        self.cert_file.is_some() || self.key_file.is_some()
    }
}

/// The key and certificate that are shown now.
#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// TLS as a listener uses it. Dropping it ends the look at its files.
pub struct Tls {
    config: Arc<ServerConfig>,
    _looking: AbortOnDropHandle<()>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn read(field: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    let wrong = |problem: String| TlsError::File { field, path: path.to_owned(), problem };
    let meta = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if meta.len() > FILE_BYTES_MAX {
        return Err(wrong(format!("it is over {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| wrong(error.to_string()))
}

fn certificates(field: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |problem: String| TlsError::File { field, path: path.to_owned(), problem };
    let text = read(field, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| wrong(error.to_string()))?;
    if all.is_empty() { Err(wrong("it has no certificate in PEM".into())) } else { Ok(all) }
}

/// Reads a certificate with its key. Errors: one of the files, or that they are not a pair.
fn certified(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("cert_file", cert)?;
    let wrong = |error: rustls::pki_types::pem::Error| TlsError::File {
        field: "key_file",
        path: key.to_owned(),
        problem: error.to_string(),
    };
    let private = PrivateKeyDer::from_pem_slice(&read("key_file", key)?).map_err(wrong)?;
    let pair = |error: rustls::Error| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), problem: error.to_string() };
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(pair)?;
    certified.keys_match().map_err(pair)?;
    Ok(certified)
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

impl Tls {
    /// Reads what is configured, and looks at it from then on, in a Tokio runtime. `None` without TLS. Errors: what is wrong, by
    /// field and file.
    pub fn start(config: &TlsConfig) -> Result<Option<Self>, TlsError> {
        let (cert, key) = match (&config.cert_file, &config.key_file) {
            (None, None) => return Ok(None),
            (Some(cert), Some(key)) => (cert.clone(), key.clone()),
            _ => return Err(TlsError::Half),
        };
        let shown = Arc::new(Shown(ArcSwap::from_pointee(certified(&cert, &key)?)));
        let pair = |error: rustls::Error| TlsError::Pair { cert: cert.clone(), key: key.clone(), problem: error.to_string() };
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(pair)?;
        let builder = match &config.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let wrong = |problem: String| TlsError::File { field: "client_ca_file", path: path.clone(), problem };
                let mut roots = RootCertStore::empty();
                for authority in certificates("client_ca_file", path)? {
                    roots.add(authority).map_err(|error| wrong(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
                let verifier = verifier.allow_unauthenticated().build().map_err(|error| wrong(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut server = builder.with_cert_resolver(shown.clone());
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let looking = tokio::spawn(look(cert, key, shown));
        Ok(Some(Self { config: Arc::new(server), _looking: AbortOnDropHandle::new(looking) }))
    }

    /// Returns what makes TLS of a connection.
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.config.clone().into()
    }
}

/// Shows the certificate anew whenever its files have changed. One that cannot be used changes nothing, and is told of once.
async fn look(cert: PathBuf, key: PathBuf, shown: Arc<Shown>) {
    let mut known = (changed_at(&cert), changed_at(&key));
    loop {
        tokio::time::sleep(LOOKED_AT_EVERY).await;
        let now = (changed_at(&cert), changed_at(&key));
        if now == known {
            continue;
        }
        // Both files are written one after the other: what does not fit yet does at the next look.
        match certified(&cert, &key) {
            Ok(fresh) => {
                shown.0.store(Arc::new(fresh));
                tracing::info!(cert = %cert.display(), "the gateway shows its new certificate");
                known = now;
            }
            Err(error) => {
                tracing::warn!(%error, "the gateway goes on with the certificate that it has");
                known = now;
            }
        }
    }
}
