//! `hiveward scripted-model`: a model server that follows a script, in the foreground until interrupted.

use std::{net::SocketAddr, path::PathBuf};

use hiveward_cli::{
    fail::{Failed, Outcome},
    show,
};
use hiveward_gateway::model::scripted::{DEFAULT_SCRIPT, Script, Scripted};

#[derive(clap::Args)]
pub struct ScriptedModelArgs {
    /// Where to listen; a free port if the port is 0
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What it says; a short answer to everything if absent
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

/// Reads the script of a file, or the built-in one.
pub fn script(path: Option<&std::path::Path>) -> Outcome<Script> {
    let next = "mend the script; docs/how_to/configure_models.md has its fields";
    let Some(path) = path else {
        return Script::read("the built-in script", DEFAULT_SCRIPT).map_err(|error| Failed::usage(error.to_string(), next));
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failed::usage(format!("{} cannot be read: {error}", path.display()), next))?;
    Script::read(&path.display().to_string(), &text).map_err(|error| Failed::usage(error.to_string(), next))
}

/// Runs `hiveward scripted-model`, until it is interrupted.
pub async fn run(args: ScriptedModelArgs) -> Outcome {
    let script = script(args.script.as_deref())?;
    let server = Scripted::start(args.listen, script).await.map_err(|error| {
        Failed::usage(format!("cannot listen on {}: {error}", args.listen), "choose another address with --listen")
    })?;
    show::print(&format!("http://{}\n", server.address()))?;
    server.ended().await;
    Ok(())
}
