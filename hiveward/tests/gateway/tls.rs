//! The gateway speaks TLS with the certificate that it is given, and nothing else on the network.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hiveward_gateway::{
    serve::{HttpConfig, ServeError, Server},
    tls::TlsConfig,
};

use crate::support::{config, gateway, soon};

/// A certificate for this machine, with its key, in files.
struct Pair {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

fn pair() -> Pair {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    Pair { certificate: params.self_signed(&key).unwrap(), key }
}

impl Pair {
    fn write(&self, dir: &Path) -> TlsConfig {
        let (cert, key): (PathBuf, PathBuf) = (dir.join("tls.crt"), dir.join("tls.key"));
        std::fs::write(&key, self.key.serialize_pem()).unwrap();
        std::fs::write(&cert, self.certificate.pem()).unwrap();
        TlsConfig { cert_file: Some(cert), key_file: Some(key), client_ca_file: None }
    }

    /// A client that trusts this certificate and no other.
    fn client(&self, http1: bool) -> reqwest::Client {
        let root = reqwest::Certificate::from_der(self.certificate.der()).unwrap();
        let client = reqwest::Client::builder().tls_certs_only([root]).pool_max_idle_per_host(0);
        if http1 { client.http1_only().build().unwrap() } else { client.build().unwrap() }
    }
}

async fn asked(client: &reqwest::Client, server: &Server) -> Result<reqwest::Response, reqwest::Error> {
    let url = format!("https://{}/healthz", server.address());
    soon("an answer", client.get(url).send()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_it_speaks_tls_in_both_versions_of_http_and_shows_a_new_one_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (pair(), pair());
    let tls = old.write(dir.path());
    let server = Server::start_with(gateway(config()), true, tls).await.unwrap();
    let answered = asked(&old.client(true), &server).await.unwrap();
    assert_eq!((answered.status().as_u16(), answered.version()), (200, reqwest::Version::HTTP_11));
    let answered = asked(&old.client(false), &server).await.unwrap();
    assert_eq!((answered.status().as_u16(), answered.version()), (200, reqwest::Version::HTTP_2));
    assert!(asked(&new.client(true), &server).await.is_err(), "another certificate is not trusted");
    // Plain HTTP is not spoken on that port.
    let plain = reqwest::Client::new().get(format!("http://{}/healthz", server.address())).send();
    assert!(soon("the end of it", plain).await.is_err());

    new.write(dir.path());
    soon("the new certificate", async {
        while asked(&new.client(true), &server).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(asked(&old.client(true), &server).await.is_err());
    // What cannot be used changes nothing.
    std::fs::write(dir.path().join("tls.crt"), "no certificate").unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(asked(&new.client(true), &server).await.is_ok());
    server.stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_listen_on_the_network_without_tls_unless_it_is_told_to() {
    let everywhere = HttpConfig { listen: "0.0.0.0:0".parse().unwrap(), ..config() };
    let refused = Server::start(gateway(everywhere.clone()), true).await.err().unwrap();
    assert!(matches!(refused, ServeError::Insecure { .. }) && refused.to_string().contains("insecure: true"), "{refused}");
    let told = HttpConfig { insecure: true, ..everywhere.clone() };
    Server::start(gateway(told), true).await.unwrap().stop(Duration::from_secs(5)).await;
    let dir = tempfile::tempdir().unwrap();
    let tls = pair().write(dir.path());
    Server::start_with(gateway(everywhere), true, tls).await.unwrap().stop(Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_certificate_is_said_with_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let tls = pair().write(dir.path());
    let start = async |tls: TlsConfig| Server::start_with(gateway(config()), true, tls).await.err().unwrap().to_string();
    let half = TlsConfig { key_file: None, ..tls.clone() };
    assert!(start(half).await.contains("both"));
    let nowhere = TlsConfig { cert_file: Some("/nowhere".into()), ..tls.clone() };
    assert!(start(nowhere).await.contains("tls.cert_file: /nowhere"));
    let authority = TlsConfig { client_ca_file: tls.key_file.clone(), ..tls.clone() };
    assert!(start(authority).await.contains("tls.client_ca_file"));
    std::fs::write(tls.key_file.as_ref().unwrap(), pair().key.serialize_pem()).unwrap();
    assert!(start(tls).await.contains("do not belong together"));
}
