//! A program for tests of this crate that does two things only: it holds sessions, and it ends VMs in time. The product's own
//! binary calls the same functions.

fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(hiveward_machines::guest::session::Given::NAME) => hiveward_machines::guest::session::main(),
        Some("fence") => hiveward_machines::host::fence::keeper::main(),
        _ => hiveward_agents::session::shim::main(),
    }
}
