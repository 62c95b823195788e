//! What holds sessions, and what ends VMs in time, alone, for tests of this crate: the product's own binary calls the same
//! functions.

fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some(hiveward_actors::guest::session::Given::NAME) => hiveward_actors::guest::session::main(),
        Some("fence") => hiveward_actors::host::fence::keeper::main(),
        _ => hiveward_actors::agent::session::shim::main(),
    }
}
