//! The model gateway's listener: on loopback, started before the node and stopped after it.
//!
//! Agents outlive the node with its address in their environment: a port that was taken once is kept in the data
//! directory and taken again.

use std::{
    io,
    net::SocketAddr,
    path::{Path as FsPath, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hiveward_models::{Models, PassKey, meter::RateLimit};
use hiveward_runtime::file::replace;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    api::Api,
    call::{Caller, Path},
    config::ModelsSection,
    upstream::Providers,
};
use crate::accept::{Accepting, accept};

const PORT_FILE: &str = "model.port";
const CONNECTIONS_MAX: usize = 4_096;
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection that takes nothing is held: an agent may be frozen and thawed again.
const STALL_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum ModelGatewayError {
    #[error("models.listen: cannot listen on {listen}; another process may use it")]
    Bind {
        listen: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the model gateway's files in {} cannot be used", dir.display())]
    Files {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the client for providers of models cannot be made")]
    Client(#[source] reqwest::Error),
}

/// A model gateway that listens. Dropping it cuts what is open.
pub struct ModelGateway {
    address: SocketAddr,
    data_dir: PathBuf,
    models: Models,
    accepting: JoinHandle<()>,
    connections: TaskTracker,
    closing: CancellationToken,
    cut: CancellationToken,
}

impl ModelGateway {
    /// Binds and serves. The data directory must exist.
    pub async fn start(section: &ModelsSection, data_dir: &FsPath) -> Result<Self, ModelGatewayError> {
        let files = |source| ModelGatewayError::Files { dir: data_dir.to_owned(), source };
        let key = PassKey::of_dir(data_dir).map_err(files)?;
        let (listener, address) = bind(section.listen, data_dir).await?;
        let prices = section.prices().map_err(|problem| files(io::Error::new(io::ErrorKind::InvalidInput, problem)))?;
        let models = Models::new(key, format!("http://{address}"), section.providers.keys().cloned().collect(), prices);
        for (name, provider) in &section.providers {
            let limit = RateLimit { requests: provider.requests_per_minute, tokens: provider.tokens_per_minute };
            models.set_rate(name, limit);
        }
        let providers = Providers::new(section, data_dir.join("secrets")).map_err(ModelGatewayError::Client)?;
        let caller = Caller::new(models.clone(), providers, section.first_byte_timeout(), section.idle_timeout());
        let (closing, cut, connections) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let limits = Accepting {
            connections_max: CONNECTIONS_MAX,
            // They are all agents of this machine.
            per_address_max: CONNECTIONS_MAX,
            read_timeout: READ_TIMEOUT,
            stall: STALL_TIMEOUT,
            gauge: "hiveward_model_connections",
            tls: None,
        };
        let serving = accept(listener, router(Arc::new(caller)), limits, connections.clone(), closing.clone(), cut.clone());
        let accepting = tokio::spawn(serving);
        tracing::info!(%address, "models can be called");
        Ok(Self { address, data_dir: data_dir.to_owned(), models, accepting, connections, closing, cut })
    }

    /// Returns the address on which it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the access to models that agents of this node are given.
    pub fn models(&self) -> Models {
        self.models.clone()
    }

    /// Keeps the port for the next start to take. Call it once the data directory is known to be this node's alone.
    pub fn keep_port(&self) -> Result<(), ModelGatewayError> {
        let port = self.address.port().to_string();
        replace(&self.data_dir.join(PORT_FILE), port.as_bytes())
            .map_err(|source| ModelGatewayError::Files { dir: self.data_dir.clone(), source })
    }

    /// Takes no new call, lets answers finish for up to `grace`, then cuts them.
    pub async fn stop(mut self, grace: Duration) {
        self.closing.cancel();
        self.connections.close();
        // The listener goes with its task, and the port is free for the next start.
        if let Err(error) = (&mut self.accepting).await {
            tracing::warn!(%error, "the model gateway's listener ended badly");
        }
        if tokio::time::timeout(grace, self.connections.wait()).await.is_err() {
            self.cut.cancel();
            self.connections.wait().await;
        }
    }
}

impl Drop for ModelGateway {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut.cancel();
    }
}

async fn bind(listen: SocketAddr, data_dir: &FsPath) -> Result<(TcpListener, SocketAddr), ModelGatewayError> {
    let kept = || std::fs::read_to_string(data_dir.join(PORT_FILE)).ok()?.trim().parse::<u16>().ok();
    let again = SocketAddr::new(listen.ip(), if listen.port() == 0 { kept().unwrap_or(0) } else { listen.port() });
    let bound = match TcpListener::bind(again).await {
        Err(error) if again.port() != listen.port() => {
            tracing::warn!(%error, %again, "another process has the port of this node's models; agents that still run lose them");
            TcpListener::bind(listen).await
        }
        bound => bound,
    };
    bound
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)))
        .map_err(|source| ModelGatewayError::Bind { listen, source })
}

fn router(caller: Arc<Caller>) -> Router {
    let route = |path: Path| {
        post(move |State(caller): State<Arc<Caller>>, request: Request| async move { caller.answer(path, request).await })
    };
    Router::new()
        .route("/anthropic/v1/messages", route(Path::Messages))
        .route("/anthropic/v1/messages/count_tokens", route(Path::CountTokens))
        .route("/openai/v1/chat/completions", route(Path::ChatCompletions))
        .route("/healthz", get(async || "ok\n"))
        .fallback(not_found)
        .layer(DefaultBodyLimit::disable())
        .with_state(caller)
}

async fn not_found(request: Request) -> Response {
    let api = if request.uri().path().starts_with("/openai") { Api::OpenAi } else { Api::Anthropic };
    api.refusal(404, "served are /anthropic/v1/messages, /anthropic/v1/messages/count_tokens and /openai/v1/chat/completions")
        .into_response()
}
