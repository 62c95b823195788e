//! Programs that are known by name.

use async_graphql::{Enum, Object, SimpleObject};
use hiveward_agents::presets;

/// A program that speaks the Agent Client Protocol and is known by name.
#[derive(SimpleObject)]
pub struct CodingPreset {
    name: &'static str,
    title: &'static str,
    argv: Vec<&'static str>,
    /// How it comes onto an agent's host.
    install: &'static str,
    /// It calls models by itself: nothing is metered and no budget holds it.
    own_account: bool,
    /// The version that was tried, and how far; absent if none was.
    seen_version: Option<&'static str>,
    seen_extent: Option<PresetExtent>,
}

/// How far a program was tried.
#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "presets::Extent")]
pub enum PresetExtent {
    /// Whole tasks.
    Tasks,
    /// It began a conversation.
    Conversation,
    /// It began, and wanted to be logged in.
    Handshake,
}

impl From<&presets::Preset> for CodingPreset {
    fn from(preset: &presets::Preset) -> Self {
        Self {
            name: preset.name,
            title: preset.title,
            argv: preset.argv.to_vec(),
            install: preset.install,
            own_account: preset.own_account,
            seen_version: preset.seen.map(|seen| seen.version),
            seen_extent: preset.seen.map(|seen| seen.extent.into()),
        }
    }
}

#[derive(Default)]
pub struct PresetQuery;

#[Object]
impl PresetQuery {
    /// Programs that speak the Agent Client Protocol and are known by name.
    async fn coding_presets(&self) -> Vec<CodingPreset> {
        presets::PRESETS.iter().map(Into::into).collect()
    }
}
