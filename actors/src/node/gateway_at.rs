//! Where browsers reach a node's gateway.

/// The place where browsers reach a node's gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayAt {
    /// An origin, such as `https://hive.example`.
    Url(String),
    /// The port of a gateway that speaks plain HTTP, on the host where peers reach the node.
    Port(u16),
}

impl GatewayAt {
    /// Returns the address; `None` where the node has none itself.
    pub(super) fn url(&self, cluster_address: &str) -> Option<String> {
        match self {
            Self::Url(url) => Some(url.clone()),
            Self::Port(port) => cluster_address.rsplit_once(':').map(|(host, _)| format!("http://{host}:{port}")),
        }
    }
}
