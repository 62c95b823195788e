//! Files that attempts left.

use async_graphql::{Context, Object, SimpleObject};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hiveward_runtime::error::Refused;
use hiveward_work::task;

use super::{Result, door, parse, scalars::BigInt};

/// A file that an attempt left.
pub struct Artifact(task::Artifact);

impl From<&task::Artifact> for Artifact {
    fn from(artifact: &task::Artifact) -> Self {
        Self(artifact.clone())
    }
}

#[Object]
impl Artifact {
    async fn name(&self) -> &str {
        &self.0.name
    }
    /// BLAKE3, in hexadecimal.
    async fn hash(&self) -> String {
        self.0.hash.to_string()
    }
    async fn bytes(&self) -> BigInt {
        BigInt(self.0.bytes)
    }
    /// A piece of it; go on from `nextByte` until `atEnd`. It may have to come from another node first.
    async fn content(
        &self,
        ctx: &Context<'_>,
        #[graphql(default_with = "BigInt(0)")] from_byte: BigInt,
        #[graphql(default_with = "ARTIFACT_PIECE_BYTES")] bytes_max: i32,
    ) -> Result<ArtifactPiece> {
        let max = parse::natural("bytesMax", bytes_max)?;
        if max == 0 || max > ARTIFACT_PIECE_BYTES as u64 {
            return Err(Refused::invalid("bytesMax", format!("1 to {ARTIFACT_PIECE_BYTES}")).into());
        }
        let (total, bytes) = door(ctx)?.blob_piece(&self.0.hash, from_byte.0, max).await?;
        let next = from_byte.0 + bytes.len() as u64;
        Ok(ArtifactPiece { base64: BASE64.encode(&bytes), next_byte: BigInt(next), at_end: next >= total })
    }
}

/// Bytes of an artifact in one answer, at most.
const ARTIFACT_PIECE_BYTES: i32 = 256 << 10;

#[derive(SimpleObject)]
pub struct ArtifactPiece {
    base64: String,
    /// What the next piece begins from.
    next_byte: BigInt,
    at_end: bool,
}
