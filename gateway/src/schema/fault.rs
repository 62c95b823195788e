//! Fault injection: administrators only, off unless configured.

use std::time::Duration;

use async_graphql::{Context, Enum, ID, InputObject, Object, SimpleObject};
use hiveward_actors::client::FAULT_POINTS;
use hiveward_runtime::{
    error::Refused,
    fault::{Armed, Fault},
};

use super::{Result, door, op, parse, scalars::DateTime};

#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    Panic,
    Error,
    Delay,
    Hang,
    /// Ends the whole process at once.
    Abort,
}

/// A fault that is armed at a named point of the code.
#[derive(SimpleObject)]
pub struct FaultPoint {
    pub point: String,
    /// Only for this entity.
    pub key: Option<String>,
    pub fault: FaultKind,
    /// How often it strikes before it is spent.
    pub times: u32,
    /// How often it has struck.
    pub struck: u32,
    pub armed_at: DateTime,
}

/// A place of the code where a fault can strike.
#[derive(SimpleObject)]
pub struct FaultPlace {
    /// What `injectFault` takes as its point.
    point: &'static str,
    /// When it is passed.
    about: &'static str,
}

#[derive(InputObject)]
pub struct InjectFaultInput {
    pub operation_id: Option<ID>,
    /// The point's name, such as `actor.handle`.
    pub point: String,
    /// Only for the entity with this key (or the actor with this path).
    pub key: Option<String>,
    pub fault: FaultKind,
    /// For ERROR: what it says.
    pub message: Option<String>,
    /// For DELAY.
    pub delay_ms: Option<i32>,
    #[graphql(default = 1)]
    pub times: i32,
}

#[derive(SimpleObject)]
pub struct InjectFaultPayload {
    pub points: Vec<FaultPoint>,
}

fn points(ctx: &Context<'_>) -> Result<Vec<FaultPoint>> {
    let points = door(ctx)?.faults().into_iter().map(|status| FaultPoint {
        fault: match status.armed.fault {
            Fault::Panic => FaultKind::Panic,
            Fault::Error(_) => FaultKind::Error,
            Fault::Delay(_) => FaultKind::Delay,
            Fault::Hang => FaultKind::Hang,
            Fault::Abort => FaultKind::Abort,
        },
        point: status.armed.point,
        key: status.armed.key,
        times: status.armed.times,
        struck: status.struck,
        armed_at: status.armed_at.into(),
    });
    Ok(points.collect())
}

#[derive(Default)]
pub struct FaultQuery;

#[Object]
impl FaultQuery {
    /// Every place where a fault can be injected; whether that is allowed, a node's configuration says.
    async fn fault_places(&self) -> Vec<FaultPlace> {
        FAULT_POINTS.iter().map(|(point, about)| FaultPlace { point, about }).collect()
    }
    /// The fault points that are armed.
    async fn faults(&self, ctx: &Context<'_>) -> Result<Vec<FaultPoint>> {
        points(ctx)
    }
}

#[derive(Default)]
pub struct FaultMutation;

#[Object]
impl FaultMutation {
    async fn inject_fault(&self, ctx: &Context<'_>, input: InjectFaultInput) -> Result<InjectFaultPayload> {
        let delay = parse::optional_natural("delayMs", input.delay_ms)?;
        let fault = match (input.fault, delay) {
            (FaultKind::Panic, _) => Fault::Panic,
            (FaultKind::Error, _) => Fault::Error(input.message.unwrap_or_else(|| "injected".into())),
            (FaultKind::Delay, Some(ms)) => Fault::Delay(Duration::from_millis(ms)),
            (FaultKind::Delay, None) => return Err(Refused::invalid("delayMs", "a DELAY needs `delayMs`").into()),
            (FaultKind::Hang, _) => Fault::Hang,
            (FaultKind::Abort, _) => Fault::Abort,
        };
        let armed = Armed { point: input.point, key: input.key, fault, times: parse::natural("times", input.times)? };
        door(ctx)?.inject_fault(op(ctx, input.operation_id.as_ref())?, armed).await?;
        Ok(InjectFaultPayload { points: points(ctx)? })
    }
}
