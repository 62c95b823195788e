//! Has the crate built again when the embedded pages were built or removed. It builds nothing itself.

fn main() {
    println!("cargo::rerun-if-changed=../dashboard/dist");
}
