//! Holds images as they are declared, and reads the first bytes of one.

pub mod header;
mod spec;

pub use header::Format;
pub use spec::ImageSpec;
