//! The binary: a node, its command line, and the shim that holds one agent process.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a shim must stay small and start no runtime.
    if std::env::args_os().nth(1).is_some_and(|first| first == "shim") {
        return hiveward_actors::agent::session::shim::main();
    }
    hiveward_gateway::cli::main()
}
