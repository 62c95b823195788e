//! The cluster's certificate authority: one self-signed certificate and its key.

use std::{fmt, path::Path, str::FromStr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use time::OffsetDateTime;

use super::{IdentityError, NodeKey, certificate::names};
use crate::{clock::WallMs, net::ClusterId, op::NodeId};

/// The life of the authority, which outlives every host it is made on; replacing it means a new cluster.
const AUTHORITY_LIFE: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// The most by which hosts' clocks may differ: a fresh certificate is valid on one that is late by this much.
const CLOCKS_APART_MAX: Duration = Duration::from_secs(3600);

/// BLAKE3 of the authority's certificate. Printed as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// Returns the fingerprint of an authority's certificate in DER.
    pub fn of(der: &CertificateDer<'_>) -> Self {
        Self(*blake3::hash(der).as_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| ())
    }
}

/// The signer of node certificates. Few nodes hold it; everyone else knows only its certificate.
pub struct Authority {
    cluster: ClusterId,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority with a fresh key, valid from `now`, for a cluster that is founded.
    pub fn create(cluster: ClusterId, now: WallMs) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(IdentityError::crypto)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, cluster.to_string());
        // A path of zero: what this authority signs can sign nothing.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        (params.not_before, params.not_after) = validity(now, AUTHORITY_LIFE)?;
        let made = params.self_signed(&key).map_err(IdentityError::crypto)?;
        Ok(Self { cluster, certificate: made.der().clone(), certificate_pem: made.pem(), issuer: Issuer::new(params, key) })
    }

    pub(super) fn open(
        cluster: ClusterId,
        certificate: CertificateDer<'static>,
        certificate_pem: String,
        key_pem: &str,
        path: &Path,
    ) -> Result<Self, IdentityError> {
        let damaged = |why: rcgen::Error| IdentityError::Damaged { path: path.to_owned(), why: why.to_string() };
        let key = KeyPair::from_pem(key_pem).map_err(damaged)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(damaged)?;
        Ok(Self { cluster, certificate, certificate_pem, issuer })
    }

    /// Returns the cluster that this authority signs for.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Returns the fingerprint of the authority's certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Returns the authority's own certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the authority's own certificate in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Returns the secret key in PEM, to be kept or given to another holder. It is never logged.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Signs a certificate for `node` and the key that `request` (a CSR in DER) proves; it is valid for `life` from now.
    ///
    /// Only the key is taken from the request. The names are the caller's decision: a request cannot name itself another.
    pub fn sign(
        &self,
        request: &[u8],
        node: NodeId,
        now: WallMs,
        life: Duration,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let bad = |error: rcgen::Error| IdentityError::BadRequest { why: error.to_string() };
        let mut request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).map_err(bad)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        for name in names(node, self.cluster) {
            params.subject_alt_names.push(SanType::DnsName(name.try_into().map_err(bad)?));
        }
        params.serial_number = Some(SerialNumber::from_slice(&crate::id::new_v7().to_be_bytes()));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every node dials and listens.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.is_ca = IsCa::ExplicitNoCa;
        (params.not_before, params.not_after) = validity(now, life)?;
        request.params = params;
        let signed = request.signed_by(&self.issuer).map_err(IdentityError::crypto)?;
        Ok(signed.der().clone())
    }

    /// Signs a certificate as [`Self::sign`] does, for a key that was made here.
    pub fn sign_key(
        &self,
        key: &NodeKey,
        node: NodeId,
        now: WallMs,
        life: Duration,
    ) -> Result<CertificateDer<'static>, IdentityError> {
        self.sign(&key.request()?, node, now, life)
    }
}

fn validity(now: WallMs, life: Duration) -> Result<(OffsetDateTime, OffsetDateTime), IdentityError> {
    let at = |wall: WallMs| OffsetDateTime::from_unix_timestamp(wall.0.div_euclid(1000)).map_err(IdentityError::crypto);
    let early = i64::try_from(CLOCKS_APART_MAX.as_millis()).unwrap_or(i64::MAX);
    Ok((at(WallMs(now.0.saturating_sub(early)))?, at(now.plus(life))?))
}
