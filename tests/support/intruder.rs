//! Somebody at the cluster's port who is not of the cluster: with papers of all kinds, with none, or with noise.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hiveward_runtime::{
    net::{
        ClusterId, LifeId,
        link::{LinkRefused, WIRE_NEWEST, WIRE_OLDEST},
    },
    op::NodeId,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SerialNumber,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What the port speaks, by ALPN.
pub const LANES: [&str; 4] = ["hw-link/1", "hw-raft/1", "hw-bulk/1", "hw-join/1"];
/// Longer than it takes to be refused, shorter than the port's own patience.
const LISTEN: Duration = Duration::from_secs(2);
const HOUR: time::Duration = time::Duration::HOUR;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate and its key.
pub struct Papers {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// An authority, whose key is in our hands.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

/// Below a data directory, the files of the cluster's identity.
pub fn identity_file(data_dir: &Path, name: &str) -> Option<PathBuf> {
    let mut waiting = vec![data_dir.to_owned()];
    while let Some(dir) = waiting.pop() {
        for path in std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.file_name().is_some_and(|found| found == name) {
                return Some(path);
            }
            if path.is_dir() {
                waiting.push(path);
            }
        }
    }
    None
}

impl Authority {
    /// Of the cluster itself, from the first node's data.
    pub fn of(data_dir: &Path) -> Self {
        let read = |name| std::fs::read_to_string(identity_file(data_dir, name).expect("it founded the cluster")).unwrap();
        let key = KeyPair::from_pem(&read("ca.key")).unwrap();
        Self { issuer: Issuer::from_ca_cert_pem(&read("ca.pem"), key).unwrap() }
    }

    /// One that nobody trusts.
    pub fn rogue(name: &str) -> Self {
        Self { issuer: Self::make(name).1 }
    }

    fn make(name: &str) -> (CertificateDer<'static>, Issuer<'static, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap();
        (certificate.der().clone(), Issuer::new(params, key))
    }

    /// Valid from and to so many hours from now.
    pub fn sign(&self, names: &[String], from_hours: i32, to_hours: i32) -> Papers {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        // As the cluster's own are: of at most 16 bytes, also with its sign.
        params.serial_number = Some(SerialNumber::from_slice(&(fastrand::u128(1..) >> 1).to_be_bytes()));
        let now = OffsetDateTime::from(std::time::SystemTime::now());
        (params.not_before, params.not_after) = (now + HOUR * from_hours, now + HOUR * to_hours);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Papers { chain: vec![certificate.der().clone()], key }
    }
}

impl Papers {
    /// A node's own, stolen from its disk.
    pub fn of_node(data_dir: &Path) -> Self {
        let file = identity_file(data_dir, "node.pem").expect("it has joined");
        let pem = std::fs::read(file).unwrap();
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().unwrap();
        Self { chain, key: PrivateKeyDer::from_pem_slice(&pem).unwrap() }
    }

    /// The names in the certificate.
    pub fn names(&self) -> Vec<String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.chain[0]).unwrap();
        let names = parsed.subject_alternative_name().unwrap().expect("nodes have names").value.general_names.iter();
        let name = |name: &x509_parser::extensions::GeneralName<'_>| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        };
        names.filter_map(name).collect()
    }
}

/// What the port did to whoever came.
#[derive(Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Closed, with the reason if one was given.
    Refused(String),
    /// It sent something of its own: we are taken for a node.
    Spoke(usize),
    /// It took the papers, and waits.
    Waits,
}

impl Greeting {
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// The first frame of a node to another, as the links have it.
#[derive(Serialize)]
struct Hello {
    wire_oldest: u16,
    wire_newest: u16,
    cluster: ClusterId,
    node: NodeId,
    generation: u64,
    life: LifeId,
    window_bytes: u32,
}

const HELLO: u8 = 1;
const REFUSED: u8 = 2;

/// A hello without a flaw, in a life newer than any other, of the node and cluster that these names are.
fn hello(names: &[String]) -> Vec<u8> {
    let bare = |name: &String| name.trim_end_matches(".hive").to_owned();
    let hello = Hello {
        wire_oldest: WIRE_OLDEST,
        wire_newest: WIRE_NEWEST,
        cluster: names.iter().find_map(|name| bare(name).parse().ok()).expect("a cluster is named"),
        node: names.iter().find_map(|name| bare(name).parse().ok()).expect("a node is named"),
        generation: u64::MAX >> 1,
        life: LifeId::new(),
        window_bytes: 1 << 20,
    };
    let payload = rmp_serde::to_vec_named(&hello).unwrap();
    let mut frame = u32::try_from(payload.len() + 1).unwrap().to_be_bytes().to_vec();
    frame.push(HELLO);
    frame.extend(payload);
    frame
}

/// What became of somebody who came with papers and said a proper hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It is linked: the port said hello too.
    LetIn,
    /// Refused, with the frame that says why.
    Refused(String),
    /// Nobody said why, or nobody is there.
    Closed(String),
}

/// Comes as a node does, with a hello that fits the papers.
pub async fn visit(port: SocketAddr, lane: &str, papers: &Papers) -> Visit {
    let closed = |error: std::io::Error| Visit::Closed(error.to_string());
    let mut tls = match connect(port, lane, Some(papers)).await {
        Ok(tls) => tls,
        Err(error) => return closed(error),
    };
    if let Err(error) = tls.write_all(&hello(&papers.names())).await {
        return closed(error);
    }
    let mut frame = Vec::new();
    let read = async {
        let mut header = [0; 5];
        tls.read_exact(&mut header).await?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        frame.resize(length.saturating_sub(1).min(4096), 0);
        tls.read_exact(&mut frame).await?;
        Ok::<_, std::io::Error>(header[4])
    };
    match tokio::time::timeout(LISTEN, read).await {
        Ok(Ok(HELLO)) => Visit::LetIn,
        Ok(Ok(REFUSED)) => match rmp_serde::from_slice::<LinkRefused>(&frame) {
            Ok(why) => Visit::Refused(why.to_string()),
            Err(error) => Visit::Closed(error.to_string()),
        },
        Ok(Ok(kind)) => Visit::Closed(format!("a frame of kind {kind}")),
        Ok(Err(error)) => closed(error),
        Err(_) => Visit::Closed("it was not answered".to_owned()),
    }
}

/// Knocks with these papers and listens; then says `noise`, and listens again.
pub async fn knock(port: SocketAddr, lane: &str, papers: Option<&Papers>, noise: &[u8]) -> Greeting {
    let refused = |error: std::io::Error| Greeting::Refused(error.to_string());
    let mut tls = match connect(port, lane, papers).await {
        Ok(tls) => tls,
        Err(error) => return refused(error),
    };
    if !noise.is_empty()
        && let Err(error) = tls.write_all(noise).await
    {
        return refused(error);
    }
    let mut buffer = [0; 4096];
    match tokio::time::timeout(LISTEN, tls.read(&mut buffer)).await {
        Err(_) => Greeting::Waits,
        Ok(Ok(0)) => Greeting::Refused(String::new()),
        Ok(Ok(bytes)) => Greeting::Spoke(bytes),
        Ok(Err(error)) => refused(error),
    }
}

async fn connect(port: SocketAddr, lane: &str, papers: Option<&Papers>) -> std::io::Result<TlsStream<TcpStream>> {
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match papers {
        Some(papers) => builder.with_client_auth_cert(papers.chain.clone(), papers.key.clone_key()).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![lane.as_bytes().to_vec()];
    let tcp = TcpStream::connect(port).await?;
    let name = ServerName::try_from("nobody.hive").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// Believes any server.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A port that trusts one authority, and says hello to whom it lets in.
    async fn port(ca: CertificateDer<'static>, own: &Papers) -> SocketAddr {
        let mut roots = RootCertStore::empty();
        roots.add(ca).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let builder = builder.with_client_cert_verifier(verifier);
        let mut config = builder.with_single_cert(own.chain.clone(), own.key.clone_key()).unwrap();
        config.alpn_protocols = vec![LANES[0].as_bytes().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                if let Ok(mut tls) = acceptor.accept(tcp).await {
                    let _ = tls.write_all(b"hello").await;
                }
            }
        });
        address
    }

    #[tokio::test]
    async fn good_papers_are_let_in_and_each_kind_of_bad_ones_is_bad_for_its_own_reason() {
        let names = vec!["node_1.hive".to_owned(), "cluster_1.hive".to_owned()];
        let (ca, issuer) = Authority::make("cluster_1");
        let authority = Authority { issuer };
        let own = authority.sign(&names, -1, 1);
        assert_eq!(own.names(), names);
        let port = port(ca, &own).await;
        let with = async |papers: Option<&Papers>, lane: &str| knock(port, lane, papers, b"").await;
        assert_eq!(with(Some(&own), LANES[0]).await, Greeting::Spoke(5));
        let said = async |papers: Option<&Papers>, lane: &str| match with(papers, lane).await {
            Greeting::Refused(why) => why.to_lowercase(),
            greeting => panic!("{greeting:?}"),
        };
        assert!(said(Some(&authority.sign(&names, -2, -1)), LANES[0]).await.contains("expired"));
        assert!(said(Some(&authority.sign(&names, 1, 2)), LANES[0]).await.contains("certificate"));
        let why = said(Some(&Authority::rogue("cluster_1").sign(&names, -1, 1)), LANES[0]).await;
        assert!(why.contains("unknownca") || why.contains("certificate") || why.contains("decrypt"), "{why}");
        assert!(said(None, LANES[0]).await.contains("certificate"));
        assert!(said(Some(&own), "other/1").await.contains("protocol"));
    }
}
