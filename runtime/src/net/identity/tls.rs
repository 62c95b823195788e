//! TLS as our links use it: version 1.3 only, one provider, certificates read at each handshake, nothing resumed.

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use super::{Fingerprint, Identity, IdentityError, NodeCertificate, certificate::names};
use crate::net::ClusterId;

/// Returns the one provider of the whole tree. It is named at each use, because whoever comes first would decide a process-wide
/// default.
pub(crate) fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // Between our own nodes the shorter key first: as safe for what a session carries, and a third less work.
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    &PROVIDER
}

/// A resolver that hands out the present certificate, so that a renewed one is used from the next handshake on.
#[derive(Debug)]
struct Present(Identity);

impl ResolvesServerCert for Present {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified())
    }
}

impl ResolvesClientCert for Present {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(IdentityError::crypto)?;
    Ok(Arc::new(roots))
}

/// Makes the configuration for lanes on which both sides are nodes of this cluster.
pub(crate) fn member_server_config(identity: &Identity, protocols: Vec<Vec<u8>>) -> Result<ServerConfig, IdentityError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity.ca())?, provider().clone())
        .build()
        .map_err(IdentityError::crypto)?;
    server_config(identity, Some(verifier), protocols)
}

/// Makes the configuration for the one lane on which the client has no certificate yet.
pub(crate) fn join_server_config(identity: &Identity, protocols: Vec<Vec<u8>>) -> Result<ServerConfig, IdentityError> {
    server_config(identity, None, protocols)
}

fn server_config(
    identity: &Identity,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    protocols: Vec<Vec<u8>>,
) -> Result<ServerConfig, IdentityError> {
    let builder = ServerConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(IdentityError::crypto)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Present(identity.clone())));
    config.alpn_protocols = protocols;
    // A resumed session would skip the certificate, and with it expiry and the book's word.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

pub(crate) fn client_config(identity: &Identity, protocol: Vec<u8>) -> Result<ClientConfig, IdentityError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(identity.ca())?, provider().clone())
        .build()
        .map_err(IdentityError::crypto)?;
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(IdentityError::crypto)?
        .with_webpki_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Present(identity.clone())));
    config.alpn_protocols = vec![protocol];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A verifier that trusts whoever holds a certificate of the authority that the token names, and nobody else.
#[derive(Debug)]
pub(crate) struct JoinPin {
    pub(crate) cluster: ClusterId,
    pub(crate) authority: Fingerprint,
}

impl ServerCertVerifier for JoinPin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::CertificateError::{ApplicationVerificationFailure, BadEncoding, UnknownIssuer};
        let ca = intermediates.iter().find(|ca| Fingerprint::of(ca) == self.authority).ok_or(UnknownIssuer)?;
        let facts = NodeCertificate::read(end_entity).map_err(|_| BadEncoding)?;
        if facts.cluster != self.cluster {
            return Err(ApplicationVerificationFailure.into());
        }
        let unusable = |_| rustls::Error::from(UnknownIssuer);
        let roots = roots(&ca.clone().into_owned()).map_err(unusable)?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider().clone())
            .build()
            .map_err(|_| rustls::Error::from(UnknownIssuer))?;
        // The joiner cannot know the name of whom it dials: the name checked is the one in the certificate.
        let [name, _] = names(facts.node, facts.cluster);
        let name = ServerName::try_from(name).map_err(|_| rustls::Error::from(BadEncoding))?;
        verifier.verify_server_cert(end_entity, &[], &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}

pub(crate) fn join_client_config(pin: JoinPin, protocol: Vec<u8>) -> Result<ClientConfig, IdentityError> {
    let mut config = ClientConfig::builder_with_provider(provider().clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(IdentityError::crypto)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol];
    config.resumption = Resumption::disabled();
    Ok(config)
}
