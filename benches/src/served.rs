//! A node's gateway on loopback, as clients of a bench reach it.

use std::{net::SocketAddr, sync::Arc};

use hiveward_actors::client::ControlPlane;
use hiveward_gateway::{
    auth::Auth,
    probe::Probe,
    schema,
    serve::{Gateway, HttpConfig, Server},
};

/// Of whoever asks.
pub const TOKEN: &str = "bench-token";

struct AlwaysReady;

impl Probe for AlwaysReady {
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn metrics(&self) -> String {
        String::new()
    }
}

pub async fn serve(control: ControlPlane) -> anyhow::Result<Server> {
    let auth = Auth::new([("bench".to_owned(), Auth::digest(TOKEN), hiveward_access::role::Role::Admin)]);
    let config = HttpConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..HttpConfig::default() };
    let gateway = Gateway::new(schema::engine(control), auth, config, Arc::new(AlwaysReady))?;
    Ok(Server::start(gateway, true).await?)
}
