//! What holds sessions, alone, for tests of this crate: the product's own binary calls the same functions.

fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).is_some_and(|first| first == hiveward_actors::guest::session::Given::NAME) {
        return hiveward_actors::guest::session::main();
    }
    hiveward_actors::agent::session::shim::main()
}
