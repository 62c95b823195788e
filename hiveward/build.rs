//! Has the linker of the release program keep one copy of functions whose code is the same. It builds nothing itself.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |variable: &str, value: &str| env::var(variable).is_ok_and(|set| set == value);
    // This target links with LLD, which can do that, unless somebody chose another linker.
    let chosen =
        env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link")) || env::var("RUSTC_LINKER").is_ok();
    if is("PROFILE", "release") && is("TARGET", "x86_64-unknown-linux-gnu") && !chosen {
        println!("cargo::rustc-link-arg-bins=-Wl,--icf=all");
    }
}
