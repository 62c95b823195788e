//! What becomes of a VM when its host is lost.

use std::sync::Arc;

use async_graphql::{Enum, ID, Object};
use hiveward_machines::vm::{
    ha::{ComeBack, HaState},
    record::VmRecord,
};

use super::{
    super::scalars::{BigInt, DateTime},
    placement::VmPlacement,
};

#[derive(Enum, Clone, Copy, Debug, PartialEq, Eq)]
#[graphql(remote = "HaState")]
pub enum VmHaState {
    /// It was not made to come back.
    Off,
    /// It comes back by itself.
    Protected,
    /// It comes back when somebody says that its host is off: nobody else could be sure of that.
    ByWord,
    /// Its host is lost, and is given the time to end it.
    Fencing,
    /// Its host is off; it comes back as soon as another has room.
    Waiting,
    /// Its host is lost or cannot be reached, and may still run it: it is not started elsewhere by itself.
    NeedsWord,
}

pub struct VmHaStatus {
    pub(super) record: Arc<VmRecord>,
    pub(super) known: Option<(HaState, Option<String>, u64)>,
}

#[Object]
impl VmHaStatus {
    async fn state(&self) -> VmHaState {
        self.known.as_ref().map_or(HaState::Off, |(state, ..)| *state).into()
    }
    /// Why, and what to do about it where somebody must.
    async fn reason(&self) -> Option<&str> {
        self.known.as_ref().and_then(|(_, why, _)| why.as_deref())
    }
    /// How often it has come back. What a host has of it from an older epoch is ended there and never started.
    async fn epoch(&self) -> BigInt {
        BigInt(self.known.as_ref().map_or(0, |(.., epoch)| *epoch))
    }
    /// The newest ones, oldest first.
    async fn come_backs(&self) -> Vec<VmComeBack> {
        self.record.come_backs.iter().cloned().map(VmComeBack).collect()
    }
}

pub struct VmComeBack(ComeBack);

/// One coming back on another host.
#[Object]
impl VmComeBack {
    async fn at(&self) -> DateTime {
        self.0.at.into()
    }
    /// The lost host.
    async fn from(&self) -> ID {
        self.0.from.to_string().into()
    }
    async fn to(&self) -> ID {
        self.0.to.to_string().into()
    }
    async fn epoch(&self) -> BigInt {
        BigInt(self.0.epoch)
    }
    /// Why there.
    async fn placement(&self) -> VmPlacement {
        VmPlacement(self.0.decision.clone())
    }
}
