//! Every connector, one line each.

use std::sync::Arc;

use hiveward_catalogue::agent::spec::{AgentSpec, ConnectorSpec};

use super::{
    Connector,
    coding::{CodingConnector, Speaks},
    command::CommandConnector,
    env::ConnectorEnv,
    model::ModelConnector,
    noop::NoopConnector,
    worker::WorkerConnector,
};

/// The connector of one life of an agent. Starts nothing yet. What it is described by is shared, not copied: it may be large,
/// and there are many agents.
pub fn build(spec: &Arc<AgentSpec>, env: ConnectorEnv) -> Arc<dyn Connector> {
    match &spec.connector {
        ConnectorSpec::Command => Arc::new(CommandConnector::new(spec.clone(), env)),
        ConnectorSpec::Worker { .. } => Arc::new(WorkerConnector::new(spec.clone(), env)),
        ConnectorSpec::ClaudeCode(coding) => Arc::new(CodingConnector::new(spec.clone(), env, coding.clone(), Speaks::Claude)),
        ConnectorSpec::Acp(coding) => Arc::new(CodingConnector::new(spec.clone(), env, coding.clone(), Speaks::Acp)),
        ConnectorSpec::Model(model) => Arc::new(ModelConnector::new(spec.clone(), env, model.clone())),
        ConnectorSpec::Noop => Arc::new(NoopConnector::new(env.reports)),
    }
}
