//! Removes the branches that an agent's attempts left in its repository.

use hiveward_catalogue::agent::{coding::WorkspaceSpec, spec::ConnectorSpec};
use hiveward_runtime::{
    call::Reply,
    error::{Code, Refused},
    supervise::Context,
};

use super::{
    actor::Agent,
    message::AgentMsg,
    workspace::branches::{self, Cleaned},
};

impl Agent {
    /// Removes branches that the agent's attempts left, and answers. Git may take a while; what the agent runs goes on meanwhile.
    pub(super) fn clean(&self, ctx: &Context<AgentMsg>, force: bool, dry_run: bool, reply: Reply<Result<Cleaned, Refused>>) {
        let tree = match &self.spec.connector {
            ConnectorSpec::ClaudeCode(spec) | ConnectorSpec::Acp(spec) => match &spec.workspace {
                WorkspaceSpec::Worktree(tree) => Some(tree.clone()),
                WorkspaceSpec::Scratch | WorkspaceSpec::Directory { .. } => None,
            },
            _ => None,
        };
        let Some(tree) = tree else {
            let message = format!("{} does not work in a git worktree; there is nothing to clean", self.spec.id);
            return reply.answer(Err(Refused::new(Code::Refused, message)));
        };
        ctx.task(async move {
            let cleaned = branches::clean(&tree.repository, tree.base.as_deref(), force, dry_run).await;
            reply.answer(cleaned.map_err(|why| {
                Refused::new(Code::Unavailable, format!("{why}; branches may have been removed before that; try again"))
            }));
        });
    }
}
