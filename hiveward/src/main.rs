//! The binary: a node, its command line, the shim that holds one agent process, what brings such a process
//! into a guest, and the keeper that ends a lost node's VMs.

mod command;
mod config;
mod run;
mod scripted_model;

use std::process::ExitCode;

fn main() -> ExitCode {
    // This comes before anything else: a shim must stay small and start no runtime.
    if std::env::args_os().nth(1).is_some_and(|first| first == "shim") {
        return hiveward_agents::session::shim::main();
    }
    // So does this: the keeper must outlive whatever becomes of a node.
    if std::env::args_os().nth(1).is_some_and(|first| first == "fence") {
        return hiveward_machines::host::fence::keeper::main();
    }
    // So does this: there is one for each program that runs in a guest.
    if std::env::args_os().nth(1).is_some_and(|first| first == hiveward_machines::guest::session::Given::NAME) {
        return hiveward_machines::guest::session::main();
    }
    command::main()
}
