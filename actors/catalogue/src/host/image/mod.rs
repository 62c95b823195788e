//! Images as they are declared, and what is read of one's first bytes.

pub mod header;
mod spec;

pub use header::Format;
pub use spec::ImageSpec;
