//! The shim alone, for tests of this crate: the product's own binary calls the same function as `hiveward shim`.

fn main() -> std::process::ExitCode {
    hiveward_actors::agent::session::shim::main()
}
