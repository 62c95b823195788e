//! The facts in a node's certificate, and when to renew it.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{IdentityError, KeyPin};
use crate::{clock::WallMs, net::ClusterId, op::NodeId};

/// The ending of every name in our certificates; no public name ends so.
const SUFFIX: &str = ".hive";

/// The facts of one node certificate. Parsed, not verified: the handshake does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    pub node: NodeId,
    pub cluster: ClusterId,
    pub serial: u128,
    pub key: KeyPin,
    pub not_before: WallMs,
    pub not_after: WallMs,
}

impl NodeCertificate {
    /// Reads the facts from a certificate in DER. Errors: `NotANode` if it is none of ours.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let not_ours = |why| IdentityError::NotANode { why };
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| not_ours("it is no X.509 certificate"))?;
        let names = parsed.subject_alternative_name().ok().flatten().ok_or(not_ours("it has no names"))?;
        let (mut node, mut cluster) = (None, None);
        for name in &names.value.general_names {
            let GeneralName::DNSName(name) = name else { continue };
            let Some(name) = name.strip_suffix(SUFFIX) else { continue };
            node = node.or(name.parse::<NodeId>().ok());
            cluster = cluster.or(name.parse::<ClusterId>().ok());
        }
        let serial = parsed.raw_serial();
        if serial.len() > 16 {
            return Err(not_ours("its serial number is too long"));
        }
        let seconds = |time: x509_parser::time::ASN1Time| WallMs(time.timestamp().saturating_mul(1000));
        Ok(Self {
            node: node.ok_or(not_ours("it names no node"))?,
            cluster: cluster.ok_or(not_ours("it names no cluster"))?,
            serial: serial.iter().fold(0, |number, byte| (number << 8) | u128::from(*byte)),
            key: KeyPin::of(parsed.public_key().raw),
            not_before: seconds(parsed.validity().not_before),
            not_after: seconds(parsed.validity().not_after),
        })
    }

    /// Returns the time from which the certificate is due for renewal.
    pub fn renew_at(&self) -> WallMs {
        renew_at(self.not_before, self.not_after)
    }
}

/// Returns the name of `node` that a dialler asks for.
pub(crate) fn node_name(node: NodeId) -> String {
    format!("{node}{SUFFIX}")
}

/// Returns the names in the certificate of `node`; the first is the one a dialler asks for.
pub(crate) fn names(node: NodeId, cluster: ClusterId) -> [String; 2] {
    [node_name(node), format!("{cluster}{SUFFIX}")]
}

/// Returns the cluster that an authority's certificate names.
pub(super) fn cluster_of(ca: &CertificateDer<'_>) -> Result<ClusterId, IdentityError> {
    let not_ours = |why| IdentityError::NotANode { why };
    let (_, parsed) = X509Certificate::from_der(ca).map_err(|_| not_ours("the authority is no X.509 certificate"))?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.and_then(|name| name.parse().ok()).ok_or(not_ours("the authority names no cluster"))
}

/// Returns the time at two thirds of a certificate's life: the last third is what is left to find out that renewing fails.
pub fn renew_at(not_before: WallMs, not_after: WallMs) -> WallMs {
    not_before.plus(not_after.since(not_before) / 3 * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_two_thirds_into_its_life() {
        assert_eq!(renew_at(WallMs(0), WallMs(90_000)), WallMs(60_000));
        assert_eq!(renew_at(WallMs(9), WallMs(3)), WallMs(9));
        assert!(renew_at(WallMs(0), WallMs(i64::MAX)) < WallMs(i64::MAX));
    }
}
