//! Conformance of GraphQL over HTTP: the `graphql-http` package's own audit suite.

use std::{path::Path, process::Command};

use crate::support::{TOKEN, server};

#[tokio::test(flavor = "multi_thread")]
async fn every_audit_of_the_graphql_http_suite_passes() {
    let server = server(|_| {}).await;
    let url = format!("http://{}/graphql", server.address());
    audit(url).await;
}

async fn audit(url: String) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/graphql-http-audit");
    install(&dir);
    let audit = tokio::task::spawn_blocking(move || {
        Command::new("node").arg("audit.mjs").current_dir(dir).env("GRAPHQL_URL", url).env("HIVEWARD_TOKEN", TOKEN).output()
    });
    let output = audit.await.unwrap().expect("node is needed for this test");
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}

/// Installs the packages that the scripts in `dir` need, once: tests run beside each other, so one installs and the
/// others wait for it.
pub fn install(dir: &Path) {
    let lock = std::fs::File::create(dir.join(".installing")).unwrap();
    lock.lock().unwrap();
    let stamp = dir.join("node_modules/.installed");
    if !stamp.exists() {
        let installed = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(dir)
            .output()
            .expect("npm is needed for this test");
        assert!(installed.status.success(), "npm ci: {}", String::from_utf8_lossy(&installed.stderr));
        std::fs::write(stamp, "").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_audit_passes_against_a_whole_node_too() {
    let node = crate::support::node::TestNode::start().await;
    audit(node.url("/graphql")).await;
    node.stop().await;
}
